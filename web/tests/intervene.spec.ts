import type { Page } from "@playwright/test";
import { expect, test } from "./page";

const TEXT = 'Tim saw a big dog. Tim said, "I like it."';
const at = (changes: string[], more: Record<string, string> = {}) => {
  const query = new URLSearchParams({ text: TEXT, ...more });
  for (const change of changes) query.append("change", change);
  return `/intervene?${query}`;
};
const loss = (page: Page) => page.locator(".facts div", { hasText: "mean loss" }).locator("dd").first();

test("an active direction is ablated, and scaled by a slider", async ({ page }) => {
  await page.goto(at([]));
  await expect(page.getByText("Nothing is changed yet.")).toBeVisible();
  const active = page.getByRole("combobox", { name: "A direction active at position" });
  await expect(active.locator("option").nth(1)).toBeAttached();
  const change = (await active.locator("option").nth(1).getAttribute("value"))!;
  await active.selectOption(change);
  await expect(loss(page)).toHaveText(/\d/);
  const off = await loss(page).textContent();
  expect(off).not.toBe("0");
  await expect(page).toHaveURL(new RegExp(`change=${encodeURIComponent(change).replace("*", "\\*")}`));
  await page.getByLabel("Factor", { exact: true }).fill("3");
  await expect(loss(page)).not.toHaveText(off!);
  await expect(page.getByText(/→/).first()).toBeVisible();
  await page.getByLabel("Factor", { exact: true }).fill("1");
  await expect(loss(page)).toHaveText("0");
  await page.getByRole("button", { name: /^Remove/ }).click();
  await expect(page.getByText("Nothing is changed yet.")).toBeVisible();
});

test("a slider that is dragged ends at its last value", async ({ page }) => {
  await page.goto(at(["sae-l0/429*0"]));
  await expect(loss(page)).toHaveText(/\d/);
  await page.getByLabel("Factor", { exact: true }).evaluate(async (slider: HTMLInputElement) => {
    for (let i = 0; i <= 300; i++) {
      slider.value = String(-2 + (7 * i) / 300);
      slider.dispatchEvent(new Event("input", { bubbles: true }));
      await new Promise((done) => setTimeout(done, 4));
    }
  });
  await expect(page).toHaveURL(/sae-l0%2F429\*5(&|$)/);
  await expect(page.locator(".stale")).toHaveCount(0);
  const dragged = await page.locator(".facts").textContent();
  await page.reload();
  await expect(page.locator(".facts")).toHaveText(dragged!);
});

test("a shared address shows the same", async ({ page, browser }) => {
  await page.goto(at(["sae-l0/429=2.5@3..6", "L0H0=zero", "sae-l1=reconstruction@4"], { position: "6" }));
  await expect(loss(page)).toHaveText(/\d/);
  await expect(page.getByLabel("First position")).toHaveValue("3");
  await expect(page.getByLabel("Position", { exact: true })).toHaveValue("4");
  const [facts, bars] = [await page.locator(".facts").textContent(), await page.locator("svg.bars").getAttribute("aria-label")];
  const other = await browser.newPage();
  await other.goto(page.url());
  await expect(other.locator(".facts")).toHaveText(facts!);
  await expect(other.locator("svg.bars")).toHaveAttribute("aria-label", bars!);
  await other.close();
});

test("changes are written, placed and taken away", async ({ page }) => {
  await page.goto(at([]));
  await page.getByLabel("Or written").fill("0_mlp_out=mean");
  await page.getByRole("button", { name: "Add", exact: true }).click();
  await expect(loss(page)).toHaveText(/\d/);
  const mean = await loss(page).textContent();
  await page.getByRole("combobox", { name: "By", exact: true }).selectOption("zero");
  await expect(loss(page)).not.toHaveText(mean!);
  await page.getByRole("combobox", { name: "Positions" }).selectOption("one");
  await expect(page).toHaveURL(/0_mlp_out%3Dzero%40\d+/);
  await page.getByRole("combobox", { name: "A component" }).selectOption("sae-l1=reconstruction");
  await expect(page.locator(".change-list li")).toHaveCount(2);
  await expect(
    page.getByRole("listbox", { name: "Tokens by the change of their loss" }).locator("[data-hint]").first(),
  ).toBeVisible();
});

test("a direction is added from its panel to what is changed already", async ({ page }) => {
  await page.goto(at(["L0H0=zero"]));
  await expect(loss(page)).toHaveText(/\d/);
  await page.getByRole("link", { name: "Directions", exact: true }).click();
  await page.locator(".panel").getByRole("link", { name: "Intervene" }).click();
  await expect(page.locator(".change-list li")).toHaveCount(2);
  await expect(page).toHaveURL(/text=Tim\+saw/);
});

test("controls are drawn when asked for", async ({ page }) => {
  await page.goto(at(["sae-l0/429*0"]));
  await page.getByRole("button", { name: "Compare with controls" }).click();
  await expect(page.locator("svg.dot-rows").first()).toBeVisible({ timeout: 20_000 });
  expect(await page.locator("svg.dot-rows").first().locator("circle").count()).toBeGreaterThanOrEqual(8);
});

test("continuations are written side by side", async ({ page }) => {
  await page.goto(at(["sae-l0/429*0"]));
  await page.getByLabel("Tokens", { exact: true }).fill("12");
  await page.getByRole("button", { name: "Generate" }).click();
  const both = page.locator(".prompt", { hasText: /^With(out)? the changes/ });
  await expect(both).toHaveCount(2);
  for (const i of [0, 1]) await expect.poll(() => both.nth(i).locator(".t.new").count()).toBeGreaterThan(3);
  await expect(page.getByRole("button", { name: "Generate" })).toBeVisible();
});

test("what was done is copied in four forms", async ({ page }) => {
  await page.goto(at(["sae-l0/429*0"]));
  await page.getByRole("button", { name: "Copy as" }).click();
  const dialog = page.getByRole("dialog", { name: "Copy as" });
  for (const [tab, text] of [
    ["Command line", "directrix"],
    ["Python", "import directrix"],
    ["curl", "curl"],
    ["Study", "429"],
  ] as const) {
    await dialog.getByRole("tab", { name: tab }).click();
    await expect(dialog.locator("pre")).toContainText(text);
  }
  await dialog.getByRole("tab", { name: "Study" }).press("ArrowRight");
  await expect(dialog.getByRole("tab", { name: "Python" })).toBeFocused();
  await page.keyboard.press("Escape");
  await expect(dialog).toBeHidden();
});

test.describe("refused", () => {
  test.use({ refused: [400, 404] });
  test("a change that names nothing is told", async ({ page }) => {
    await page.goto(at(["sae-l0/429*0", "bad=thing"]));
    await expect(page.getByRole("alert").first()).toContainText("bad");
    await page.getByRole("button", { name: "Remove bad=thing" }).click();
    await expect(loss(page)).toHaveText(/\d/);
  });
});
