// The segment in the making: a few of its frames, as they are guessed after each denoising step.

import { call, Refusal } from "./api.js";

export class Making {
  /** figure: an element with an image and a caption. */
  constructor(figure) {
    Object.assign(this, { figure, shown: "", url: "" });
  }

  /** Shows the first segment of a video that is in the making, or none. */
  async update({ video, segments }) {
    const index = segments.findIndex((segment) => segment.state === "running" && segment.step > 0);
    if (index < 0 || ["completed", "failed"].includes(video.status)) return this.hide();
    const { step, steps } = segments[index];
    const wanted = `${video.id} ${index} ${step}`;
    if (wanted === this.shown) return;
    this.shown = wanted;
    try {
      const picture = await (await call(`/${video.id}/segments/${index}/preview`)).blob();
      if (wanted !== this.shown) return; // there is a newer one, or none any more
      this.forget();
      this.url = URL.createObjectURL(picture);
      this.figure.querySelector("img").src = this.url;
      this.figure.querySelector("figcaption").textContent = `Segment ${index}, step ${step} of ${steps}`;
      this.figure.hidden = false;
    } catch (error) {
      if (!(error instanceof Refusal)) throw error; // the video is gone, or the server: the status tells
    }
  }

  hide() {
    this.shown = "";
    this.figure.hidden = true;
    this.forget();
  }

  forget() {
    if (this.url) URL.revokeObjectURL(this.url);
    this.url = "";
  }
}
