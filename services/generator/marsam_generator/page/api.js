// The generator over HTTP: JSON, pictures, and the events of a drawing.
const KEPT = "marsam.token";
const project = new URLSearchParams(location.search).get("project") ?? "default";

/** Something the generator refused, or that kept us from reaching it. */
export class Problem extends Error {
  constructor(status, error, retryAfter) {
    super(error?.marsam?.message ?? error?.message ?? "");
    this.status = status;
    this.code = error?.code ?? "";
    this.remedy = error?.marsam?.remedy ?? "";
    this.retryAfter = retryAfter;
  }
}

export const asked = { project, get token() { return sessionStorage.getItem(KEPT) ?? ""; } };

export function keepToken(token) {
  if (token) sessionStorage.setItem(KEPT, token);
  else sessionStorage.removeItem(KEPT);
}

async function call(path, options = {}) {
  const headers = { "OpenAI-Project": project, ...options.headers };
  if (asked.token) headers.Authorization = `Bearer ${asked.token}`;
  let answer;
  try {
    answer = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0);
  }
  if (!answer.ok) {
    const body = await answer.json().catch(() => ({}));
    throw new Problem(answer.status, body.error, answer.headers.get("retry-after"));
  }
  return answer;
}

export const read = async (path) => (await call(path)).json();

/** Every entry of a list, page by page. */
export async function readAll(path) {
  const found = [];
  let after = "";
  do {
    const page = await read(`${path}?limit=200&after=${encodeURIComponent(after)}`);
    found.push(...page.data);
    after = page.after ?? "";
  } while (after);
  return found;
}

const shown = new Map();

/** A picture's address that an <img> can have: it is fetched with the token, once. */
export function picture(path) {
  if (!shown.has(path)) {
    shown.set(path, call(path).then((answer) => answer.blob()).then((blob) => URL.createObjectURL(blob)));
    shown.get(path).catch(() => shown.delete(path));
  }
  return shown.get(path);
}

/** Draw; `hear(event)` gets each event. Ends with the stream; throws a Problem, or AbortError once `signal` says so. */
export async function draw(body, signal, hear) {
  const answer = await call("v1/images/generations", {
    method: "POST", body: JSON.stringify(body), headers: { "Content-Type": "application/json" }, signal,
  });
  const pieces = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { done, value } = await pieces.read().catch((error) => {
      throw error.name === "AbortError" ? error : new Problem(0);
    });
    if (done) return;
    text += value;
    const frames = text.split("\n\n");
    text = frames.pop();
    for (const frame of frames) {
      const data = frame.split("\n").find((line) => line.startsWith("data: "));
      if (!data) continue;
      const event = JSON.parse(data.slice(6));
      if (event.type === "error") throw new Problem(500, event.error);
      hear(event);
    }
  }
}
