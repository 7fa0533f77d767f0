// Asks a signer for signatures, as an application on Taquito does:
//
//     node client.cjs URL '[{"pkh": "tz1…", "watermark": "03", "bytes": "00ab…"}, …]'
//
// prints what came of each request, as JSON. NODE_PATH says where the packages are.
"use strict";

const { RemoteSigner } = require("@taquito/remote-signer");
// Of another version than the one in RemoteSigner, and so with other cryptography.
const { getPkhfromPk, verifySignature } = require("@taquito/utils");

const unhex = (hex) => Uint8Array.from(Buffer.from(hex, "hex"));

async function attempt(work) {
  try {
    return await work();
  } catch (error) {
    return { error: error.constructor.name, status: error.cause?.status ?? error.status };
  }
}

async function ask(url, { pkh, watermark, bytes }) {
  const signer = new RemoteSigner(pkh, url);
  const key = await attempt(async () => {
    const publicKey = await signer.publicKey();
    return { publicKey, hash: getPkhfromPk(publicKey) };
  });
  const signed = await attempt(async () => {
    const { prefixSig } = await signer.sign(bytes, unhex(watermark));
    const changed = bytes.replace(/.$/, (digit) => (digit === "0" ? "1" : "0"));
    return {
      signature: prefixSig,
      verifies: verifySignature(bytes, key.publicKey, prefixSig, unhex(watermark)),
      verifiesChanged: verifySignature(changed, key.publicKey, prefixSig, unhex(watermark)),
    };
  });
  return { key, signed };
}

async function main(url, requests) {
  const results = [];
  for (const request of requests) {
    results.push(await ask(url, request));
  }
  console.log(JSON.stringify(results));
}

main(process.argv[2], JSON.parse(process.argv[3]));
