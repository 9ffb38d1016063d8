// The caller's videos, newest first, each with its first picture once there is one.

import { call, json } from "./api.js";

const PAGE = 12;
const EVERY = 5000; // milliseconds between looks while one of them is unfinished
const NAMES = { queued: "in the queue", in_progress: "is made", completed: "", failed: "failed" };

export const title = (video) => video.prompt || `Video, ${moment(video.created_at)}`;

/** A moment as it is said: today's by the hour, others by the day. */
export function moment(seconds) {
  const date = new Date(1000 * seconds);
  const today = date.toDateString() === new Date().toDateString();
  return date.toLocaleString([], today ? { timeStyle: "short" } : { dateStyle: "medium" });
}

export class Past {
  /** root: a list; none: what is said where it is empty; older: a button; failed(error). */
  constructor(root, none, older, failed) {
    Object.assign(this, { root, none, older, failed, count: PAGE, pictures: new Map(), current: "", timer: 0 });
    older.addEventListener("click", () => {
      this.count += PAGE;
      this.refresh();
    });
  }

  mark(id) {
    this.current = id;
    for (const link of this.root.querySelectorAll("a")) mark(link, id);
  }

  async refresh() {
    clearTimeout(this.timer);
    try {
      const page = await json(`?limit=${Math.min(100, this.count)}`);
      this.show(page.data);
      this.older.hidden = !page.has_more || this.count >= 100;
      const unfinished = page.data.some((video) => ["queued", "in_progress"].includes(video.status));
      if (unfinished) this.timer = setTimeout(() => this.refresh(), EVERY);
    } catch (error) {
      this.failed(error);
    }
  }

  show(videos) {
    const items = new Map([...this.root.children].map((item) => [item.dataset.id, item]));
    this.none.hidden = videos.length > 0;
    const wanted = videos.map((video) => this.fill(items.get(video.id) ?? newItem(video.id), video));
    // Only where the list changes, so that the focus stays.
    for (const [id, item] of items) if (!wanted.includes(item)) this.drop(id, item);
    wanted.forEach((item, place) => {
      if (this.root.children[place] !== item) this.root.insertBefore(item, this.root.children[place] ?? null);
    });
  }

  drop(id, item) {
    item.remove();
    if (this.pictures.has(id)) URL.revokeObjectURL(this.pictures.get(id));
    this.pictures.delete(id);
  }

  fill(item, video) {
    const [name, facts] = item.querySelectorAll("b, small");
    const made = video.status === "in_progress" ? `${video.progress} %` : NAMES[video.status];
    const cancelled = video.error?.code === "cancelled" ? "cancelled" : made;
    name.textContent = title(video);
    facts.textContent = [moment(video.created_at), `${video.seconds} s`, cancelled].filter(Boolean).join(" · ");
    item.dataset.status = video.status;
    mark(item.querySelector("a"), this.current);
    if (video.status === "completed") this.picture(item.querySelector("img"), video.id);
    return item;
  }

  async picture(image, id) {
    if (this.pictures.has(id)) return;
    this.pictures.set(id, "");
    try {
      const answer = await call(`/${id}/content?variant=thumbnail`);
      this.pictures.set(id, URL.createObjectURL(await answer.blob()));
      image.src = this.pictures.get(id);
      image.hidden = false;
    } catch {
      this.pictures.delete(id); // the next look tries again
    }
  }
}

function newItem(id) {
  const [item, link, shown, image, text, name, facts] = ["li", "a", "span", "img", "span", "b", "small"].map((tag) =>
    document.createElement(tag),
  );
  item.dataset.id = id;
  link.href = `#${id}`;
  shown.className = "thumb";
  image.alt = "";
  image.hidden = true;
  shown.append(image);
  text.append(name, facts);
  link.append(shown, text);
  item.append(link);
  return item;
}

function mark(link, id) {
  if (link.hash === `#${id}`) link.setAttribute("aria-current", "true");
  else link.removeAttribute("aria-current");
}
