// What is asked for: the form's fields, filled from the model's own defaults and from earlier drawings.
import { read, readAll } from "./api.js";
import { say } from "./words.js";

const $ = (id) => document.getElementById(id);
const SHAPES = [[1, 1], [4, 3], [3, 4], [3, 2], [2, 3], [16, 9], [9, 16]];
let models = [];
let adapters = [];
const weights = new Map(); // id -> weight, of the adapters in use
let defaults = null;

/** Ask what there is, and fill the form with the first model's own. */
export async function furnish() {
  const [listed, uses] = await Promise.all([read("v1/models"), readAll("v1/adapters")]);
  models = listed.data;
  adapters = uses.filter((one) => one.kind === "adapter");
  const chosen = models.find((one) => adapters.some((use) => use.base_id === one.id)) ?? models[0];
  $("model").replaceChildren(...models.map((one) => new Option(one.display_name || one.id, one.id)));
  if (!chosen) return false;
  await choose(chosen.id);
  const [first] = usable();
  if (first) weights.set(first.id, 1);
  showUses();
  roll();
  return true;
}

/** Take a model: its adapters, its sizes, its schedulers, its defaults. */
export async function choose(id) {
  $("model").value = id;
  const answer = await read(`v1/models/${encodeURIComponent(id)}`);
  defaults = answer.defaults;
  weights.clear();
  $("steps").value = defaults.steps;
  $("guidance").value = defaults.guidance;
  $("scheduler").replaceChildren(...defaults.schedulers.map((name) => new Option(name, name)));
  $("size").replaceChildren(...sizes(defaults).map((size) => new Option(size.replace("x", " × "), size)));
  showUses();
}

const usable = () => adapters.filter((one) => one.base_id === $("model").value);

/** Sizes of about as many pixels as the base was made for, whole multiples of what it needs. */
function sizes({ side, multiple, smallest, largest }) {
  const fit = (value) => Math.min(largest, Math.max(smallest, Math.round(value / multiple) * multiple));
  return [...new Set(SHAPES.map(([a, b]) => `${fit(side * Math.sqrt(a / b))}x${fit(side * Math.sqrt(b / a))}`))];
}

export function showUses() {
  $("uses").replaceChildren(...usable().map(row));
  $("no-adapters").hidden = usable().length > 0;
  $("compare").disabled = weights.size === 0 && !tunedFrom();
}

function row({ id }) {
  const item = document.createElement("li");
  const label = document.createElement("label");
  const box = Object.assign(document.createElement("input"), { type: "checkbox", checked: weights.has(id) });
  box.dataset.adapter = id;
  const name = Object.assign(document.createElement("bdi"), { textContent: id });
  label.append(box, name);
  const weight = Object.assign(document.createElement("input"), {
    type: "range", min: 0, max: 1.5, step: 0.05, value: weights.get(id) ?? 1, disabled: !box.checked,
  });
  weight.setAttribute("aria-label", say("weight", { name: id }));
  const number = Object.assign(document.createElement("output"), { textContent: (+weight.value).toFixed(2) });
  box.addEventListener("change", () => {
    if (box.checked) weights.set(id, +weight.value);
    else weights.delete(id);
    weight.disabled = !box.checked;
    $("compare").disabled = weights.size === 0 && !tunedFrom();
  });
  weight.addEventListener("input", () => {
    weights.set(id, +weight.value);
    number.textContent = (+weight.value).toFixed(2);
  });
  item.append(label, weight, number);
  return item;
}

/** The base of a fully tuned model; "" for a base. */
const tunedFrom = () => models.find((one) => one.id === $("model").value)?.base_id ?? "";

export function roll() {
  $("seed").value = crypto.getRandomValues(new Uint32Array(1))[0];
}

/** What the form asks for. */
export function wanted() {
  const [width, height] = $("size").value.split("x").map(Number);
  return {
    prompt: $("prompt").value.trim(), negative: $("negative").value.trim(), model: $("model").value,
    adapters: [...weights].map(([id, weight]) => ({ id, weight })), seed: +$("seed").value, count: +$("count").value,
    steps: +$("steps").value, guidance: +$("guidance").value, scheduler: $("scheduler").value, width, height,
  };
}

/** The drawings to make: one, or what it is compared with and itself. */
export function sides() {
  const asked = wanted();
  const plain = { ...asked, adapters: [], model: tunedFrom() || asked.model };
  const differs = asked.adapters.length > 0 || tunedFrom();
  if (!differs) return [{ kind: "base", wanted: asked }];
  const tuned = { kind: "tuned", wanted: asked };
  return $("compare").checked ? [{ kind: "base", wanted: plain }, tuned] : [tuned];
}

/** What an earlier drawing was asked for, from its record. */
export function wantedOf({ request }) {
  const id = (name) => (name.includes("/aliases/") ? `@${name.split("/").pop()}` : name.split("/").pop());
  return {
    prompt: request.prompt, negative: request.negative_prompt, model: id(request.model),
    adapters: request.adapters.map((use) => ({ id: id(use.model), weight: use.weight })), seed: request.seed,
    count: request.count, steps: request.steps, guidance: request.guidance, scheduler: request.scheduler,
    width: request.width, height: request.height,
  };
}

/** Fill the form with an earlier drawing. */
export async function restore(earlier) {
  if (!models.some((one) => one.id === earlier.model)) return;
  await choose(earlier.model);
  for (const { id, weight } of earlier.adapters) weights.set(id, weight);
  const size = `${earlier.width}x${earlier.height}`;
  if (![...$("size").options].some((one) => one.value === size)) $("size").add(new Option(size.replace("x", " × "), size));
  $("size").value = size;
  for (const name of ["prompt", "seed", "count", "steps", "guidance", "scheduler"]) $(name).value = earlier[name];
  $("negative").value = earlier.negative;
  $("lock").checked = true;
  showUses();
}
