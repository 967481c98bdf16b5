// One lane of a log: what is drawn of it, along its indices or along time, and what mouse and keys do to it.

/** Calls back after a pause, once for many calls; `forget` takes back a call that waits. */
function pausing(callback, milliseconds) {
  let timer;
  const call = (...values) => {
    clearTimeout(timer);
    timer = setTimeout(() => callback(...values), milliseconds);
  };
  return Object.assign(call, { forget: () => clearTimeout(timer) });
}

/** Reads a line through points, even between them: given one coordinate of a place (0 or 1), returns the other. */
function along(points, given, value) {
  const found = points.findIndex((point) => point[given] >= value);
  const next = Math.max(found < 0 ? points.length - 1 : found, 1);
  const [a, b] = [points[next - 1], points[next]];
  return a[1 - given] + ((value - a[given]) / (b[given] - a[given])) * (b[1 - given] - a[1 - given]);
}

/** A time, in minutes, from milliseconds. */
function minutes(time) {
  return `${new Date(time).toISOString().slice(0, 16).replace("T", " ")} UTC`;
}

/** One lane: what is drawn, the part of it that is in view, and where the cursor is. */
class LaneView {
  constructor(lane, settings, send, say, whole) {
    Object.assign(this, { settings, send, say, whole });
    this.cursor = lane.start;
    this.anchor = null; // where a selection began, which Shift and an arrow go on with
    this.choosing = false; // whether it is not among the lane's ranges yet
    this.wanted = null; // the part to be in view, of which Python has not sent the bins yet
    this.box = el("input", { type: "checkbox", onchange: () => this.ask("toggle") });
    this.canvas = el("canvas", { tabindex: 0, role: "application", class: "ctkit-lane", height: settings.height });
    this.canvas.addEventListener("keydown", (event) => this.onKey(event));
    this.canvas.addEventListener("pointerdown", (event) => this.onDown(event));
    this.canvas.addEventListener("wheel", (event) => this.onWheel(event), { passive: false });
    for (const kind of ["focus", "blur"]) this.canvas.addEventListener(kind, () => this.draw());
    const cell = (name) => [name, el("td", { class: `ctkit-lane-${name}` })];
    this.cells = ["state", "entries", "requests", "time"].map(cell);
    const label = el("label", { title: lane.title }, this.box, el("span", {}, lane.log));
    const bar = el("td", { class: "ctkit-lane-cell" }, this.canvas);
    this.row = el("tr", {}, el("th", { scope: "row" }, label), bar, ...this.cells.map(([, cell]) => cell));
    this.askRange = pausing((from, to, add) => this.ask("range", { start: from, end: to, add }), 250);
    this.askZoom = pausing((from, to) => this.ask("zoom", { start: from, end: to }), 80);
    this.update(lane);
  }

  ask(what, more = {}) {
    // By its URL: the order of the lanes may change before this arrives.
    this.send(what, { url: this.lane.url, ...more });
  }

  update(lane) {
    this.lane = lane;
    this.data = new Uint8Array(lane.levels.buffer, lane.levels.byteOffset, lane.levels.byteLength);
    const [from, to] = this.wanted ?? [lane.from, lane.to];
    // What was asked for meanwhile stays in view until it comes, unless the lane has it no more.
    const waits = from >= lane.start && to <= lane.end && (from !== lane.from || to !== lane.to);
    if (!waits) this.wanted = null;
    [this.from, this.to] = this.wanted ?? [lane.from, lane.to];
    this.choosing = false;
    // Where indices lie along the axis, as [index, place]: by themselves, or at the times that rows tell of.
    this.points = lane.times ?? [[lane.start, lane.start], [lane.end, lane.end]];
    this.box.checked = lane.chosen;
    this.box.disabled = lane.start === lane.end;
    const indices = `indices ${count(lane.from)} to ${count(lane.to)}`;
    const dates = lane.times ? `, about ${this.date(lane.from)} to ${this.date(lane.to)}` : "";
    this.canvas.setAttribute("aria-label", `${lane.log}, ${indices}${dates}: ${lane.state}`);
    for (const [name, cell] of this.cells) cell.textContent = cell.title = lane[name];
    this.canvas.title = `${indices}${dates}`;
    this.canvas.style.borderRightColor = lane.beyond ? this.settings.above : "transparent";
    this.draw();
  }

