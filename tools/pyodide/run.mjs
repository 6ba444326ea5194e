// Run scripts in Pyodide, which is CPython compiled to WebAssembly: as in a browser, under node.
//
//     npm ci --prefix tools/pyodide
//     node tools/pyodide/run.mjs                          every script
//     node tools/pyodide/run.mjs microgpt microautograd   these
//
// Each script runs as __main__ on its own copy of the repository's files, prints as it goes, and
// must meet the bars of its test module. Exit status: 1 if one of them does not.

import { spawnSync } from "node:child_process";
import fs from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";

const here = path.dirname(fileURLToPath(import.meta.url));
const root = path.resolve(here, "..", "..");

function fail(message) {
  console.error(`tools/pyodide/run.mjs: ${message}`);
  process.exit(1);
}

// The scripts by name: { microgpt: "01-foundations/microgpt.py", ... }
function findScripts() {
  const found = {};
  const tiers = fs.readdirSync(root).filter((name) => /^0\d-/.test(name));
  for (const tier of tiers.sort()) {
    for (const file of fs.readdirSync(path.join(root, tier)).sort()) {
      if (/^micro\w+\.py$/.test(file)) found[file.slice(0, -3)] = `${tier}/${file}`;
    }
  }
  return found;
}

// Copy a file, or the files of a folder, to the same place under /no-magic.
function copy(FS, name) {
  const from = path.join(root, name);
  if (fs.statSync(from).isDirectory()) {
    for (const entry of fs.readdirSync(from, { withFileTypes: true })) {
      if (entry.isFile()) copy(FS, `${name}/${entry.name}`);
    }
    return;
  }
  FS.mkdirTree(path.posix.dirname(`/no-magic/${name}`));
  FS.writeFile(`/no-magic/${name}`, fs.readFileSync(from));
}

// Run one script in this process; returns what is wrong with it.
async function run(script) {
  const { loadPyodide } = await import("pyodide").catch(() =>
    fail("Pyodide is not installed: run npm ci in tools/pyodide."),
  );
  const pyodide = await loadPyodide();
  const tier = path.posix.dirname(script);
  const needed = ["data", "common", "tests", "tools/run_one.py", "tools/pyodide/inside.py"];
  for (const name of [tier, ...needed]) copy(pyodide.FS, name);
  const version = pyodide.runPython("import sys; sys.version.split()[0]");
  console.log(`--- ${script} in Pyodide ${pyodide.version}, Python ${version} ---`);
  try {
    pyodide.runPython("sys.path.append('/no-magic/tools/pyodide'); import inside");
    return pyodide.globals.get("sys").modules.get("inside").complaints(script).toJs();
  } catch (problem) {
    return [problem.message.trim()]; // a Python error: its traceback
  }
}

async function main(names) {
  if (Number(process.versions.node.split(".")[0]) < 18) fail("node 18 or newer is needed.");
  const scripts = findScripts();
  const unknown = names.filter((name) => !(name in scripts));
  if (unknown.length) fail(`there is no script ${unknown.join(", ")}.`);
  const chosen = names.length ? names : Object.keys(scripts);
  if (!chosen.length) fail("no script in 0?-*/micro*.py.");
  if (chosen.length > 1) {
    // A process for each, so that none finds what another has left.
    const self = fileURLToPath(import.meta.url);
    const failed = chosen.filter((name) => {
      const done = spawnSync(process.execPath, [self, name], { stdio: "inherit" });
      if (done.signal) fail(`${name} was ended by ${done.signal}.`);
      return done.status !== 0;
    });
    if (failed.length) fail(`failed: ${failed.join(", ")}`);
    return;
  }
  const start = performance.now();
  const problems = await run(scripts[chosen[0]]);
  const seconds = ((performance.now() - start) / 1000).toFixed(1);
  if (problems.length) fail(`${chosen[0]}, after ${seconds} s:\n  ${problems.join("\n  ")}`);
  console.log(`--- ${chosen[0]}: all bars met, ${seconds} s ---`);
}

await main(process.argv.slice(2));
