// The form of a new video: two files, dropped, chosen or samples, and what else may be asked for.

import { json } from "./api.js";

const SAMPLES = { picture: ["samples/person.jpg", "image/jpeg"], movement: ["samples/dance.mp4", "video/mp4"] };
const PARAMETERS = { picture: "input_reference", movement: "driving_video" };
const MISSING = { picture: "Choose a picture of the person first.", movement: "Choose a video of the movement first." };

/** Sets the form up. made(video, files): told of each new video and the addresses of its files; failed(error). */
export function setUpForm(form, made, failed) {
  const files = {};
  let key = newKey(); // the same until something is changed: sent again after a lost answer, it makes no second video

  const take = (kind, file) => {
    const shown = form.querySelector(`[data-kind=${kind}] :is(img, video)`);
    if (shown.src && !files[kind]?.used) URL.revokeObjectURL(shown.src);
    files[kind] = { file, url: URL.createObjectURL(file), used: false };
    shown.src = files[kind].url;
    shown.hidden = false;
    shown.closest("label").querySelector(".hint").textContent = file.name;
    key = newKey();
  };

  const takeAll = (list) => {
    for (const file of list) {
      if (file.type.startsWith("image/")) take("picture", file);
      else if (file.type.startsWith("video/") || /\.(mkv|avi|mov|mp4|webm)$/i.test(file.name)) take("movement", file);
      else failed(new Error(`${file.name} is neither a picture nor a video; choose a JPEG, PNG, WebP or MP4 file.`));
    }
  };

  form.addEventListener("input", () => (key = newKey()));
  for (const drop of form.querySelectorAll(".drop")) {
    const input = drop.querySelector("input");
    input.addEventListener("change", () => input.files.length && take(drop.dataset.kind, input.files[0]));
  }
  dropAnywhere(takeAll);

  form.querySelector("#samples").addEventListener("click", async () => {
    for (const [kind, [path, type]] of Object.entries(SAMPLES)) {
      const blob = await (await fetch(path)).blob();
      take(kind, new File([blob], path.split("/").pop(), { type }));
    }
  });

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const missing = Object.keys(PARAMETERS).find((kind) => !files[kind]);
    if (missing) {
      form.querySelector(`[data-kind=${missing}] input`).focus();
      return failed(new Error(MISSING[missing]));
    }
    const button = form.querySelector("button.strong");
    button.disabled = true;
    try {
      const video = await json("", { method: "POST", body: body(form, files), headers: { "Idempotency-Key": key } });
      for (const kind in files) files[kind].used = true;
      key = newKey();
      made(video, { picture: files.picture.url, movement: files.movement.url });
    } catch (error) {
      failed(error);
    } finally {
      button.disabled = false;
    }
  });
}

function body(form, files) {
  const sent = new FormData();
  for (const [kind, parameter] of Object.entries(PARAMETERS)) sent.set(parameter, files[kind].file);
  for (const field of form.elements) {
    if (field.name && field.value.trim()) sent.set(field.name, field.value.trim());
  }
  return sent;
}

function dropAnywhere(take) {
  const over = (is) => document.body.classList.toggle("over", is);
  addEventListener("dragover", (event) => {
    event.preventDefault();
    over(true);
  });
  addEventListener("dragleave", (event) => event.relatedTarget || over(false));
  addEventListener("drop", (event) => {
    event.preventDefault();
    over(false);
    take(event.dataTransfer.files);
  });
}

function newKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16)); // randomUUID needs https
  return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
