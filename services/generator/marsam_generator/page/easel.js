// The pictures being drawn: a row of frames for each seed, a frame for each side.
import { say } from "./words.js";

const $ = (id) => document.getElementById(id);
let frames = [];

function made(tag, fields = {}, ...inside) {
  const element = Object.assign(document.createElement(tag), fields);
  element.append(...inside);
  return element;
}

/** What a side is called: its model, and its adapters with their weights. */
export function title({ model, adapters }) {
  return [model, ...adapters.map(({ id, weight }) => `${id} ${weight}`)].join(" + ");
}

/** Two bare frames, and what they are for. */
export function empty(text = say("emptyText")) {
  frames = [];
  const bare = () => made("div", { className: "canvas bare" });
  const words = made("div", { className: "invitation" }, made("p", { className: "large", textContent: say("emptyTitle") }),
    made("p", { className: "soft", textContent: text }));
  $("easel").replaceChildren(made("div", { className: "sides two" }, bare(), bare()), words);
}

/** Frames of the size that the pictures will have, so that nothing moves when they come. */
export function set(sides) {
  const { count, width, height, seed, prompt } = sides[0].wanted;
  frames = sides.map(() => []);
  const rows = Array.from({ length: count }, (_, index) => {
    const row = sides.map((side, place) => {
      const frame = build(side, index, { width, height, seed: seed + index, prompt });
      frames[place][index] = frame;
      return frame.figure;
    });
    return made("div", { className: sides.length > 1 ? "sides two" : "sides" }, ...row);
  });
  $("easel").replaceChildren(...rows);
}

function build(side, index, { width, height, seed, prompt }) {
  const canvas = made("div", { className: "canvas" });
  canvas.style.aspectRatio = `${width} / ${height}`;
  const image = made("img", { hidden: true });
  image.alt = say("picture", { what: title(side.wanted), seed, prompt });
  const bar = made("progress", { max: 1, value: 0 });
  bar.setAttribute("aria-label", title(side.wanted));
  canvas.append(image, bar);
  const what = made("span", { className: `what ${side.kind}`, textContent: say(side.kind) });
  const name = made("bdi", { className: "mono", textContent: title(side.wanted) });
  const state = made("span", { className: "state num", textContent: say("waiting") });
  const save = made("a", { className: "save", textContent: "↓", hidden: true, download: `${side.kind}-${seed}.png` });
  save.title = say("download", { i: index + 1 });
  save.setAttribute("aria-label", save.title);
  const caption = made("figcaption", {}, what, name, made("span", { className: "end" }, state, save));
  const figure = made("figure", {}, caption, canvas);
  figure.dataset.side = side.kind;
  return { figure, image, bar, state, save };
}

/** How far a side is, as words and as a share. */
export function progress(place, text, share) {
  for (const frame of frames[place]) {
    if (!frame.figure.classList.contains("ready")) {
      frame.state.textContent = text;
      frame.bar.value = share;
    }
  }
}

/** A look at a picture on its way. */
export function look(place, index, data) {
  const frame = frames[place][index];
  if (!frame.figure.classList.contains("ready")) show(frame, `data:image/jpeg;base64,${data}`);
  frame.figure.classList.add("looked");
}

/** A picture that is done, from an address. */
export function ready(place, index, address, suffix = "png") {
  const frame = frames[place][index];
  show(frame, address);
  frame.figure.classList.add("ready");
  frame.save.href = address;
  frame.save.download = frame.save.download.replace(/\w+$/, suffix);
  frame.save.hidden = false;
  frame.bar.hidden = true;
}

/** What is said under a side's pictures at the end; those that did not come lose their bar. */
export function end(place, text) {
  for (const frame of frames[place]) {
    frame.state.textContent = text;
    frame.bar.hidden = true;
  }
}

function show(frame, address) {
  frame.image.src = address;
  frame.image.hidden = false;
}
