// The same drawing as other programs ask for it. `wanted` is what a drawing was asked for: see `wantedOf` in form.js.
import { asked } from "./api.js";

const quoted = (text) => `'${String(text).replaceAll("'", `'\\''`)}'`;
const bare = (text) => (/^[\w.@/=+-]+$/.test(text) ? String(text) : quoted(text));

/** A shell's line for the command line. */
function marsam(wanted) {
  const words = ["marsam"];
  if (asked.project !== "default") words.push("--project", bare(asked.project));
  words.push("generate", "--model", bare(wanted.model));
  for (const { id, weight } of wanted.adapters) words.push("--adapter", bare(`${id}=${weight}`));
  if (wanted.negative) words.push("--negative", quoted(wanted.negative));
  words.push("--seed", wanted.seed, "--count", wanted.count, "--steps", wanted.steps, "--guidance", wanted.guidance);
  words.push("--scheduler", bare(wanted.scheduler), "--width", wanted.width, "--height", wanted.height);
  words.push("--", quoted(wanted.prompt));
  return words.join(" ");
}

function python(wanted) {
  const text = JSON.stringify;
  const adapters = wanted.adapters.map(({ id, weight }) => `${text(id)}: ${weight}`).join(", ");
  const project = asked.project === "default" ? "" : `project=${text(asked.project)}`;
  return `from pathlib import Path

from marsam.client import Image, Marsam

with Marsam(${project}) as marsam:
    for event in marsam.generation.generate(
        ${text(wanted.prompt)},
        model=${text(wanted.model)},
        adapters={${adapters}},
        negative_prompt=${text(wanted.negative)},
        seed=${wanted.seed},
        count=${wanted.count},
        steps=${wanted.steps},
        guidance=${wanted.guidance},
        scheduler=${text(wanted.scheduler)},
        width=${wanted.width},
        height=${wanted.height},
    ):
        if isinstance(event, Image):
            Path(f"{event.seed}.png").write_bytes(event.data)
`;
}

function grpcurl(wanted, side) {
  const full = (id) => {
    if (id.startsWith("projects/")) return id;
    return `projects/${asked.project}/${id.startsWith("@") ? `aliases/${id.slice(1)}` : `models/${id}`}`;
  };
  const request = {
    parent: `projects/${asked.project}`, model: full(wanted.model),
    adapters: wanted.adapters.map(({ id, weight }) => ({ model: full(id), weight })),
    prompt: wanted.prompt, negative_prompt: wanted.negative, seed: wanted.seed, steps: wanted.steps,
    guidance: wanted.guidance, scheduler: wanted.scheduler, width: wanted.width, height: wanted.height,
    count: wanted.count,
  };
  const words = ["grpcurl"];
  if (!side.tls) words.push("-plaintext");
  // With tokens there is no reflection: the descriptors come from a file.
  if (asked.token) words.push("-protoset dist/protos/marsam.binpb", '-H "authorization: Bearer $MARSAM_TOKEN"');
  words.push("-d", quoted(JSON.stringify(request)), `${location.hostname}:${side.port}`);
  words.push("marsam.api.generator.v1.GeneratorService/Generate");
  return words.join(" ");
}

export const commands = { marsam, python, grpcurl };
