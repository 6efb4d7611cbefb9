import { defineConfig } from "vite";

export default defineConfig({
  oxc: { jsx: { runtime: "automatic", importSource: "preact" } },
  build: {
    target: "es2022",
    modulePreload: false,
    cssCodeSplit: false,
    // Names without hashes: the bundle is kept in the repository and built into the binary.
    rollupOptions: {
      output: { entryFileNames: "assets/index.js", assetFileNames: "assets/index[extname]", codeSplitting: false },
    },
  },
  // The server's own paths while the page is developed with `npx vite`.
  server: {
    proxy: Object.fromEntries(
      ["/api/", "/look", "/plotly.js", "/openapi.json", "/studies/"].map((path) => [path, "http://127.0.0.1:7171"]),
    ),
  },
});
