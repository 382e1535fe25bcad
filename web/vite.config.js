import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { defineConfig } from "vite";

const at = (path) => fileURLToPath(new URL(path, import.meta.url));

// licences puts the texts that must go with what is bundled beside it.
const licences = {
  name: "licences",
  generateBundle() {
    const { version } = JSON.parse(readFileSync(at("node_modules/uplot/package.json"), "utf8"));
    const source =
      "The status page of Odin is under the Apache License 2.0, as Odin is.\n" +
      `It contains uPlot ${version}, https://github.com/leeoniya/uPlot:\n\n` +
      readFileSync(at("node_modules/uplot/LICENSE"), "utf8").replace(/\r\n/g, "\n").trim() + "\n";
    this.emitFile({ type: "asset", fileName: "licences.txt", source });
  },
};

export default defineConfig({
  root: at("."),
  // The library is built from its source, which is in this repository.
  resolve: { alias: { "@odin-ws/client": at("../clients/js/src/index.ts") } },
  plugins: [licences],
  build: {
    target: "es2022",
    modulePreload: false,
    assetsInlineLimit: 0, // the page's policy has no data: URLs
    reportCompressedSize: false,
  },
});
