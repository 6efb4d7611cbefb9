import { expect, test } from "./page";

test("a text leads to the directions that fire on it", async ({ page }) => {
  await page.goto("/search");
  await page.getByLabel("Text", { exact: true }).fill(" it");
  await page.getByRole("button", { name: "Search", exact: true }).click();
  await expect(page.getByText(/[\d,]+ matches in [\d,]+ prompts/)).toBeVisible();
  const table = page.getByRole("region", { name: "directions-found" });
  await expect(table.locator("tbody tr").first()).toBeVisible();
  await table.getByRole("button", { name: "lift" }).click();
  const lifts = (await table.locator("tbody td:last-child").allTextContents()).map((text) => parseFloat(text.replace(",", "")));
  expect(lifts).toEqual(lifts.toSorted((a, b) => b - a));
  await expect(page.locator(".prompt .t[data-hint]").first()).toBeVisible();
  await page.getByRole("combobox", { name: "As", exact: true }).selectOption("token");
  await expect(page).toHaveURL(/kind=token/);
  await expect(table).toBeVisible();
});

test("examples of what can be searched work", async ({ page }) => {
  await page.goto("/search");
  for (const example of [/these characters/, /one token/, /tokens in a row/, /a pattern/]) {
    await page.getByRole("button", { name: example }).click();
    await expect(page.getByText(/[\d,]+ match(es)? in/)).toBeVisible();
  }
  await page.getByRole("button", { name: "by directions" }).click();
  for (const example of [/where it fires/, /another does not/, /or another/, /near another/]) {
    await page.getByRole("button", { name: example }).click();
    await expect(page.getByText(/[\d,]+ positions? in/)).toBeVisible();
  }
});

test("directions lead to positions", async ({ page }) => {
  await page.goto("/search?by=query");
  await page.getByLabel("Query").fill("sae-l0/429");
  await page.getByLabel("Query").press("Enter");
  await expect(page.getByText(/[1-9][\d,]* positions in/)).toBeVisible();
  await expect(page.locator(".prompt .t.marked").first()).toBeVisible();
  await page.locator(".prompt").first().getByRole("link", { name: "Open" }).click();
  await expect(page).toHaveURL(/\/prompt\?prompt=\d+/);
});

test.describe("refused", () => {
  test.use({ refused: [400, 404] });
  test("a query that cannot be read is told", async ({ page }) => {
    await page.goto("/search?by=query&query=%26%26");
    await expect(page.getByRole("alert")).toContainText(/\w+ \w+/);
    await page.goto("/search?kind=regex&find=(");
    await expect(page.getByRole("alert")).toContainText(/\w+ \w+/);
  });
});
