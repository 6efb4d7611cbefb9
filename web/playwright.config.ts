import { defineConfig } from "@playwright/test";

const PORT = 7178;
/** What is served in the tests; `DIRECTRIX_URL` names a server that runs already. */
const INDEX = process.env.DIRECTRIX_INDEX ?? "../out/index";
const COMMAND = `../target/release/directrix serve --index ${INDEX} --edit --port ${PORT}`;
const url = process.env.DIRECTRIX_URL ?? `http://127.0.0.1:${PORT}`;

export default defineConfig({
  testDir: "tests",
  outputDir: "test-results/runs",
  fullyParallel: true,
  workers: 2,
  timeout: 60_000,
  expect: { timeout: 10_000 },
  reporter: [["list"]],
  use: {
    baseURL: url,
    viewport: { width: 1440, height: 900 },
    launchOptions: { executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium" },
  },
  ...(!process.env.DIRECTRIX_URL && { webServer: { command: COMMAND, url: `${url}/api/info`, timeout: 60_000 } }),
});