  date(index) {
    return minutes(along(this.points, 0, index));
  }

  /** The part of the axis that is drawn: all lanes have one where time is the axis, until one of them is zoomed. */
  span() {
    const isWhole = this.from === this.lane.start && this.to === this.lane.end;
    return (isWhole && this.lane.times && this.whole()) ||
      [this.from, this.to].map((each) => along(this.points, 0, each));
  }

  /** The index at a share of the drawn part; or at a place of the canvas, within the lane. */
  indexOf(share, [low, high] = this.span()) {
    return along(this.points, 1, low + share * (high - low));
  }

  indexAt(x) {
    const share = Math.min(Math.max(x / this.canvas.clientWidth, 0), 1);
    return Math.min(Math.max(this.indexOf(share), this.lane.start), this.lane.end);
  }

  draw() {
    const { canvas, lane, data, settings } = this;
    const [ratio, width] = [globalThis.devicePixelRatio || 1, canvas.clientWidth];
    if (!width) return;
    [canvas.width, canvas.height] = [Math.round(width * ratio), Math.round(settings.height * ratio)];
    const pen = canvas.getContext("2d");
    const colour = globalThis.getComputedStyle(canvas).color;
    const bins = data.length / 3;
    const [low, high] = this.span();
    const box = (index) => ((along(this.points, 0, index) - low) / (high - low)) * canvas.width;
    if (!bins) {
      pen.fillStyle = colour;
      for (let x = 0; x < canvas.width; x += 8 * ratio) pen.fillRect(x, 0, ratio, canvas.height);
      return;
    }
    const unit = canvas.height / settings.height;
    const perBin = (lane.to - lane.from) / bins;
    const parts = Object.values(settings.colours);
    for (let x = 0; x < canvas.width; x++) {
      const [first, next] = [x, x + 1].map((each) => this.indexOf(each / canvas.width, [low, high]));
      if (next <= lane.from || first >= lane.to) continue; // along time, other logs began before, or end later
      const begin = Math.floor((first - lane.from) / perBin);
      const end = Math.max(begin + 1, Math.ceil((next - lane.from) / perBin - 1e-9));
      // Of several bins in a pixel the one that misses most, so that none is lost.
      const tops = [0, 0, 0];
      let leftOut = false;
      for (let bin = Math.max(begin, 0); bin < Math.min(end, bins); bin++) {
        for (let part = 0; part < 3; part++) tops[part] = Math.max(tops[part], data[part * bins + bin]);
        leftOut ||= data[bin] < data[bins + bin];
      }
      // What is not chosen has a pixel, too, in whichever of the bins it is.
      if (leftOut && tops[0] === tops[1]) tops[0] > 1 ? tops[0]-- : tops[1]++;
      let below = 0;
      [...tops, settings.height].forEach((top, part) => {
        pen.fillStyle = parts[part];
        if (top > below) pen.fillRect(x, canvas.height - top * unit, 1, (top - below) * unit);
        below = Math.max(below, top);
      });
    }
    const chosen = [...lane.ranges, ...(this.choosing ? [this.selection()] : [])];
    pen.fillStyle = colour;
    for (const [first, last] of chosen) {
      const [left, right] = [box(first), box(last)];
      pen.fillRect(left, 0, Math.max(right - left, 2 * ratio), 3 * ratio);
      for (const edge of [left, right]) pen.fillRect(edge - ratio / 2, 0, ratio, canvas.height);
    }
    if (document.activeElement === canvas) pen.fillRect(box(this.cursor), 0, 2 * ratio, canvas.height);
  }

  selection() {
    return [Math.min(this.anchor, this.cursor), Math.max(this.anchor, this.cursor)];
  }

  tell() {
    const [from, to] = this.choosing ? this.selection() : [this.from, this.to];
    const what = this.choosing ? "choosing" : "in view";
    const date = this.lane.times ? ` (about ${this.date(this.cursor)})` : "";
    this.say(`${this.lane.log}: index ${count(this.cursor)}${date}, ${what} ${count(from)} to ${count(to)}`);
    this.draw();
  }

