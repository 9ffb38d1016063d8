// One video: how far it is, its plan, what there is to see of it, what may be done with it.

import { address, follow, json, post } from "./api.js";
import { GrowingVideo } from "./growing.js";
import { Making } from "./making.js";
import { moment, title } from "./past.js";
import { Timeline } from "./timeline.js";

const at = (id) => document.getElementById(id);
const player = () => at("result").querySelector("video");
const list = (numbers) => numbers.join(", ").replace(/, (\d+)$/, " and $1");

export class Stage {
  /**
   * failed(error); said(sentence): for those who listen; changed(): the list of videos is out of date; sure(question,
   * yes): whether the visitor wants it.
   */
  constructor(failed, said, changed, sure) {
    Object.assign(this, { failed, said, changed, sure, id: "", ending: new AbortController() });
    this.timeline = new Timeline(at("timeline"), (index) => this.pick(index));
    this.making = new Making(at("making"));
    at("segment").addEventListener("submit", (event) => this.regenerate(event));
    this.playTogether();
  }

  /** Shows the video of an id, or none. */
  open(id) {
    this.ending.abort();
    this.growing?.close();
    this.ending = new AbortController();
    Object.assign(this, { id, told: "", final: "", growing: null, frames: 0, joined: 0, progress: null });
    at("empty").hidden = Boolean(id);
    at("job").hidden = true;
    this.timeline.plan([]);
    this.making.hide();
    this.pick(null);
    this.clear();
    document.title = "PoseGen";
    if (id) this.follow();
  }

  async follow() {
    const { signal } = this.ending;
    const lost = () => (at("status").textContent = "The server does not answer; trying again.");
    try {
      await follow(this.id, (progress) => signal.aborted || this.update(progress), lost, signal);
    } catch (error) {
      if (!signal.aborted) this.failed(error);
    }
  }

  /** Shows a state as the endpoint's events tell it. */
  update(progress) {
    const { video, segments, stitch } = progress;
    at("job").hidden = false;
    at("stage-title").textContent = title(video);
    at("facts").textContent = facts(video);
    document.title = `${heading(progress)} · PoseGen`;
    if (video.status !== this.progress?.video.status) this.changed();
    if (!this.progress) this.showFiles(video).catch((error) => this.failed(error));
    this.progress = progress;
    at("result").querySelector(".wait").textContent = waiting(progress);
    this.frames = stitch?.steps ?? 0;
    this.status(progress);
    for (const [name, stage] of Object.entries(stages(progress))) showStage(name, stage, video.status);
    at("plan").hidden = !segments.length;
    if (segments.length) this.plan(progress);
    this.making.update(progress).catch((error) => this.failed(error));
    this.watch(progress).catch((error) => this.failed(error));
    const ended = ["completed", "failed"].includes(video.status);
    at("cancel").hidden = ended;
    at("delete").hidden = !ended;
    at("reuse").hidden = !video.uploads.includes("driving_video");
    at("retry").hidden = at("reuse").hidden || video.status !== "failed";
  }

  status(progress) {
    const sentence = told(progress);
    at("status").textContent = sentence.text;
    at("status").dataset.status = progress.video.status;
    at("notes").hidden = !progress.video.notes.length;
    at("notes").textContent = progress.video.notes.join(" ");
    // The time left changes with each step; who listens is told of what is finished.
    if (sentence.short !== this.told) this.said(sentence.short);
    this.told = sentence.short;
  }

  async plan({ segments, video }) {
    if (this.timeline.segments.length !== segments.length) {
      const { id } = this;
      const found = (await json(`/${id}/segments`)).data;
      if (id !== this.id || !found.length) return;
      this.timeline.plan(found);
    }
    this.timeline.update(this.progress.segments);
    at("segment").querySelector("button").disabled = video.status === "failed";
  }

  /** Shows what there is of the video. */
  async watch({ video, stitch }) {
    if (video.status === "completed") {
      if (this.final) return;
      this.final = " ";
      const { id } = this;
      const url = await address(`/${id}/content`);
      if (id !== this.id) return;
      this.final = url;
      this.growing?.close();
      this.growing = null;
      this.play(url);
      at("download").href = url;
      at("download").download = `${id}.mp4`;
      at("download").hidden = false;
      return;
    }
    if (video.status === "in_progress" && stitch?.state === "running" && stitch.step > this.joined) {
      this.joined = stitch.step;
      this.growing ??= new GrowingVideo(player(), this.id, Number(video.seconds), () => this.reveal());
      await this.growing.refresh();
    }
  }

