// The same drawing as other programs ask for it. `wanted` is what a drawing was asked for: see `wantedOf` in form.js.
import { asked } from "./api.js";

const quoted = (text) => `'${String(text).replaceAll("'", `'\\''`)}'`;
const bare = (text) => (/^[\w.@/=+-]+$/.test(text) ? String(text) : quoted(text));

// A shell's command, over several lines.
const folded = (lines) => lines.filter(Boolean).join(" \\\n  ");

function marsam(wanted) {
  const project = asked.project === "default" ? "" : `--project ${bare(asked.project)} `;
  return folded([
    `marsam ${project}generate`,
    `--model ${bare(wanted.model)}`,
    ...wanted.adapters.map(({ id, weight }) => `--adapter ${bare(`${id}=${weight}`)}`),
    wanted.negative && `--negative ${quoted(wanted.negative)}`,
    `--seed ${wanted.seed} --count ${wanted.count}`,
    `--steps ${wanted.steps} --guidance ${wanted.guidance}`,
    `--scheduler ${bare(wanted.scheduler)}`,
    `--width ${wanted.width} --height ${wanted.height}`,
    `-- ${quoted(wanted.prompt)}`,
  ]);
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
  return folded([
    side.tls ? "grpcurl" : "grpcurl -plaintext",
    // With tokens there is no reflection: the descriptors come from a file.
    asked.token && '-protoset dist/protos/marsam.binpb -H "authorization: Bearer $MARSAM_TOKEN"',
    `-d ${quoted(JSON.stringify(request))}`,
    `${location.hostname}:${side.port} marsam.api.generator.v1.GeneratorService/Generate`,
  ]);
}

export const commands = { marsam, python, grpcurl };
