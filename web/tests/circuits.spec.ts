import { expect, test } from "./page";

test("edges are drawn, a node is opened, an edge is checked", async ({ page }) => {
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
});

test("the measure is chosen, and kept in the address", async ({ page }) => {
  await page.goto("/circuits?sae=sae-l1&direction=429");
  for (const measure of ["cosine", "attribution", "causal"]) {
    await page.getByRole("button", { name: measure, exact: true }).click();
    await expect(page).toHaveURL(new RegExp(`measure=${measure}`));
    await expect(page.getByRole("heading", { name: `Edges by ${measure}` })).toBeVisible({ timeout: 20_000 });
  }
  await page.reload();
  await expect(page.getByRole("heading", { name: "Edges by causal" })).toBeVisible({ timeout: 20_000 });
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