  /** Plays on in another file from where the player is. */
  play(url) {
    const { currentTime, paused } = player();
    const fresh = player().hidden;
    player().src = url;
    player().currentTime = fresh ? 0 : currentTime;
    player().loop = true;
    this.reveal();
    if (!fresh && paused) player().pause();
  }

  reveal() {
    player().hidden = false;
    at("result").querySelector(".wait").hidden = true;
    at("result").querySelector("img").hidden = true;
    player().play().catch(() => {}); // a browser may not let it begin by itself
  }

  /** Forgets the pictures of the video that was shown before. */
  clear() {
    player().pause();
    for (const video of [player(), ...followers()]) {
      video.removeAttribute("src");
      video.load();
    }
    player().hidden = true;
    player().loop = false;
    at("result").querySelector("img").hidden = true;
    at("result").querySelector(".wait").hidden = false;
    for (const id of ["driver", "before", "download", "sound"]) at(id).hidden = true;
  }

  /** Shows what the video was asked for with, and the video as it was before segments were made anew. */
  async showFiles({ id, uploads }) {
    const there = async (name) => (uploads.includes(name) ? address(`/${id}/uploads/${name}`) : "");
    const [picture, movement] = await Promise.all([there("input_reference"), there("driving_video")]);
    const versions = (await json(`/${id}/versions`)).data.filter((version) => !version.current);
    const before = versions.length ? await address(`/${id}/content?version=${versions[0].id}`) : "";
    if (id !== this.id) return;
    const image = at("result").querySelector("img");
    image.src = picture;
    image.hidden = !player().hidden;
    for (const [figure, url] of [["driver", movement], ["before", before]]) {
      at(figure).hidden = !url;
      if (url) at(figure).querySelector("video").src = url;
    }
    for (const video of followers()) if (video.src) video.play().catch(() => {});
  }

  /** The movement and the video as it was follow the video, once there is one. */
  playTogether() {
    const meet = (video) => Math.abs(video.currentTime - player().currentTime) > 0.1 && (video.currentTime = player().currentTime);
    const all = (action) => () => followers().forEach((video) => video.src && action(video));
    for (const name of ["play", "playing", "seeked", "timeupdate"]) player().addEventListener(name, all(meet));
    player().addEventListener("playing", all((video) => video.play().catch(() => {})));
    for (const name of ["pause", "waiting"]) player().addEventListener(name, all((video) => video.pause()));
    player().addEventListener("timeupdate", () => (at("sound").hidden = !hasSound(player())));
    player().addEventListener("volumechange", () => at("sound").setAttribute("aria-pressed", !player().muted));
    at("sound").addEventListener("click", () => (player().muted = !player().muted));
    // A browser may not play what the server can read; then there is nothing to show.
    for (const video of followers()) video.addEventListener("error", () => (video.closest("figure").hidden = true));
  }

  /** Tells of a segment, and shows it in the video. */
  async pick(index) {
    at("segment").hidden = index === null;
    if (index === null) return;
    const { id } = this;
    try {
      const found = (await json(`/${id}/segments`)).data;
      if (id !== this.id || index !== this.timeline.selected) return;
      this.timeline.plan(found);
    } catch (error) {
      return this.failed(error);
    }
    const segment = this.timeline.segments[index];
    const [start, stop] = this.timeline.span(index).map((frame) => Math.min(frame, this.frames));
    const rate = this.frames / Number(this.progress.video.seconds);
    const [name, about] = at("segment").querySelectorAll("strong, p");
    name.textContent = `Segment ${index}, ${segment.kind}`;
    about.textContent = describe(segment, start, stop, rate, this.timeline.affected(index));
    at("segment").elements.seed.value = segment.seed + 1;
    if (!player().hidden && start / rate < player().duration) player().currentTime = start / rate;
  }

  async regenerate(event) {
    event.preventDefault();
    const { id } = this;
    const index = this.timeline.selected;
    const seed = at("segment").elements.seed.value.trim();
    const others = this.timeline.affected(index).filter((other) => other !== index);
    const also = others.length ? `, and with it ${others.length > 8 ? `${others.length} others` : list(others)}` : "";
    const question = `Make segment ${index} anew${also}? A finished video stays beside the new one, to compare.`;
    if (!(await this.sure(question, "Make it anew"))) return;
    try {
      await post(`/${id}/segments/${index}/regenerate`, seed ? { seed: Number(seed) } : {});
      this.changed();
      if (id === this.id) this.open(id);
    } catch (error) {
      this.failed(error);
    }
  }
}

