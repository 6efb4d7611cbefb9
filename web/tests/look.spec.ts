import AxeBuilder from "@axe-core/playwright";
import type { Page } from "@playwright/test";
import { expect, test } from "./page";

const text = encodeURIComponent('Tim saw a big dog. Tim said, "I like it."');

/** Every view, and what shows that it is there. */
const VIEWS = {
  directions: ["/?sae=sae-l0&direction=429", ".examples .prompt"],
  prompt: [`/prompt?text=${text}`, "svg.heat image"],
  intervene: [`/intervene?text=${text}&change=sae-l0/429*0&change=L0H0=zero`, "svg.bars"],
  search: ["/search?find=+it&kind=token", ".prompt .tokens"],
  circuits: ["/circuits?sae=sae-l1&direction=429", "svg.circuit .node"],
  measures: [
    "/circuits?sae=sae-l1&direction=429&measure=cosine&measure=weight&measure=attribution&measure=causal&most=3",
    "svg.circuit .node",
  ],
  graph: [`/circuits?of=prompt&graph=1&text=${text}`, ".graph-panel .title"],
  studies: ["/studies", "h1"],
  notes: ["/notes", "h1"],
  api: ["/api-reference", ".operation"],
} as const;

async function seriousIn(page: Page, rules?: string[]) {
  // Examples are all alike, and so are rows.
  const axe = new AxeBuilder({ page }).exclude(".prompt ~ .prompt").exclude(".list tr ~ tr ~ tr");
  const { violations } = await (rules ? axe.withRules(rules) : axe).analyze();
  const serious = violations.filter(({ impact }) => impact === "serious" || impact === "critical");
  return serious.map(
    ({ id, nodes }) =>
      `${id}: ${nodes
        .slice(0, 3)
        .map((node) => node.html)
        .join(" ")}`,
  );
}

for (const [name, [url, there]] of Object.entries(VIEWS)) {
  for (const width of [1440, 390]) {
    test(`${name}, ${width} wide`, async ({ browser, baseURL }) => {
      const phone = width < 600;
      const context = await browser.newContext({
        baseURL: baseURL!,
        viewport: { width, height: phone ? 844 : 900 },
        colorScheme: "light",
        hasTouch: phone,
        isMobile: phone,
      });
      const page = await context.newPage();
      await page.goto(url);
      await expect(page.locator(there).first()).toBeVisible({ timeout: 20_000 });
      await expect(page.locator(".loading")).toHaveCount(0, { timeout: 20_000 });
      await page.screenshot({ path: `test-results/${name}-${width}-light.png` });
      expect(
        await page.evaluate(() => document.documentElement.scrollWidth - innerWidth),
        "how much wider the page is than the window",
      ).toBeLessThanOrEqual(0);
      expect(await seriousIn(page)).toEqual([]);
      await page.emulateMedia({ colorScheme: "dark" });
      await page.screenshot({ path: `test-results/${name}-${width}-dark.png` });
      // Only colours differ in the dark, and no colour by width.
      if (!phone) expect(await seriousIn(page, ["color-contrast"])).toEqual([]);
      await context.close();
    });
  }
}

test("a theme that was chosen is remembered", async ({ page }) => {
  await page.goto("/studies");
  const background = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  const light = await background();
  await page.getByRole("button", { name: "Use dark colours" }).click();
  expect(await background()).not.toBe(light);
  await page.reload();
  await expect(page.getByRole("button", { name: "Use light colours" })).toBeVisible();
  expect(await background()).not.toBe(light);
});

test("a phone shows the panel below the list, and values by a tap", async ({ browser, baseURL }) => {
  const context = await browser.newContext({
    baseURL: baseURL!,
    viewport: { width: 390, height: 844 },
    hasTouch: true,
    isMobile: true,
  });
  const page = await context.newPage();
  await page.goto("/?sae=sae-l0&direction=429");
  const [list, panel] = [await page.locator(".list").boundingBox(), await page.locator(".panel").boundingBox()];
  expect(panel!.y).toBeGreaterThan(list!.y + list!.height);
  await page.locator(".panel .t.marked").first().tap();
  await expect(page.locator("#hint")).toBeVisible();
  await context.close();
});

test("views keep what was chosen in them", async ({ page }) => {
  await page.goto("/?sae=sae-l0&direction=429&order=-density");
  await expect(page.locator(".panel h2")).toHaveText("sae-l0/429");
  await page.getByRole("link", { name: "Notes", exact: true }).click();
  await page.getByRole("link", { name: "Directions", exact: true }).click();
  await expect(page.locator(".panel h2")).toHaveText("sae-l0/429");
  await expect(page).toHaveURL(/order=-density/);
});
