// The plan as a row of segments that fill up; one of them may be picked, by pointer or by arrow keys.

const MAKING = { waiting: "waits", ready: "is next", running: "is made", done: "is done", failed: "failed", cancelled: "was cancelled" };
const MOVES = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };

export class Timeline {
  constructor(root, picked) {
    Object.assign(this, { root, picked, segments: [], selected: null });
    root.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (button) this.select(Number(button.dataset.index));
    });
    root.addEventListener("keydown", (event) => this.move(event));
  }

  /** Shows another plan. segments: as the endpoint lists them. */
  plan(segments) {
    const same = segments.length === this.segments.length;
    this.segments = segments;
    if (same) return;
    this.selected = null;
    this.root.replaceChildren(...segments.map((segment) => this.button(segment)));
  }

  /** Shows how far each segment is. */
  update(stages) {
    stages.forEach((stage, index) => {
      const button = this.root.children[index];
      if (!button) return;
      const share = stage.state === "done" ? 1 : stage.step / Math.max(1, stage.steps);
      const steps = stage.state === "running" ? `, ${stage.step} of ${stage.steps} steps` : "";
      button.dataset.state = stage.state;
      button.style.setProperty("--done", share);
      button.setAttribute("aria-label", `Segment ${index}, ${this.segments[index].kind}, ${MAKING[stage.state]}${steps}`);
    });
  }

  /** The segments that are made anew with one: all that take something from it, and theirs. */
  affected(index) {
    const found = new Set([index]);
    for (let size = 0; size < found.size; ) {
      size = found.size;
      for (const segment of this.segments) {
        if (segment.depends_on.some((other) => found.has(other))) found.add(segment.index);
      }
    }
    return [...found].sort((a, b) => a - b);
  }

  /** The frames [start, stop) that only this segment shows. */
  span(index) {
    const { kind, start, frames } = this.segments[index];
    if (kind !== "bridge") return [start, start + frames];
    const before = this.segments[index - 1];
    return [before.start + before.frames, this.segments[index + 1].start];
  }

  select(index) {
    this.selected = this.selected === index ? null : index;
    for (const button of this.root.children) {
      const here = Number(button.dataset.index) === index;
      button.setAttribute("aria-pressed", here && this.selected === index);
      button.tabIndex = here ? 0 : -1;
    }
    this.picked(this.selected);
  }

  button({ index, kind }) {
    const button = document.createElement("button");
    const [bar, fill, number] = ["span", "i", "small"].map((tag) => document.createElement(tag));
    const [start, stop] = this.span(index);
    button.type = "button";
    button.dataset.index = index;
    button.dataset.kind = kind;
    button.tabIndex = index === 0 ? 0 : -1;
    button.setAttribute("aria-pressed", false);
    button.style.setProperty("--frames", stop - start);
    number.textContent = index;
    bar.append(fill);
    button.append(bar, number);
    return button;
  }

  move(event) {
    const buttons = [...this.root.children];
    const here = buttons.indexOf(document.activeElement);
    const ends = { Home: 0, End: buttons.length - 1 };
    const goal = ends[event.key] ?? here + MOVES[event.key];
    if (!buttons[goal]) return;
    event.preventDefault();
    buttons[here].tabIndex = -1;
    buttons[goal].tabIndex = 0;
    buttons[goal].focus();
  }
}
