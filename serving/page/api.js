// The endpoint as the page calls it. A refusal is an Error whose message is the server's own sentence.

const ROOT = new URL("../v1/videos", location.href);
const MODELS = new URL("../v1/models", location.href);
const AGAIN = 2000; // milliseconds until a lost stream is asked for again

/** A refused request; status: of HTTP, 0 where no answer came; parameter: the one that is wrong, if it is one. */
export class Refusal extends Error {
  constructor(status, sentence, parameter = null) {
    super(sentence);
    Object.assign(this, { status, parameter });
  }
}

export const token = {
  get: () => sessionStorage.getItem("token") ?? "",
  set: (value) => sessionStorage.setItem("token", value),
};

/** The answer to a request below /v1/videos; raises Refusal. */
export async function call(path = "", options = {}) {
  const headers = new Headers(options.headers);
  if (token.get()) headers.set("Authorization", `Bearer ${token.get()}`);
  let answer;
  try {
    answer = await fetch(path === MODELS ? path : ROOT + path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal(0, "The server does not answer; see whether it runs, then try again.");
  }
  if (!answer.ok) throw await refusal(answer);
  return answer;
}

async function refusal(answer) {
  try {
    const { message, param } = (await answer.json()).error;
    return new Refusal(answer.status, message, param);
  } catch {
    return new Refusal(answer.status, `The server answered ${answer.status}; try again later.`);
  }
}

/** The model that makes the videos; see `serving/api/models.py`. */
export const model = async () => (await json(MODELS)).data[0];

export const json = async (path, options) => (await call(path, options)).json();

export const post = (path, body) =>
  json(path, { method: "POST", body: JSON.stringify(body), headers: { "Content-Type": "application/json" } });

/** An address for media elements, which send no token: the server's own, or that of what was fetched with it. */
export async function address(path) {
  if (!token.get()) return ROOT + path;
  return URL.createObjectURL(await (await call(path)).blob());
}

/** Calls show(progress) with each state of a video until its last; then returns. lost: told of each broken stream. */
export async function follow(id, show, lost, signal) {
  let last = "";
  while (!signal.aborted) {
    try {
      const headers = last ? { "Last-Event-ID": last } : {};
      const answer = await call(`/${id}/events`, { headers, signal });
      if (answer.status === 204) return;
      for await (const event of events(answer.body)) {
        last = event.id;
        const progress = JSON.parse(event.data);
        show(progress);
        if (["completed", "failed"].includes(progress.video.status)) return;
      }
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof Refusal && error.status >= 400 && error.status < 500) throw error;
      lost();
    }
    await new Promise((resolve) => setTimeout(resolve, AGAIN));
  }
}

/** The events of a stream, each its fields by name (text/event-stream of the HTML standard, section 9.2). */
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const blocks = (text + value.replaceAll("\r", "")).split("\n\n");
    text = blocks.pop();
    for (const block of blocks) {
      const lines = block.split("\n").filter((line) => line && !line.startsWith(":"));
      const fields = lines.map((line) => [line.split(":", 1)[0], line.slice(line.indexOf(":") + 1).trimStart()]);
      if (fields.length) yield Object.fromEntries(fields);
    }
  }
}
