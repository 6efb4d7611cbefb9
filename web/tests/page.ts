import { test as base } from "@playwright/test";

/** A page that may not say an error: a refused request may be one that is asked for. */
export const test = base.extend<{ refused: number[] }>({
  refused: [[], { option: true }],
  page: async ({ page, refused }, use) => {
    const said: string[] = [];
    page.on("console", (message) => {
      const expected = refused.some((status) => message.text().includes(`status of ${status}`));
      if (message.type() === "error" && !expected) said.push(message.text());
    });
    page.on("pageerror", (error) => said.push(error.message));
    page.on("dialog", (dialog) => {
      said.push(`dialog: ${dialog.message()}`);
      void dialog.dismiss();
    });
    await use(page);
    if (said.length) throw new Error(`The page said: ${said.join("; ")}`);
  },
});

export { expect } from "@playwright/test";
