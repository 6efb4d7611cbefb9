import { readFile } from "node:fs/promises";
import type { APIRequestContext } from "@playwright/test";
import { expect, test } from "./page";

/** Every test has its own direction, so that they do not meet. */
async function forget(request: APIRequestContext, direction: number) {
  await request.delete(`/api/notes/1/${direction}`);
}

test("a label, a star and a text are kept, listed and deleted", async ({ page, request }) => {
  await forget(request, 2001);
  await page.goto("/?sae=sae-l1&direction=2001");
  await page.getByLabel("Label", { exact: true }).fill("<b>closing</b> quotes");
  await page.getByLabel("Note", { exact: true }).fill("Fires before\nthe end.");
  await page.getByRole("button", { name: "Save", exact: true }).click();
  await expect(page.locator(".note-foot")).toContainText("Saved");
  await page.getByRole("button", { name: "Star" }).click();
  await expect(page.getByRole("button", { name: "Star" })).toHaveAttribute("aria-pressed", "true");
  await expect(page.locator(".list tr.chosen").getByRole("img", { name: "starred" })).toBeVisible();
  await page.reload();
  await expect(page.getByLabel("Label", { exact: true })).toHaveValue("<b>closing</b> quotes");
  await expect(page.locator(".panel h2")).toContainText("<b>closing</b> quotes");
  await page.goto("/?sae=sae-l1&mark=starred&note=closing");
  await expect(page.locator(".list tbody tr:not(.space)")).toHaveCount(1);
  await page.goto("/notes");
  const row = page.getByRole("row", { name: /sae-l1\/2001/ });
  await expect(row).toContainText("Fires before");
  await row.getByRole("button", { name: "Delete" }).click();
  await expect(row).toHaveCount(0);
});

test.describe("two tabs", () => {
  test.use({ refused: [409] });
  test("what another tab wrote is not lost", async ({ page, context, request }) => {
    await forget(request, 2002);
    const other = await context.newPage();
    for (const tab of [page, other]) {
      await tab.goto("/?sae=sae-l1&direction=2002");
      await expect(tab.getByLabel("Label", { exact: true })).toBeVisible();
    }
    const write = async (tab: typeof page, label: string) => {
      await tab.getByLabel("Label", { exact: true }).fill(label);
      await tab.getByRole("button", { name: "Save", exact: true }).click();
    };
    await write(other, "theirs");
    await expect(other.locator(".note-foot")).toContainText("Saved");
    await write(page, "mine");
    const conflict = page.locator(".conflict");
    await expect(conflict).toContainText("theirs");
    await expect(conflict).toContainText("mine");
    await conflict.getByRole("button", { name: "Keep mine" }).click();
    await expect(conflict).toHaveCount(0);
    await write(other, "theirs again");
    await expect(other.locator(".conflict")).toContainText("mine");
    await other.getByRole("button", { name: "Take theirs" }).click();
    await expect(other.getByLabel("Label", { exact: true })).toHaveValue("mine");
    await page.goto("/notes");
    await expect(page.getByRole("row", { name: /sae-l1\/2002/ })).toContainText("mine");
    await forget(request, 2002);
  });
});

test("notes go out and come in", async ({ page, request }) => {
  await forget(request, 2003);
  await request.put("/api/notes/1/2003", { data: { label: "out", starred: true, text: "and in", version: 0 } });
  await page.goto("/notes");
  await expect(page.getByRole("row", { name: /sae-l1\/2003/ })).toBeVisible();
  const [file] = await Promise.all([page.waitForEvent("download"), page.getByRole("button", { name: "Export" }).click()]);
  const lines = (await readFile(await file.path(), "utf8")).split("\n").filter((line) => line.includes("2003"));
  expect(lines).toHaveLength(1);
  await forget(request, 2003);
  await page.reload();
  await expect(page.getByRole("row", { name: /sae-l1\/2003/ })).toHaveCount(0);
  await page
    .getByLabel("Import")
    .setInputFiles({ name: "notes.jsonl", mimeType: "application/jsonl", buffer: Buffer.from(`${lines[0]}\nno note\n`) });
  await expect(page.getByText("1 note imported, 1 line left out")).toBeVisible();
  await expect(page.getByText(/^line 2: /)).toBeVisible();
  await expect(page.getByRole("row", { name: /sae-l1\/2003/ })).toContainText("and in");
  await forget(request, 2003);
});
