// Forges operation groups with Taquito's local forger:
//
//     node forge.cjs < groups
//
// Each line of the input is a group as JSON. The first line of the output lists the primitives of
// Michelson that the forger knows; then there is a line for each group, with its bytes in
// hexadecimal digits, as a JSON string, or what went wrong, as {"error": "…"}. NODE_PATH says
// where the packages are.
"use strict";

const { opMapping } = require("@taquito/local-forging/dist/lib/constants.js");
const { LocalForger } = require("@taquito/local-forging");

async function forged(forger, line) {
  try {
    return await forger.forge(JSON.parse(line));
  } catch (error) {
    return { error: `${error.constructor.name}: ${error.message}` };
  }
}

async function main() {
  const forger = new LocalForger(); // of the protocol that it takes for the live one
  console.log(JSON.stringify(Object.values(opMapping)));
  const lines = require("fs").readFileSync(0, "utf8").split("\n");
  for (const line of lines.filter((text) => text)) {
    console.log(JSON.stringify(await forged(forger, line)));
  }
}

main();
