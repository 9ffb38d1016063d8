// A video that is watched while it is made: what the server has more of is fetched and given to the player.

import { call, Refusal } from "./api.js";

const PIECE = 1 << 22; // bytes asked for at once
const KEPT = 20; // seconds behind the playing one that stay when the browser's memory for it is full

export class GrowingVideo {
  /** player: a video element; first: called once there is something to see. */
  constructor(player, id, seconds, first) {
    Object.assign(this, { player, id, seconds, first, size: 0, busy: false, closed: false });
  }

  /** Appends what is new. */
  async refresh() {
    const Source = window.ManagedMediaSource ?? window.MediaSource;
    if (this.busy || this.closed || !Source) return;
    this.busy = true;
    try {
      for (let piece; !this.closed && (piece = await this.next()); ) {
        if (!this.buffer) await this.open(Source, piece);
        await this.append(piece);
        this.size += piece.length;
      }
    } catch (error) {
      if (error.name !== "QuotaExceededError") throw error;
      await this.forget();
    } finally {
      this.busy = false;
    }
  }

  close() {
    this.closed = true;
    if (this.url) URL.revokeObjectURL(this.url);
  }

  /** The next bytes, or nothing if there are no more yet. */
  async next() {
    const headers = { Range: `bytes=${this.size}-${this.size + PIECE - 1}` };
    try {
      const answer = await call(`/${this.id}/content?partial=true`, { headers, cache: "no-store" });
      if (answer.status === 204) return null;
      // The tag is the video's name and its size; another name is another video, or the finished file.
      const name = answer.headers.get("ETag").replace(/-\d+"$/, "");
      this.name ??= name;
      if (name !== this.name || name.endsWith('"')) return null;
      return new Uint8Array(await answer.arrayBuffer());
    } catch (error) {
      if (error instanceof Refusal) return null;
      throw error;
    }
  }

  async open(Source, header) {
    const source = new Source();
    this.url = URL.createObjectURL(source);
    this.player.disableRemotePlayback = true; // which ManagedMediaSource asks for
    this.player.src = this.url;
    await new Promise((resolve) => source.addEventListener("sourceopen", resolve, { once: true }));
    this.buffer = source.addSourceBuffer(`video/mp4; codecs="${codec(header)}"`);
    source.duration = this.seconds;
    this.first();
  }

  async append(piece) {
    const done = new Promise((resolve) => this.buffer.addEventListener("updateend", resolve, { once: true }));
    this.buffer.appendBuffer(piece);
    await done;
  }

  async forget() {
    const end = this.player.currentTime - KEPT;
    if (end <= 0) return;
    const done = new Promise((resolve) => this.buffer.addEventListener("updateend", resolve, { once: true }));
    this.buffer.remove(0, end);
    await done;
  }
}

/** The codec's name (RFC 6381) by the box `avcC` of an MP4's header (ISO 14496-15, 5.3.3.1). */
function codec(header) {
  const box = [..."avcC"].map((letter) => letter.charCodeAt(0));
  const at = header.findIndex((_, place) => box.every((byte, offset) => header[place + offset] === byte));
  const [profile, compatibility, level] = header.slice(at + 5, at + 8);
  return "avc1." + [profile, compatibility, level].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
