// node story.js FOLDER DATASET BASE PICTURE: import FOLDER as DATASET, commit it, tune BASE on it for a few steps, draw.
import { open, readdir, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { call, connect, explain, follow, upload } from "./connect.js";

const CHUNK = 256 * 1024; // the most that a message may carry
const PROJECT = "projects/default";

// A header, then each file as a header and its bytes. The same request_id sent again gives the first answer.
async function* parts(folder, dataset, requestId) {
  yield { header: { parent: dataset, request_id: requestId, default_rights: { licence: "CC0-1.0" } } };
  for (const path of (await readdir(folder)).sort()) {
    const { size } = await stat(join(folder, path));
    yield { file: { path, size_bytes: size } };
    const file = await open(join(folder, path));
    try {
      for await (const chunk of file.createReadStream({ highWaterMark: CHUNK })) yield { chunk };
    } finally {
      await file.close();
    }
  }
}

async function importFolder(dataset, folder, name) {
  const parent = `${PROJECT}/datasets/${name}`;
  await call(dataset, "CreateDataset", { parent: PROJECT, dataset_id: name, request_id: `create-${name}` });
  const begun = await upload(dataset, "ImportItems", parts(folder, parent, `import-${name}`));
  let done;
  for await (const seen of follow(dataset, "WatchImport", { name: begun.import.name })) done = seen.import;
  if (done.state !== "JOB_STATE_SUCCEEDED") throw new Error(`the import ended as ${done.state}: ${done.message}`);
  console.log(`imported ${done.items_accepted} pictures`);
  const { version } = await call(dataset, "CommitVersion", { parent, request_id: `commit-${name}` });
  console.log(`committed ${version.name}`);
  return version.name;
}

async function train(trainer, base, version, steps) {
  const params = { fields: { rank: { number_value: 2 } } };
  const spec = { base, dataset_version: version, method: "lora", method_params: params, steps };
  const { faults } = await call(trainer, "ValidateRun", { parent: PROJECT, spec }, 180);
  if (faults.length) throw new Error(faults.map((fault) => `${fault.field}: ${fault.message}`).join("\n"));
  const { run } = await call(trainer, "CreateRun", { parent: PROJECT, spec, request_id: `train-${version}`.slice(-64) });
  let last = run;
  for await (const { event, snapshot, progress } of follow(trainer, "WatchRun", { name: run.name })) {
    if (event === "snapshot") last = snapshot;
    if (event === "progress") console.log(`step ${progress.step}/${progress.steps}, loss ${progress.loss.toFixed(4)}`);
  }
  if (last.state !== "JOB_STATE_SUCCEEDED") throw new Error(`the run ended as ${last.state}: ${last.message}`);
  console.log(`trained ${last.model}`);
  return last.model;
}

async function generate(generator, base, adapter, prompt, steps) {
  const request = { parent: PROJECT, model: base, adapters: [{ model: adapter, weight: 1 }], prompt, seed: 7, steps, count: 1 };
  const chunks = [];
  for await (const message of follow(generator, "Generate", request)) {
    if (message.event === "chunk") chunks.push(message.chunk);
  }
  return Buffer.concat(chunks);
}

const [folder, name, base, picture] = process.argv.slice(2);
if (!picture) {
  console.error("node story.js FOLDER DATASET BASE PICTURE");
  process.exit(2);
}
try {
  const services = connect();
  const version = await importFolder(services.dataset, folder, name);
  const model = `${PROJECT}/models/${base}`;
  const adapter = await train(services.trainer, model, version, 4);
  await writeFile(picture, await generate(services.generator, model, adapter, "a grey wall", 3));
  console.log(`drew ${picture}`);
} catch (error) {
  const { reason, message, remedy } = explain(error);
  console.error(`${reason}: ${message}${remedy ? `\ntry: ${remedy}` : ""}`);
  process.exit(1);
}
