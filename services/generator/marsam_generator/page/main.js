// The page: what its parts do to each other.
import { Problem, asked, draw, keepToken, picture, read } from "./api.js";
import { commands } from "./commands.js";
import * as easel from "./easel.js";
import { choose, furnish, restore, roll, showUses, sides } from "./form.js";
import * as history from "./history.js";
import { dress, say, turn } from "./words.js";

const $ = (id) => document.getElementById(id);
let side = { port: 0, tls: false }; // gRPC's
let drawn = null; // what the stage shows: sides
let stopping = null; // AbortController while something is drawn

function tell(error) {
  if (error.status === 401) {
    $("token-open").hidden = false;
    $("token-dialog").showModal();
    return;
  }
  if (!(error instanceof Problem)) throw error;
  const words = error.status === 0 ? [say("gone"), "", say("goneWhat")]
    : error.status === 429 || error.status === 503 ? [say("busy"), error.message, error.remedy]
      : [say("wrong"), error.message, error.remedy];
  const again = error.retryAfter ? say("again", { s: error.retryAfter }) : "";
  const [head, ...rest] = words;
  const title = Object.assign(document.createElement("strong"), { textContent: head });
  const lines = [...rest, again].filter(Boolean).map((text) =>
    Object.assign(document.createElement("p"), { textContent: text, dir: "auto" }));
  $("problem").replaceChildren(title, ...lines);
  $("problem").hidden = false;
}

function calm() {
  $("problem").hidden = true;
  $("warnings").replaceChildren();
}

function warn(texts) {
  const known = new Set([...$("warnings").children].map((item) => item.textContent));
  for (const text of texts) {
    if (known.has(text)) continue;
    $("warnings").append(Object.assign(document.createElement("li"), { textContent: text, dir: "auto" }));
    known.add(text);
  }
}

function busy(on) {
  $("draw").hidden = on;
  $("cancel").hidden = !on;
  if (on) $("cancel").focus();
  else if (document.activeElement === document.body) $("draw").focus();
}

async function submit(event) {
  event.preventDefault();
  if (stopping || !$("form").reportValidity()) return;
  // A seed that was typed is meant; the one that was just drawn is not, unless it is kept.
  if (!$("lock").checked && drawn?.at(-1).wanted.seed === +$("seed").value) roll();
  calm();
  drawn = sides();
  easel.set(drawn);
  showCode();
  stopping = new AbortController();
  busy(true);
  $("status").textContent = say("loading");
  $("stage").scrollIntoView({ block: "nearest" });
  const pair = history.newPair();
  const ends = await Promise.allSettled(drawn.map((one, place) => drawSide(one, place, pair, stopping.signal)));
  stopping = null;
  busy(false);
  const failures = ends.filter((end) => end.status === "rejected" && end.reason.name !== "AbortError");
  $("status").textContent = ends.every((end) => end.status === "fulfilled") ? say("finished") : "";
  if (failures.length) tell(failures[0].reason);
  await history.load(open).catch(tell);
}

async function drawSide({ kind, wanted }, place, pair, signal) {
  const began = performance.now();
  const mix = [wanted.model, ...wanted.adapters.map(({ id, weight }) => `${id}:${weight}`)].join("+");
  const body = {
    model: mix, prompt: wanted.prompt, negative_prompt: wanted.negative, n: wanted.count, seed: wanted.seed,
    size: `${wanted.width}x${wanted.height}`, steps: wanted.steps, guidance: wanted.guidance,
    scheduler: wanted.scheduler, stream: true,
    marsam: {
      events: true, request_id: history.idOf(pair, kind),
      preview: { every_steps: Math.max(1, Math.floor(wanted.steps / 12)), max_side: 512 },
    },
  };
  try {
    await draw(body, signal, (event) => {
      if (event.type === "marsam.accepted") {
        $("status").textContent = say("drawing");
        warn(event.warnings);
        const texts = [say("waiting")];
        if (event.queue_position) texts.push(say("place", { n: event.queue_position }));
        if (event.work_seconds >= 1) texts.push(say("about", { s: Math.ceil(event.work_seconds) }));
        easel.progress(place, texts.join(" · "), 0);
      } else if (event.type === "marsam.progress" && event.step) {
        const eta = event.eta_seconds >= 1 ? ` · ${say("about", { s: Math.ceil(event.eta_seconds) })}` : "";
        const text = event.step < event.steps ? say("step", { a: event.step, b: event.steps }) + eta : say("decoding");
        easel.progress(place, text, event.step / event.steps);
      } else if (event.type === "image_generation.partial_image") {
        easel.look(place, event.marsam.index, event.b64_json);
      } else if (event.type === "image_generation.completed") {
        const bytes = Uint8Array.from(atob(event.b64_json), (letter) => letter.charCodeAt(0));
        const blob = new Blob([bytes], { type: `image/${event.output_format}` });
        easel.ready(place, event.marsam.index, URL.createObjectURL(blob), event.output_format);
      }
    });
    easel.end(place, say("done", { s: ((performance.now() - began) / 1000).toFixed(1) }));
  } catch (error) {
    easel.end(place, say(error.name === "AbortError" ? "stopped" : "failed"));
    throw error;
  }
}

