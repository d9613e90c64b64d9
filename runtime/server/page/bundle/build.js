// Bundles entry.js and collects the licences of what is in it: node build.js [FOLDER]
import { createHash } from "node:crypto";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { build } from "esbuild";

const folder = process.argv[2] ?? "../static";
const sources = createHash("sha256");
for (const name of ["entry.js", "package-lock.json"]) sources.update(readFileSync(name));

const { metafile } = await build({
  entryPoints: ["entry.js"],
  outfile: join(folder, "codemirror.js"),
  bundle: true,
  minify: true,
  format: "esm",
  target: "es2022",
  legalComments: "none",
  metafile: true,
  banner: {
    js: `// CodeMirror and Lezer (MIT, see codemirror.licences.txt), by \`make page\` from ${sources.digest("hex")}`,
  },
});

const packages = new Set();
for (const input of Object.keys(metafile.inputs)) {
  const found = /^node_modules\/(@[^/]+\/[^/]+|[^/]+)/.exec(input);
  if (found) packages.add(found[1]);
}
const texts = [...packages].sort().map((name) => {
  const root = join("node_modules", name);
  const { version, license } = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
  const file = ["LICENSE", "LICENSE.md", "LICENCE"].map((each) => join(root, each)).find(existsSync);
  if (!file) throw new Error(`${name} has no licence file in ${dirname(root)}`);
  return `${name} ${version} (${license})\n\n${readFileSync(file, "utf8").trim()}\n`;
});
writeFileSync(join(folder, "codemirror.licences.txt"), texts.join("\n----------\n\n"));
