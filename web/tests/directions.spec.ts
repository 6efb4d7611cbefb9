import { readFile } from "node:fs/promises";
import type { Page } from "@playwright/test";
import { expect, test } from "./page";

const rows = (page: Page) => page.locator(".list tbody tr:not(.space)");
const title = (page: Page) => page.locator(".panel h2");
const shown = (page: Page) => page.locator(".list-head .count");

async function download(page: Page, name: string) {
  const [file] = await Promise.all([page.waitForEvent("download"), page.getByRole("button", { name }).first().click()]);
  return { name: file.suggestedFilename(), bytes: await readFile(await file.path()) };
}

test("the list is drawn where it is looked at, and goes to its end", async ({ page }) => {
  await page.goto("/?sae=sae-l1");
  await expect(title(page)).toHaveText("sae-l1/0");
  await expect(shown(page)).toHaveText(/^[\d,]+ of [\d,]+ directions$/);
  expect(await rows(page).count()).toBeLessThan(80);
  await page.keyboard.press("End");
  const last = (await shown(page).textContent())!.match(/of ([\d,]+)/)![1]!.replace(",", "");
  await expect(title(page)).toHaveText(`sae-l1/${+last - 1}`);
  await expect(page.locator(".list tr.chosen")).toBeInViewport();
  await page.keyboard.press("Home");
  await expect(title(page)).toHaveText("sae-l1/0");
});

test("arrow keys follow the order, and the address keeps it", async ({ page }) => {
  await page.goto("/?sae=sae-l0");
  await page.locator("th", { hasText: "density" }).getByRole("button").click();
  await expect(page.locator("th", { hasText: "density" })).toHaveAttribute("aria-sort", "descending");
  const numbers = await rows(page).locator("td:nth-child(2)").allTextContents();
  await rows(page).first().click();
  await expect(title(page)).toHaveText(`sae-l0/${numbers[0]}`);
  await page.keyboard.press("ArrowRight");
  await page.keyboard.press("j");
  await expect(title(page)).toHaveText(`sae-l0/${numbers[2]}`);
  await page.keyboard.press("k");
  await expect(title(page)).toHaveText(`sae-l0/${numbers[1]}`);
  await expect(page).toHaveURL(new RegExp(`order=-density.*direction=${numbers[1]}\\b`));
  const address = page.url();
  await page.goto("/notes");
  await page.goto(address);
  await expect(title(page)).toHaveText(`sae-l0/${numbers[1]}`);
  await expect(page.locator(".list tr.chosen")).toHaveCount(1);
  await page.locator("th", { hasText: "density" }).getByRole("button").click();
  await expect(page.locator("th", { hasText: "density" })).toHaveAttribute("aria-sort", "ascending");
  await page.goBack();
  await expect(page.locator("th", { hasText: "density" })).toHaveAttribute("aria-sort", "descending");
});

test("filters leave out what does not pass them, and are kept in the address", async ({ page }) => {
  await page.goto("/?sae=sae-l0");
  await page.getByLabel("Number or top token").fill("429");
  await expect(rows(page)).toHaveCount(1);
  await expect(shown(page)).toHaveText(/^1 of/);
  await page.getByLabel("Number or top token").fill(" it");
  await expect(rows(page).first()).toBeVisible();
  for (const token of await rows(page).locator("td.text").allTextContents()) expect(token.toLowerCase()).toContain("it");
  await page.getByRole("button", { name: "More filters" }).click();
  await page.getByLabel("Share of top token, %, from").fill("60");
  await page.getByLabel("Density, %, to").fill("5");
  await expect(page).toHaveURL(/share=60\.\./);
  for (const share of await rows(page).locator("td.share").allTextContents()) expect(+share).toBeGreaterThanOrEqual(60);
  const some = await shown(page).textContent();
  await page.waitForURL(/density=\.\.5/);
  await page.reload();
  await expect(shown(page)).toHaveText(some!);
  await page.getByRole("button", { name: "Clear all" }).click();
  await expect(shown(page)).not.toHaveText(some!);
  await page.getByRole("combobox", { name: "Alive" }).selectOption("dead");
  await page.getByLabel("Number or top token").fill("no such token anywhere");
  await expect(page.getByText("No direction passes these filters.")).toBeVisible();
});

test("dead directions are told, and can be found", async ({ page }) => {
  await page.goto("/?sae=sae-l1&life=dead");
  await expect(rows(page).first().locator(".badge")).toHaveText("dead");
  await expect(page.getByText("Dead: it fires nowhere in the corpus.")).toBeVisible();
});

