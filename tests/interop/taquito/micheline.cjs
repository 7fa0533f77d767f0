// Reads Michelson texts with Taquito:
//
//     node micheline.cjs FILE
//
// prints, as JSON, the expressions of a JSON list of texts. NODE_PATH says where the packages are.
"use strict";

const { readFileSync } = require("node:fs");
const { Parser } = require("@taquito/michel-codec");

const parser = new Parser({ expandMacros: false });
const texts = JSON.parse(readFileSync(process.argv[2], "utf-8"));
// At the top, it takes a primitive with arguments in a sequence only.
const read = (text) => parser.parseMichelineExpression(`{ ${text} }`)[0];
console.log(JSON.stringify(texts.map(read)));
