// The services of Marsam as grpc-js clients: addresses, token and certificates come from the environment, as for `marsam`.
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";

const PROTOS = process.env.MARSAM_PROTOS ?? fileURLToPath(new URL("../../../dist/protos", import.meta.url)); // make protos
const FILES = ["dataset/v1/dataset", "trainer/v1/trainer", "generator/v1/generator"].map((n) => `marsam/api/${n}.proto`);
const DETAILS = "grpc-status-details-bin";

const loaded = loader.loadSync([...FILES, "google/rpc/status.proto", "google/rpc/error_details.proto"], {
  includeDirs: [PROTOS],
  keepCase: true,
  longs: Number,
  enums: String,
  oneofs: true,
  defaults: true,
});
const { marsam } = grpc.loadPackageDefinition(loaded);
const ErrorInfo = loaded["google.rpc.ErrorInfo"];
const Status = loaded["google.rpc.Status"];

export function connect(env = process.env) {
  const endpoints = JSON.parse(readFileSync(env.MARSAM_ENDPOINTS ?? ".marsam/endpoints.json", "utf8"));
  const client = (Service, { grpc: address }) => {
    const secure = address.startsWith("https://") || env.MARSAM_TLS_CA_FILE;
    const roots = env.MARSAM_TLS_CA_FILE ? readFileSync(env.MARSAM_TLS_CA_FILE) : null;
    const credentials = secure ? grpc.credentials.createSsl(roots) : grpc.credentials.createInsecure();
    return new Service(address.replace(/^https?:\/\//, ""), credentials);
  };
  return {
    dataset: client(marsam.api.dataset.v1.DatasetService, endpoints.dataset),
    trainer: client(marsam.api.trainer.v1.TrainerService, endpoints.trainer),
    generator: client(marsam.api.generator.v1.GeneratorService, endpoints.generator),
  };
}

function metadata() {
  const made = new grpc.Metadata();
  if (process.env.MARSAM_TOKEN) made.set("authorization", `Bearer ${process.env.MARSAM_TOKEN}`);
  return made;
}

const deadline = (seconds) => ({ deadline: Date.now() + 1000 * seconds });

// One request, one answer. gRPC sets no deadline by itself: every call of ours has one.
export function call(client, method, request, seconds = 30) {
  return new Promise((resolve, reject) => {
    client[method](request, metadata(), deadline(seconds), (error, answer) => (error ? reject(error) : resolve(answer)));
  });
}

// Sends what `requests` yields, at the pace of the service, and gives its answer.
export function upload(client, method, requests, seconds = 600) {
  return new Promise((resolve, reject) => {
    const stream = client[method](metadata(), deadline(seconds), (error, answer) => (error ? reject(error) : resolve(answer)));
    (async () => {
      for await (const request of requests) {
        if (!stream.write(request)) await new Promise((drained) => stream.once("drain", drained));
      }
      stream.end();
    })().catch((error) => {
      stream.cancel();
      reject(error);
    });
  });
}

// The messages of a server stream; leaving the loop cancels the call on the service.
export async function* follow(client, method, request, seconds = 600) {
  const stream = client[method](request, metadata(), deadline(seconds));
  try {
    yield* stream;
  } finally {
    stream.cancel();
  }
}

// What Marsam says of a failure: a stable reason, a sentence, and what to do.
export function explain(error) {
  const details = error.metadata?.get(DETAILS) ?? [];
  for (const packed of details.length ? Status.deserialize(details[0]).details : []) {
    if (packed.type_url.endsWith("/google.rpc.ErrorInfo")) {
      const info = ErrorInfo.deserialize(packed.value);
      return { reason: info.reason, message: error.details, remedy: info.metadata.remedy ?? "" };
    }
  }
  return { reason: grpc.status[error.code] ?? "UNKNOWN", message: error.details ?? error.message, remedy: "" };
}