test("the panel shows what a direction is", async ({ page }) => {
  await page.goto("/?sae=sae-l0&direction=429");
  const panel = page.locator(".panel");
  await expect(panel.getByText("mean where it fires")).toBeVisible();
  await expect(panel.getByRole("img", { name: "Positions by activation" })).toBeVisible();
  await expect(panel.getByRole("heading", { name: "Raises" })).toBeVisible();
  await expect(panel.getByRole("heading", { name: /^Strongest/ })).toBeVisible();
  const example = panel.locator(".prompt").first();
  const strong = example.locator(".t.marked");
  await expect(strong).toHaveAttribute("data-hint", /\d/);
  await strong.hover();
  await expect(page.locator("#hint")).toBeVisible();
  await expect(page.locator("#hint")).toHaveText((await strong.getAttribute("data-hint"))!);
  const few = await example.locator(".t").count();
  await example.getByRole("button", { name: "Show the whole prompt" }).first().click();
  await expect.poll(() => example.locator(".t").count()).toBeGreaterThan(few);
  await example.getByRole("button", { name: "What drives it" }).click();
  await expect(example.locator("svg.bars")).toBeVisible();
  await expect(panel.getByRole("region", { name: "sae-l0-429-encoder" }).locator("tbody tr").first()).toBeVisible();
  await expect(
    panel
      .getByRole("region", { name: /sae-l0-429-(weight|causal)-downstream/ })
      .locator("tbody tr")
      .first(),
  ).toBeVisible();
  await panel.getByRole("button", { name: "cosine", exact: true }).click();
  await expect(panel.getByRole("region", { name: "sae-l0-429-cosine-downstream" }).locator("tbody tr").first()).toBeVisible();
});

test("values of tokens can be read with the keyboard", async ({ page }) => {
  await page.goto("/?sae=sae-l0&direction=429");
  const tokens = page.locator(".panel .prompt .tokens").first();
  await expect(tokens).toBeVisible();
  await page.locator(".panel .prompt").first().getByRole("button", { name: "Show the whole prompt" }).first().focus();
  await page.keyboard.press("Tab");
  await expect(tokens).toBeFocused();
  await page.keyboard.press("ArrowRight");
  await expect(page.locator("#hint")).toBeVisible();
  await expect(title(page)).toHaveText("sae-l0/429");
});

test("figures and tables are saved", async ({ page }) => {
  await page.goto("/?sae=sae-l0&direction=429");
  await expect(page.getByRole("img", { name: "Positions by activation" })).toBeVisible();
  const svg = await download(page, "Save sae-l0-429-histogram as SVG");
  expect(svg.name).toBe("sae-l0-429-histogram.svg");
  expect(svg.bytes.toString()).toMatch(/^<svg[^]*fill:\s*rgb/);
  expect(svg.bytes.toString()).not.toContain("var(");
  const png = await download(page, "Save sae-l0-429-histogram as PNG");
  expect(png.bytes.subarray(1, 4).toString()).toBe("PNG");
  const tokens = await download(page, "Save sae-l0-429-tokens as CSV");
  expect(tokens.bytes.toString()).toMatch(/^token,count,share\n.+,\d+,/);
  const list = await download(page, "Save the list as CSV");
  expect(list.bytes.toString().split("\n").length).toBeGreaterThan(2000);
});

test("the loss effect of what is in view is measured and shown", async ({ page }) => {
  await page.goto("/?sae=sae-l1&q=429");
  const effect = rows(page).first().locator("td").last();
  const measure = page.getByRole("button", { name: "Measure loss effect" });
  await expect(rows(page)).toHaveCount(1);
  // It is kept by the server, so that it may be known already.
  if (await measure.isEnabled()) await measure.click();
  await expect(effect).toHaveText(/\d/);
  await expect(page.locator(".panel").getByText("loss when ablated")).toBeVisible();
});

test("the box in the header goes to a direction, or searches", async ({ page }) => {
  await page.goto("/studies");
  const box = page.getByRole("searchbox", { name: "Go to a direction" });
  await box.fill("sae-l0/17");
  await box.press("Enter");
  await expect(title(page)).toHaveText("sae-l0/17");
  await box.fill("18");
  await box.press("Enter");
  await expect(title(page)).toHaveText("sae-l0/18");
  await box.fill("big dog");
  await box.press("Enter");
  await expect(page).toHaveURL(/\/search\?.*find=big\+dog/);
});

test("a direction or an SAE that is not there is told", async ({ page }) => {
  await page.goto("/?sae=sae-l1&direction=99999999");
  await expect(page.getByRole("alert")).toContainText("has no direction 99999999");
  await page.goto("/?sae=sae-l1&direction=x");
  await expect(page.getByRole("alert")).toContainText("has no direction");
  await page.goto("/?sae=nothing");
  await expect(page.getByRole("heading", { name: "Unknown SAE" })).toBeVisible();
  await page.goto("/nowhere");
  await expect(page.getByRole("heading", { name: "Not found" })).toBeVisible();
});