/** Show an earlier drawing, and take its settings. */
async function open(card) {
  if (stopping) return;
  calm();
  $("status").textContent = "";
  const shown = history.sidesOf(card);
  drawn = shown;
  easel.set(shown);
  showCode();
  $("stage").scrollIntoView({ block: "nearest" });
  try {
    await restore(shown.at(-1).wanted);
    $("compare").checked = shown.length > 1 || $("compare").checked;
    await Promise.all(shown.map(async ({ paths }, place) => {
      await Promise.all(paths.map(async (path, index) => easel.ready(place, index, await picture(path))));
      easel.end(place, "");
    }));
  } catch (error) {
    tell(error);
  }
}

function showCode() {
  const as = document.querySelector("[role=tab][aria-selected=true]").dataset.as;
  $("after").hidden = !drawn;
  if (drawn) $("code").textContent = commands[as](drawn.at(-1).wanted, side);
}

function pick(tab) {
  for (const one of $("tabs").querySelectorAll("[role=tab]")) {
    one.setAttribute("aria-selected", one === tab);
    one.tabIndex = one === tab ? 0 : -1;
  }
  $("code").setAttribute("aria-labelledby", tab.id);
  showCode();
}

async function copy() {
  try {
    await navigator.clipboard.writeText($("code").textContent);
    $("copy").textContent = say("copied");
    setTimeout(() => { $("copy").textContent = say("copy"); }, 1500);
  } catch {
    // Not over plain HTTP of another machine: it is marked, to be copied by hand.
    getSelection().selectAllChildren($("code"));
  }
}

async function begin() {
  $("token-open").hidden = !asked.token;
  easel.empty(say("loading"));
  try {
    const able = await read("v1/capabilities");
    side = able.grpc;
    $("steps").max = able.max_steps;
    $("device").textContent = `${able.device} · ${able.precision} · ${able.engine}`;
    const some = await furnish();
    easel.empty(some ? undefined : say("noModels"));
    $("draw").disabled = !some;
    await history.load(open);
  } catch (error) {
    easel.empty();
    tell(error);
  }
}

$("form").addEventListener("submit", submit);
$("prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) submit(event);
});
$("cancel").addEventListener("click", () => stopping?.abort());
$("dice").addEventListener("click", roll);
$("model").addEventListener("change", () => choose($("model").value).catch(tell));
$("older").addEventListener("click", () => history.load(open, { more: true }).catch(tell));
$("copy").addEventListener("click", copy);
$("tabs").addEventListener("click", (event) => {
  const tab = event.target.closest("[role=tab]");
  if (tab) pick(tab);
});
$("tabs").addEventListener("keydown", (event) => {
  const tabs = [...$("tabs").querySelectorAll("[role=tab]")];
  const ahead = document.documentElement.dir === "rtl" ? "ArrowLeft" : "ArrowRight";
  if (!["ArrowLeft", "ArrowRight"].includes(event.key) || !tabs.includes(event.target)) return;
  const next = tabs.at((tabs.indexOf(event.target) + (event.key === ahead ? 1 : -1)) % tabs.length);
  pick(next);
  next.focus();
});
$("language").addEventListener("click", () => {
  turn();
  showUses();
  if (!drawn) easel.empty();
  history.load(open).catch(tell);
});
$("token-open").addEventListener("click", () => $("token-dialog").showModal());
$("token-dialog").addEventListener("close", () => {
  if ($("token-dialog").returnValue !== "keep") return;
  keepToken($("token").value.trim());
  $("token").value = "";
  calm();
  begin();
});

dress();
begin();
