import type { Page } from "@playwright/test";
import { expect, test } from "./page";

test("edges are drawn, a node is opened, an edge is checked and marked", async ({ page }) => {
  await page.goto("/circuits?sae=sae-l1&direction=429&measure=attribution");
  const nodes = page.locator("svg.circuit .node");
  await expect(nodes.first()).toBeVisible();
  const few = await nodes.count();
  await page.locator("svg.circuit .node:not(.open)").first().click();
  await expect(page).toHaveURL(/open=sae-l0/);
  await expect.poll(() => nodes.count()).toBeGreaterThan(few);
  await page.goBack();
  await expect(nodes).toHaveCount(few);
  await page.locator("svg.circuit .edge").first().press("Enter");
  await page.getByRole("button", { name: "Check causally" }).click();
  await expect(page.locator(".sentence")).toHaveText(/\d/, { timeout: 20_000 });
  await expect(page.getByText(/95 % interval; n = \d+/)).toBeVisible();
  expect(await page.locator("svg.dot-rows circle").count()).toBeGreaterThan(1);
  // The mark stays when another edge is looked at, and in the address.
  const marks = page.locator("svg.circuit .checked");
  await expect(marks).toHaveText(/[✓–]/);
  await page.locator("svg.circuit .edge").nth(1).press("Enter");
  await expect(page.getByRole("button", { name: "Check causally" })).toBeVisible();
  await page.reload();
  await expect(marks).toHaveCount(1, { timeout: 20_000 });
});

const legend = (page: Page, name: string) =>
  page.getByRole("group", { name: "Measures" }).getByRole("button", { name, exact: true });

/** Measures of the lines that are drawn. */
const drawn = (page: Page) =>
  page.locator("svg.circuit .line").evaluateAll((lines) => [...new Set(lines.map((line) => line.classList[1]!))].sort());

for (const edges of [true, false]) {
  test(`at first ${edges ? "attribution and causal effect are shown, which are kept" : "only what takes no time is shown"}`, async ({
    page,
  }) => {
    await page.route("**/api/info", async (route) => {
      const response = await route.fetch();
      const info = await response.json();
      await route.fulfill({ response, json: { ...info, index: { ...info.index, edges } } });
    });
    await page.goto("/circuits?sae=sae-l1&direction=429");
    await expect(page.locator("svg.circuit .edge").first()).toBeVisible({ timeout: 20_000 });
    expect(await drawn(page)).toEqual(edges ? ["attribution", "causal"] : ["cosine", "weight"]);
  });
}

test("where edges are not kept, the page says how to have them kept", async ({ page }) => {
  await page.route("**/edges?**", (route) =>
    route.fulfill({ json: { about: "a value", measured: "`directrix index --edges` keeps them.", edges: [] } }),
  );
  await page.goto("/circuits?sae=sae-l1&direction=429&measure=causal");
  await expect(page.locator("code", { hasText: "directrix index --edges" })).toBeVisible();
});

test("measures are shown side by side, each in its colour, and kept in the address", async ({ page }) => {
  await page.goto("/circuits?sae=sae-l1&direction=429&measure=cosine");
  await expect(page.getByRole("heading", { name: "Edges by cosine" })).toBeVisible();
  // The last one stays.
  await legend(page, "cosine").click();
  await expect(legend(page, "cosine")).toHaveAttribute("aria-pressed", "true");
  for (const measure of ["weight", "attribution", "causal"]) {
    await legend(page, measure).click();
    await expect(page).toHaveURL(new RegExp(`measure=cosine.*measure=${measure}`));
    await expect.poll(() => drawn(page), { timeout: 20_000 }).toContain(measure);
  }
  const colours = await page
    .locator("svg.circuit .line")
    .evaluateAll((lines) => new Set(lines.map((line) => getComputedStyle(line).stroke)).size);
  expect(colours).toBe(4);
  await legend(page, "cosine").click();
  await expect(page.getByRole("heading", { name: "Edges by weight, attribution and causal" })).toBeVisible();
  await expect(page).not.toHaveURL(/cosine/);
  await page.reload();
  await expect(legend(page, "causal")).toHaveAttribute("aria-pressed", "true");
  await expect.poll(() => drawn(page), { timeout: 20_000 }).toEqual(["attribution", "causal", "weight"]);
  const columns = page.getByRole("region", { name: "Edges", exact: true }).or(page.locator("table")).last();
  for (const measure of ["weight", "attribution", "causal"]) await expect(columns).toContainText(measure);
});

test("what lowers is dashed: by ablation, what rises when it is gone", async ({ page }) => {
  await page.goto("/circuits?sae=sae-l1&direction=429&measure=attribution&measure=causal&most=20");
  const edges = page.locator("svg.circuit .edge");
  await expect(edges.first()).toBeVisible({ timeout: 20_000 });
  const found = await edges.evaluateAll((all) =>
    all.flatMap((edge) =>
      [...edge.querySelectorAll(".line")].map((line) => {
        const measure = line.classList[1]!;
        const [, sign] = edge.getAttribute("aria-label")!.match(new RegExp(`${measure} ([−+-]?)`))!;
        const dashed = getComputedStyle(line).strokeDasharray !== "none";
        return { measure, negative: sign !== "" && sign !== "+", dashed };
      }),
    ),
  );
  expect(found.length).toBeGreaterThan(10);
  for (const { measure, negative, dashed } of found) expect(dashed).toBe(measure === "causal" ? !negative : negative);
});

test("a prompt's graph is drawn and looked through", async ({ page }) => {
  await page.goto("/circuits?of=prompt");
  await page.getByRole("button", { name: "Run" }).click();
  const panel = page.locator(".graph-panel");
  await expect(panel.getByRole("heading", { name: "What adds to it" })).toBeVisible({ timeout: 25_000 });
  const title = await panel.locator(".title").textContent();
  await panel.getByRole("button").first().click();
  await expect(panel.locator(".title")).not.toHaveText(title!);
  await expect(page.locator(".graph-marks .node.selected")).toHaveCount(1);
  await expect(page.locator(".graph-marks .chosen path").first()).toBeAttached();
  await page.locator(".graph-marks .node.direction").last().press("Enter");
  await panel.locator(".title a").click();
  await expect(page.locator(".panel h2")).toHaveText(/sae-l\d\/\d+/);
});

test("a graph that is being drawn can be cancelled", async ({ page }) => {
  await page.route("**/api/graph", () => {});
  await page.goto("/circuits?of=prompt");
  await page.getByRole("button", { name: "Run" }).click();
  await page.getByRole("button", { name: "Cancel" }).click();
  await expect(page.getByText("Run the prompt to see")).toBeVisible();
});
