import type { Page } from "@playwright/test";
import { expect, test } from "./page";

/** The server's own answer, changed. */
async function changed(page: Page, path: string, change: (answer: Record<string, unknown>) => void) {
  await page.route(path, async (route) => {
    const response = await route.fetch();
    const answer = (await response.json()) as Record<string, unknown>;
    change(answer);
    await route.fulfill({ response, json: answer });
  });
}

test("studies lead to their report and files", async ({ page }) => {
  await page.route("**/api/studies", (route) =>
    route.fulfill({
      json: [
        {
          name: "one",
          title: "<b>One</b> study",
          report: "/studies/one/report.html",
          tables: ["/studies/one/tables/effects.csv"],
          figures: [],
        },
      ],
    }),
  );
  await page.goto("/studies");
  await expect(page.getByRole("link", { name: "<b>One</b> study" })).toHaveAttribute("href", "/studies/one/report.html");
  await page.getByText("Tables").click();
  await expect(page.getByRole("link", { name: "effects.csv" })).toBeVisible();
  await expect(page.getByText("Figures")).toHaveCount(0);
});

test("where there is no study, it says how to make one", async ({ page }) => {
  await page.route("**/api/studies", (route) => route.fulfill({ json: [] }));
  await page.goto("/studies");
  await expect(page.getByText("directrix demo")).toBeVisible();
});

test("without an index it says how to serve one", async ({ page }) => {
  await changed(page, "**/api/info", (info) => {
    info.index = null;
  });
  for (const path of ["/", "/search"]) {
    await page.goto(path);
    await expect(page.getByText("directrix serve --index FOLDER")).toBeVisible();
  }
  await page.goto("/prompt");
  await expect(page.getByRole("listbox", { name: "Tokens of the prompt" })).toBeVisible();
});

test("notes that may only be read have no editor", async ({ page }) => {
  await changed(page, "**/api/info", (info) => {
    info.edit = false;
  });
  await page.goto("/?sae=sae-l0&direction=429");
  await expect(page.getByRole("img", { name: "Positions by activation" })).toBeVisible();
  await expect(page.getByLabel("Label", { exact: true })).toHaveCount(0);
  await page.goto("/notes");
  await expect(page.getByText("directrix serve --edit")).toBeVisible();
});

test("the reference opens what its address leads to", async ({ page }) => {
  await page.goto("/api-reference");
  await page.getByRole("link", { name: "POST /api/intervene" }).click();
  const operation = page.locator("details[open]");
  await expect(operation).toHaveCount(1);
  await expect(operation.getByRole("cell", { name: "changes" }).first()).toBeVisible();
  await page.reload();
  await expect(operation).toHaveCount(1);
});

test.describe("refused", () => {
  test.use({ refused: [500] });
  test("what fails is told in the server's words, and can be tried again", async ({ page }) => {
    await page.route(
      "**/api/saes/*/directions",
      (route) => route.fulfill({ status: 500, json: { error: "The index is gone: make it again." } }),
      { times: 1 },
    );
    await page.goto("/?sae=sae-l0");
    await expect(page.getByRole("alert")).toContainText("The index is gone: make it again.");
    await page.getByRole("button", { name: "Try again" }).click();
    await expect(page.locator(".list tbody a").first()).toBeVisible();
  });
});