const followers = () => [at("driver"), at("before")].map((figure) => figure.querySelector("video"));

/** Whether a video that plays has sound, as each browser tells it. */
function hasSound(video) {
  return Boolean(video.mozHasAudio || video.webkitAudioDecodedByteCount || video.audioTracks?.length);
}

/** The tab's title: how far a video is, then its name. */
function heading({ video, prepare }) {
  const read = prepare.steps ? ` ${Math.floor((100 * prepare.step) / prepare.steps)} %` : "";
  const made = prepare.state === "done" ? `${video.progress} %` : `Reading${read}`;
  const said = { completed: "", failed: "Failed", queued: "Waiting", in_progress: made }[video.status];
  return [said, title(video)].filter(Boolean).join(" · ");
}

/** What is said in the place of a video that cannot be seen yet. */
function waiting({ video, stitch }) {
  if (video.status === "failed") return "The video was not finished.";
  if (!stitch?.step) return "Nothing of the video is finished yet.";
  const grows = window.ManagedMediaSource ?? window.MediaSource;
  return grows ? "What is finished is being fetched." : "This browser shows the video once it is finished.";
}

function facts(video) {
  const said = [video.size.replace("x", " × "), `${video.seconds} s`, `${video.steps} steps`, `variation ${video.seed}`];
  return [...said, moment(video.created_at)].join(" · ");
}

function describe(segment, start, stop, rate, affected) {
  const place = `${(start / rate).toFixed(1)} to ${(stop / rate).toFixed(1)} s, frames ${start} to ${stop - 1}, variation ${segment.seed}`;
  const time = segment.finished_at ? `, made in ${(segment.finished_at - segment.started_at).toFixed(1)} s` : "";
  const others = affected.filter((index) => index !== segment.index);
  const also = others.length ? ` Made anew with it: ${others.length > 8 ? `${others.length} others` : list(others)}.` : "";
  return `${place}${time}.${also}`;
}

/** What is said of a video: all of it, and what is worth being read out. */
function told({ video, queue_place, prepare, segments, stitch, eta_seconds }) {
  const done = segments.filter((segment) => segment.state === "done").length;
  const both = (text) => ({ text, short: text });
  if (video.status === "failed") return both(video.error.message);
  if (video.status === "completed") return both("The video is finished.");
  if (queue_place > 0) return both(queue_place === 1 ? "Next in the queue." : `Number ${queue_place} in the queue.`);
  if (prepare.state !== "done") return both("Reading the movement.");
  if (done === segments.length) return both(stitch?.state === "running" ? "Joining the segments." : "All segments are made.");
  const short = `${done} of ${segments.length} segments are made.`;
  return { short, text: eta_seconds === null ? short : `${short} About ${left(eta_seconds)} to go.` };
}

function left(seconds) {
  if (seconds < 90) return `${Math.ceil(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return `${(seconds / 3600).toFixed(1)} h`;
}

/** The three stages, each {state, share, text}. */
function stages({ prepare, segments, stitch }) {
  const steps = segments.map((stage) => (stage.state === "done" ? stage.steps : stage.step));
  const sum = (numbers) => numbers.reduce((one, other) => one + other, 0);
  const all = sum(segments.map((stage) => stage.steps));
  const made = segments.filter((stage) => stage.state === "done").length;
  const share = (stage) => (stage?.state === "done" ? 1 : stage?.steps ? stage.step / stage.steps : 0);
  const busy = segments.some((stage) => stage.state === "running");
  return {
    prepare: { state: prepare.state, share: share(prepare), text: prepare.state === "done" ? "read" : frames(prepare) },
    segments: {
      state: all && made === segments.length ? "done" : busy ? "running" : "waiting",
      share: all ? sum(steps) / all : 0,
      text: all ? `${made} of ${segments.length}` : "",
    },
    stitch: {
      state: stitch?.state ?? "waiting",
      share: share(stitch),
      text: stitch?.step && stitch.state !== "done" ? frames(stitch) : share(stitch) === 1 ? "joined" : "",
    },
  };
}

const frames = ({ step, steps }) => (steps ? `${step} of ${steps} frames` : "");

function showStage(name, { state, share, text }, status) {
  const item = at("stages").querySelector(`[data-stage=${name}]`);
  item.dataset.state = status === "failed" && state !== "done" ? "failed" : state;
  const bar = item.querySelector("progress");
  if (item.dataset.state === "running" && share === 0) bar.removeAttribute("value");
  else bar.value = share;
  item.querySelector("small").textContent = text;
}
