// What was drawn before, from the store: it outlives this page. Two drawings that were compared are one card.
import { picture, read } from "./api.js";
import { wantedOf } from "./form.js";
import { say } from "./words.js";

const $ = (id) => document.getElementById(id);
const PAIR = /^page-(\w+)-(base|tuned)$/;
let after = "";
let cards = [];

/** The request id of one side of a drawing of this page. */
export const idOf = (pair, kind) => `page-${pair}-${kind}`;
export const newPair = () => crypto.getRandomValues(new Uint32Array(3)).reduce((text, n) => text + n.toString(36), "");

/** Show the newest, or what comes after what is shown. `open(card)` is called for one that is chosen. */
export async function load(open, { more = false } = {}) {
  const page = await read(`v1/generations?limit=24&after=${encodeURIComponent(more ? after : "")}`);
  after = page.after;
  const found = page.data.filter((one) => one.state === "GENERATION_STATE_SUCCEEDED");
  cards = join([...(more ? cards.flatMap((card) => card.drawings) : []), ...found]);
  $("cards").replaceChildren(...cards.map((card) => build(card, open)));
  $("no-history").hidden = cards.length > 0;
  $("older").hidden = !after;
}

function join(drawings) {
  const found = new Map();
  for (const one of drawings) {
    const pair = PAIR.exec(one.request.request_id);
    const key = pair?.[1] ?? one.id;
    const card = found.get(key) ?? { drawings: [] };
    card.drawings.push(one);
    card.drawings.sort((a, b) => a.request.request_id.localeCompare(b.request.request_id)); // base, then tuned
    found.set(key, card);
  }
  return [...found.values()];
}

const watcher = new IntersectionObserver((seen) => {
  for (const { isIntersecting, target } of seen) {
    if (!isIntersecting) continue;
    watcher.unobserve(target);
    picture(target.dataset.path).then((address) => { target.src = address; }, () => {});
  }
}, { rootMargin: "200px" });

function build(card, open) {
  const { prompt, seed } = card.drawings[0].request;
  const button = Object.assign(document.createElement("button"), { type: "button", className: "card" });
  button.setAttribute("aria-label", say("openOne", { prompt }));
  const pictures = document.createElement("span");
  pictures.className = "thumbs";
  for (const one of card.drawings) {
    const image = Object.assign(document.createElement("img"), { alt: "" });
    image.width = one.request.width;
    image.height = one.request.height;
    image.dataset.path = one.images[0].url.slice(1);
    watcher.observe(image);
    pictures.append(image);
  }
  const text = Object.assign(document.createElement("span"), { className: "text", dir: "auto", textContent: prompt });
  const number = Object.assign(document.createElement("span"), { className: "soft num", dir: "ltr", textContent: seed });
  button.append(pictures, text, number);
  button.addEventListener("click", () => open(card));
  const item = document.createElement("li");
  item.append(button);
  return item;
}

/** The sides of a card, as they were asked for, with their pictures' paths. */
export function sidesOf(card) {
  return card.drawings.map((one) => {
    const asked = wantedOf(one);
    const kind = PAIR.exec(one.request.request_id)?.[2] ?? (asked.adapters.length ? "tuned" : "base");
    return { kind, wanted: asked, paths: one.images.map((image) => image.url.slice(1)) };
  });
}