  zoom(factor, around) {
    const { start, end } = this.lane;
    const centre = along(this.points, 0, around);
    // Along time the axis goes beyond the lane, which is what is zoomed.
    const [first, last] = [this.points[0][1], this.points.at(-1)[1]];
    const edges = this.span().map((edge) => Math.min(Math.max(edge, first), last));
    const [from, to] = edges.map((edge) => along(this.points, 1, centre + factor * (edge - centre)));
    const [low, high] = [Math.max(from, start), Math.min(to, end)].map(Math.round);
    this.view(low, Math.min(Math.max(high - low, 10), end - start));
  }

  view(from, size) {
    this.from = Math.max(this.lane.start, Math.min(from, this.lane.end - size));
    this.to = this.from + size;
    this.wanted = [this.from, this.to];
    this.askZoom(...this.wanted);
    this.tell();
  }

  move(step, choosing) {
    if (choosing && this.anchor === null) this.anchor = this.cursor;
    if (!choosing) this.anchor = null;
    this.choosing = choosing;
    this.cursor = Math.max(this.lane.start, Math.min(this.cursor + step, this.lane.end));
    const size = this.to - this.from;
    if (this.cursor < this.from || this.cursor > this.to) this.view(Math.round(this.cursor - size / 2), size);
    if (choosing) this.askRange(...this.selection(), false);
    this.tell();
  }

  reset() {
    [this.anchor, this.choosing] = [null, false];
    this.askRange.forget();
    // A lane without ranges is left as it is, and so is every other lane.
    this.ask("range", { start: null });
    this.view(this.lane.start, this.lane.end - this.lane.start);
  }

  onKey(event) {
    const step = Math.max(1, Math.round(((this.to - this.from) / 100) * (event.ctrlKey ? 10 : 1)));
    const row = (each) => each?.querySelector(".ctkit-lane")?.focus();
    const keys = {
      ArrowLeft: () => this.move(-step, event.shiftKey),
      ArrowRight: () => this.move(step, event.shiftKey),
      Home: () => this.move(this.lane.start - this.cursor, event.shiftKey),
      End: () => this.move(this.lane.end - this.cursor, event.shiftKey),
      ArrowUp: () => row(this.row.previousElementSibling),
      ArrowDown: () => row(this.row.nextElementSibling),
      "+": () => this.zoom(0.5, this.cursor),
      "=": () => this.zoom(0.5, this.cursor),
      "-": () => this.zoom(2, this.cursor),
      " ": () => this.ask("toggle"),
      Escape: () => this.reset(),
    };
    if (this.lane.start === this.lane.end || !keys[event.key] || event.altKey || event.metaKey) return;
    event.preventDefault();
    keys[event.key]();
  }

  onDown(event) {
    if (event.button || this.lane.start === this.lane.end) return;
    const { canvas } = this;
    const began = event.offsetX;
    canvas.focus();
    canvas.setPointerCapture(event.pointerId);
    this.cursor = Math.floor(this.indexAt(began));
    [this.anchor, this.choosing] = [null, false];
    this.askRange.forget();
    const first = this.cursor;
    const move = (moved) => {
      if (Math.abs(moved.offsetX - began) < 4) return;
      const [low, high] = [began, moved.offsetX].sort((a, b) => a - b);
      [this.anchor, this.cursor] = [Math.floor(this.indexAt(low)), Math.ceil(this.indexAt(high))];
      this.choosing = true;
      this.tell();
    };
    const up = (moved) => {
      canvas.removeEventListener("pointermove", move);
      move(moved);
      if (this.anchor !== null) this.ask("range", { start: this.anchor, end: this.cursor, add: moved.shiftKey });
      else this.cursor = first;
      this.tell();
    };
    canvas.addEventListener("pointermove", move);
    canvas.addEventListener("pointerup", up, { once: true });
  }

  onWheel(event) {
    // Over other lanes the wheel moves the notebook.
    if (document.activeElement !== this.canvas) return;
    event.preventDefault();
    this.zoom(event.deltaY < 0 ? 0.8 : 1.25, this.indexAt(event.offsetX));
  }
}
