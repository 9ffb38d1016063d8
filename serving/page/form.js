// The form of a new video: two files, dropped, chosen or samples, and what else may be asked for.

import { call, json, model, Refusal } from "./api.js";

const SAMPLES = { picture: ["samples/person.jpg", "image/jpeg"], movement: ["samples/dance.mp4", "video/mp4"] };
const PARAMETERS = { picture: "input_reference", movement: "driving_video" };
const MISSING = { picture: "Choose a picture of the person first.", movement: "Choose a video of the movement first." };
const FIELDS = ["prompt", "size", "seconds", "steps", "seed", "rate", "align", "framing", "anchor", "negative_prompt"];
// By the first 12 bytes; a MOV file may begin with any of several boxes.
const KINDS = {
  picture: [/^(\xff\xd8\xff|\x89PNG|RIFF....WEBP)/s, "it is no JPEG, PNG or WebP picture; choose another file."],
  movement: [
    /^(....(ftyp|moov|mdat|wide|free|skip)|\x1aE\xdf\xa3|RIFF....AVI )/s,
    "it is no MP4, MOV, WebM, Matroska or AVI video; choose another file.",
  ],
};

/**
 * Sets the form up. made(video): told of each new video; failed(error). Returns what else can be done with it:
 * use(video) asks for the same again, describe() tells of the model.
 */
export function setUpForm(form, made, failed) {
  const files = {};
  let key = newKey(); // the same until something is changed: sent again after a lost answer, it makes no second video
  const drop = (kind) => form.querySelector(`[data-kind=${kind}]`);

  const take = async (kind, file, name = file.name) => {
    const wrong = await problem(kind, file);
    if (wrong) return refuse(new Refusal(0, `${name}: ${wrong}`, PARAMETERS[kind]));
    forgive(form);
    const shown = drop(kind).querySelector("img, video");
    if (shown.src) URL.revokeObjectURL(shown.src);
    files[kind] = file;
    shown.src = URL.createObjectURL(file);
    shown.hidden = false;
    drop(kind).querySelector(".hint").textContent = name;
    key = newKey();
  };

  const takeAll = (list) => {
    for (const file of list) {
      if (file.type.startsWith("image/")) take("picture", file);
      else if (file.type.startsWith("video/") || /\.(mkv|avi|mov|mp4|webm)$/i.test(file.name)) take("movement", file);
      else failed(new Error(`${file.name} is neither a picture nor a video; choose a JPEG, PNG, WebP or MP4 file.`));
    }
  };

  /** Marks the field that a refusal is about, and says so by the field's name. */
  const refuse = (error) => {
    const kind = Object.keys(PARAMETERS).find((one) => PARAMETERS[one] === error.parameter);
    const name = error.parameter === "lora" ? styleField(error) : error.parameter;
    const field = kind ? drop(kind).querySelector("input") : name && form.elements[name];
    if (!field) return failed(error);
    const label = (kind ? drop(kind).querySelector("strong") : field.labels[0].firstChild).textContent.trim();
    field.setAttribute("aria-invalid", true);
    if (field.closest("details")) field.closest("details").open = true;
    field.focus();
    const sentence = error.message.replace(`${error.parameter}: `, "");
    failed(new Error(`${label}: ${sentence}`));
  };

  form.addEventListener("input", (event) => {
    key = newKey();
    event.target.removeAttribute("aria-invalid");
  });
  for (const kind of Object.keys(PARAMETERS)) {
    const input = drop(kind).querySelector("input");
    input.addEventListener("change", () => {
      if (input.files.length) take(kind, input.files[0]);
      input.value = ""; // or the same file, once it is mended, would be no change
    });
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
    forgive(form);
    const missing = Object.keys(PARAMETERS).find((kind) => !files[kind]);
    if (missing) {
      drop(missing).querySelector("input").focus();
      return failed(new Error(MISSING[missing]));
    }
    const button = form.querySelector("button.strong");
    button.disabled = true;
    try {
      const video = await json("", { method: "POST", body: body(form, files), headers: { "Idempotency-Key": key } });
      key = newKey();
      made(video);
    } catch (error) {
      refuse(error);
    } finally {
      button.disabled = false;
    }
  });

  const use = async ({ id, options }) => {
    for (const [kind, parameter] of Object.entries(PARAMETERS)) {
      const blob = await (await call(`/${id}/uploads/${parameter}`)).blob();
      await take(kind, new File([blob], parameter, { type: blob.type }), "as before");
    }
    for (const name of FIELDS) form.elements[name].value = options[name] ?? "";
    const [style] = options.lora ?? [];
    form.elements.style.value = style?.name ?? "";
    form.elements.strength.value = style?.strength ?? "";
    form.elements.prompt.focus();
  };

  const describe = () => showModel(form).catch(() => {}); // who may not ask is told by the list of videos
  describe();
  return { use, describe };
}

/** What is wrong with a file for that purpose, if it is seen at once; the server looks closer. */
async function problem(kind, file) {
  const [signature, sentence] = KINDS[kind];
  const first = String.fromCharCode(...new Uint8Array(await file.slice(0, 12).arrayBuffer()));
  if (!signature.test(first)) return sentence;
  if (kind === "movement") return "";
  try {
    (await createImageBitmap(file)).close();
    return "";
  } catch {
    return "it is damaged; export it again, or choose another file.";
  }
}

async function showModel(form) {
  const { id, summary, sizes, rate, steps, seconds, loras } = await model();
  const about = form.querySelector("#model");
  const facts = `${sizes[0].replace("x", " × ")}, ${rate} frames/s, up to ${Math.round(seconds / 60)} min`;
  about.textContent = [`Model ${id}: ${facts}.`, summary].filter(Boolean).join(" ");
  about.hidden = false;
  form.elements.size.placeholder = sizes[0];
  form.elements.steps.placeholder = steps;
  const option = (value) => Object.assign(document.createElement("option"), { value });
  form.querySelector("#sizes").replaceChildren(...sizes.map(option));
  const [none] = form.elements.style.options;
  form.elements.style.replaceChildren(none, ...loras.map((name) => Object.assign(option(name), { textContent: name })));
  form.querySelector("#styles").hidden = !loras.length;
}

/** Which of the style's two fields a refusal is about. */
const styleField = (error) => (/there is no/.test(error.message) ? "style" : "strength");

const forgive = (form) => form.querySelectorAll("[aria-invalid]").forEach((field) => field.removeAttribute("aria-invalid"));

function body(form, files) {
  const sent = new FormData();
  for (const [kind, parameter] of Object.entries(PARAMETERS)) sent.set(parameter, files[kind]);
  for (const name of FIELDS) {
    const value = form.elements[name].value.trim();
    if (value) sent.set(name, value);
  }
  const style = form.elements.style.value;
  const strength = form.elements.strength.value.trim() || "1";
  // As typed, so that it is the server that says what is wrong with it.
  if (style) sent.set("lora", `{"name": ${JSON.stringify(style)}, "strength": ${JSON.stringify(strength)}}`);
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
