// The page: which video is shown follows from the address (#video_..), so a link or the back button leads to it.

import { post, call, json, token } from "./api.js";
import { setUpForm } from "./form.js";
import { Past } from "./past.js";
import { Stage } from "./stage.js";

const at = (id) => document.getElementById(id);
const past = new Past(at("past"), at("none"), at("older"), fail);
const stage = new Stage(fail, (sentence) => (at("live").textContent = sentence), () => past.refresh(), sure);

function fail(error) {
  if (error.status === 401) at("access").open = true;
  at("error").querySelector("span").textContent = error.message;
  at("error").hidden = false;
}

const forgive = () => (at("error").hidden = true);

/** Asks before what cannot be undone. */
function sure(question, yes) {
  const dialog = at("ask");
  at("ask-text").textContent = question;
  dialog.querySelector("[value=yes]").textContent = yes;
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((resolve) =>
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true }),
  );
}

/** Does what a button says; a refusal is shown. */
function act(id, action) {
  at(id).addEventListener("click", async () => {
    forgive();
    try {
      await action();
    } catch (error) {
      fail(error);
    }
    past.refresh();
  });
}

function show() {
  const id = location.hash.slice(1);
  if (id && !id.startsWith("video_")) return; // a place on the page
  forgive();
  past.mark(id);
  stage.open(id);
}

function made(video) {
  forgive();
  location.hash = video.id;
  past.refresh();
}

const form = setUpForm(at("make"), made, fail);

act("reuse", () => form.use(stage.progress.video));

act("retry", async () => {
  const { id, options, uploads } = stage.progress.video;
  const sent = new FormData();
  for (const [name, value] of Object.entries(options)) if (value !== null) sent.set(name, value);
  for (const name of uploads) sent.set(name, await (await call(`/${id}/uploads/${name}`)).blob(), name);
  made(await json("", { method: "POST", body: sent }));
});

act("cancel", async () => {
  if (await sure("Stop making this video? What is finished of it is lost.", "Stop it")) await post(`/${stage.id}/cancel`);
});

act("delete", async () => {
  if (!(await sure("Delete this video and its files?", "Delete it"))) return;
  const { id } = stage;
  location.hash = ""; // first, so that nothing of it is asked for when it is gone
  await call(`/${id}`, { method: "DELETE" });
});

for (const button of at("ask").querySelectorAll("button")) {
  button.addEventListener("click", () => at("ask").close(button.value));
}

at("error").querySelector("button").addEventListener("click", forgive);
at("token").value = token.get();
at("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  token.set(at("token").value.trim());
  at("access").open = false;
  form.describe();
  past.refresh();
  show();
});

addEventListener("hashchange", () => {
  show();
  if (stage.id) at("stage").focus();
});
past.refresh();
show();
