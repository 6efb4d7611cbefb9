import type { Page } from "@playwright/test";
import { expect, test } from "./page";

const TEXT = 'Tim saw a big dog. Tim said, "I like it."';
const HOSTILE = "<script>alert(1)</script> <img src=x onerror=alert(2)>\n\u202eright to left שלום";
const at = (path: string, values: Record<string, string>) => `${path}?${new URLSearchParams(values)}`;
const tokens = (page: Page) => page.getByRole("listbox", { name: "Tokens of the prompt" });

test("a text is run, and each position looked at", async ({ page }) => {
  await page.goto("/prompt");
  await page.getByLabel("Prompt", { exact: true }).fill(TEXT);
  await page.getByRole("button", { name: "Run" }).click();
  await expect(page).toHaveURL(/text=Tim\+saw/);
  await expect(tokens(page)).toContainText("big dog");
  const dog = tokens(page).getByRole("option", { name: /dog/ });
  await dog.click();
  await expect(dog).toHaveAttribute("aria-selected", "true");
  const position = (await dog.getAttribute("aria-label"))!.split(":")[0]!;
  await expect(page.getByRole("heading", { name: `Position ${position}` })).toBeVisible();
  await expect(page).toHaveURL(new RegExp(`position=${position}\\b`));
  await page.keyboard.press("ArrowRight");
  await expect(page.getByRole("heading", { name: `Position ${+position + 1}` })).toBeVisible();
  await expect(page.getByRole("img", { name: /^Next tokens: / })).toBeVisible();
  await expect(page.getByRole("img", { name: /^Logit attribution of components: .*\d/ })).toBeVisible();
  await expect(page.getByRole("group", { name: /^Logit attribution of directions: .*\d/ })).toBeVisible();
  for (const sae of ["sae-l0", "sae-l1"]) {
    await expect(
      page
        .getByRole("region", { name: `active-${sae}-${+position + 1}` })
        .locator("tbody tr")
        .first(),
    ).toBeVisible();
  }
});

test("tokens are shaded by a direction that fires", async ({ page }) => {
  await page.goto(at("/prompt", { text: TEXT }));
  await expect(tokens(page)).toBeVisible();
  const direction = await page
    .getByRole("region", { name: /^active-sae-l1/ })
    .locator("tbody a")
    .first()
    .textContent();
  const field = page.getByLabel("Shade by a direction");
  await field.fill(`sae-l1/${direction}`);
  await field.press("Enter");
  await expect(page.getByText(`shaded by the activation of sae-l1/${direction}`)).toBeVisible();
  await expect(tokens(page).locator("[data-hint]").first()).toHaveAttribute("style", /--a/);
  await field.fill("sae-l9/1");
  await field.press("Enter");
  await expect(page.getByText("No direction is spelled sae-l9/1.")).toBeVisible();
});

test("a head's pattern follows the token that is pointed at", async ({ page }) => {
  await page.goto(at("/prompt", { text: TEXT, head: "1", position: "5" }));
  const list = page.getByRole("listbox", { name: "Attention of L0H1" });
  const option = list.getByRole("option").nth(3);
  await option.hover();
  await expect(list.getByRole("option").nth(4)).toHaveClass(/later/);
  const parts = await list
    .getByRole("option")
    .evaluateAll((all) => all.map((one) => parseFloat(one.getAttribute("data-hint")!.split(/\s/).at(-2)!)));
  expect(parts.slice(0, 4).reduce((sum, part) => sum + part, 0)).toBeGreaterThan(98);
  expect(parts.slice(4).every((part) => part === 0)).toBe(true);
  await expect(page.locator("svg.heat image")).toHaveAttribute("href", /^data:image\/png/);
  await page.getByRole("combobox", { name: "Head", exact: true }).selectOption("2");
  await expect(page.getByRole("listbox", { name: "Attention of L0H2" })).toBeVisible();
});

test("a head's mean over prompts is drawn", async ({ page }) => {
  await page.goto(at("/prompt", { text: TEXT, over: "corpus" }));
  await expect(page.getByText("to the one before")).toBeVisible({ timeout: 20_000 });
  await expect(page.getByRole("region", { name: "Mean attention by distance" }).locator("svg").first()).toBeVisible({
    timeout: 20_000,
  });
});

test("a prompt of the corpus is opened from an example", async ({ page }) => {
  await page.goto("/?sae=sae-l0&direction=429");
  await page.locator(".panel .prompt").first().getByRole("link", { name: "Open" }).click();
  await expect(page).toHaveURL(/\/prompt\?.*prompt=\d+/);
  await expect(tokens(page).locator("[aria-selected=true]")).toHaveAttribute("data-hint", /\d/);
  await page.goBack();
  await expect(page.locator(".panel h2")).toHaveText("sae-l0/429");
});

test("a hostile text stays a text", async ({ page }) => {
  for (const path of ["/prompt", "/intervene"]) {
    await page.goto(at(path, { text: HOSTILE, change: "sae-l1/429*0" }));
    const list = page.getByRole("listbox").first();
    await expect(list).toContainText("<script>alert(1)</script>");
    await expect(list).toContainText("\\u{202e}");
    await expect(list.locator("script, img")).toHaveCount(0);
  }
  await page.goto(at("/search", { find: "<script>alert(1)</script>" }));
  await expect(page.getByText("The corpus does not hold it.")).toBeVisible();
});

test.describe("refused", () => {
  test.use({ refused: [400] });
  test("what cannot be run is told in the server's words", async ({ page }) => {
    await page.goto(at("/prompt", { text: "a ".repeat(3000) }));
    await expect(page.getByRole("alert").first()).toContainText(/\w+ \w+/);
  });
});
