// Scores images for a prompt: one on a call of its own, several on one stream.
//
//   npm ci && node score.js [--tls-ca FILE] TARGET PROMPT IMAGE...
//
// TARGET is 127.0.0.1:50051, or dns:///NAME:50051 for every address of a name. An API key is read from PCQA_API_KEY.

import { randomUUID } from "node:crypto";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { parseArgs, promisify } from "node:util";

import grpc from "@grpc/grpc-js";
import protoLoader from "@grpc/proto-loader";

const path = (relative) => fileURLToPath(new URL(relative, import.meta.url));
const ATTEMPTS = 5;

const definition = protoLoader.loadSync("pcqa/v1/scoring.proto", {
  includeDirs: [path("../../../proto")],
  enums: String,
  longs: Number,
  oneofs: true,
});
const { ScoringService } = grpc.loadPackageDefinition(definition).pcqa.v1;

/** A client: one for the life of the program. */
function connect(target, ca) {
  const credentials = ca ? grpc.credentials.createSsl(readFileSync(ca)) : grpc.credentials.createInsecure();
  return new ScoringService(target, credentials, {
    "grpc.service_config": readFileSync(path("../service-config.json"), "utf8"),
    // What is larger is not retried, and the defaults are 1 MiB a call and 16 MiB in all.
    "grpc.per_rpc_retry_buffer_size": 64 << 20,
    "grpc.retry_buffer_size": 256 << 20,
  });
}

/** Who calls, and a name for the call that the server's log and its answer repeat. */
function metadata() {
  const metadata = new grpc.Metadata();
  metadata.set("x-request-id", randomUUID());
  if (process.env.PCQA_API_KEY) metadata.set("authorization", `Bearer ${process.env.PCQA_API_KEY}`);
  return metadata;
}

/** The score of one image. The service config has its deadline and its retries. */
async function scoreOne(service, prompt, file) {
  const scoreImage = promisify(service.scoreImage).bind(service);
  const { score } = await scoreImage({ prompt, image: await readFile(file) }, metadata());
  return score;
}

/**
 * [file, answer] of many images, as they finish.
 *
 * A stream that has begun ends with its replica: what is unanswered then goes on the next one, until ATTEMPTS of them in
 * a row have brought nothing.
 */
async function* scoreMany(service, prompt, files) {
  const unanswered = new Map(files.map((file, index) => [String(index), file]));
  for (let attempt = 1; unanswered.size > 0; attempt++) {
    try {
      for await (const answer of oneStream(service, prompt, new Map(unanswered))) {
        attempt = 1;
        yield [unanswered.get(answer.itemId), answer];
        unanswered.delete(answer.itemId);
      }
    } catch (error) {
      if (error.code !== grpc.status.UNAVAILABLE || attempt >= ATTEMPTS) throw error;
      await sleep(Math.min(100 * 2 ** attempt, 2000));
    }
  }
}

/** The answers for `files`. Each is read when there is room for it and no sooner. */
async function* oneStream(service, prompt, files) {
  const call = service.scoreStream(metadata());
  const send = async (itemId) => {
    const image = await readFile(files.get(itemId));
    const hasRoom = call.write({ itemId, prompt, image, priority: "PRIORITY_BULK" });
    if (!hasRoom) await once(call, "drain");
  };
  const sendAll = async () => {
    for (const itemId of files.keys()) await send(itemId);
  };
  const failed = (error) => call.destroy(error);
  sendAll().catch(failed);
  let left = files.size;
  for await (const answer of call) {
    if (answer.error?.retryDelay) {
      const { seconds, nanos } = answer.error.retryDelay;
      sleep(seconds * 1e3 + nanos / 1e6).then(() => send(answer.itemId)).catch(failed);
      continue;
    }
    left -= 1;
    if (left === 0) call.end();
    yield answer;
  }
}

const { values, positionals } = parseArgs({ options: { "tls-ca": { type: "string" } }, allowPositionals: true });
const [target, prompt, ...images] = positionals;
if (images.length === 0) {
  console.error("usage: node score.js [--tls-ca FILE] TARGET PROMPT IMAGE...");
  process.exit(2);
}
const service = connect(target, values["tls-ca"]);
try {
  if (images.length === 1) {
    const score = await scoreOne(service, prompt, images[0]);
    console.log(`${score.mos.toFixed(4)} ${images[0]}`);
  } else {
    for await (const [file, { score, error }] of scoreMany(service, prompt, images)) {
      if (score) console.log(`${score.mos.toFixed(4)} ${file}`);
      else {
        process.exitCode = 1;
        console.error(`${file}: ${error.message}`);
      }
    }
  }
} catch (error) {
  process.exitCode = 1;
  console.error(error.code in grpc.status ? `${grpc.status[error.code]}: ${error.details}` : error);
} finally {
  service.close();
}
