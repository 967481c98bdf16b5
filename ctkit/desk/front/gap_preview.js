// Missing entries: a verdict, and a lane for each log, to choose from.

const HELP =
  "Drag over a lane to choose a range, with Shift to add one. Arrows move, with Shift they choose; + and - zoom; " +
  "Space chooses the log; Ctrl+A chooses all; Esc resets.";

const CHECK_EVERY = 5000; // milliseconds: a check opens both tables

/** Calls back after a pause, once for many calls; `forget` takes back a call that waits. */
function pausing(callback, milliseconds) {
  let timer;
  const call = (...values) => {
    clearTimeout(timer);
    timer = setTimeout(() => callback(...values), milliseconds);
  };
  return Object.assign(call, { forget: () => clearTimeout(timer) });
}

/** One lane: what is drawn, the part of it that is in view, and where the cursor is. */
class LaneView {
  constructor(lane, settings, send, say) {
    Object.assign(this, { settings, send, say });
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
    this.box.checked = lane.chosen;
    this.box.disabled = lane.start === lane.end;
    const indices = `indices ${count(lane.from)} to ${count(lane.to)}`;
    this.canvas.setAttribute("aria-label", `${lane.log}, ${indices}: ${lane.state}`);
    for (const [name, cell] of this.cells) cell.textContent = cell.title = lane[name];
    this.canvas.title = indices;
    this.draw();
  }

  /** The index below a place of the canvas, or the place of an index. */
  indexAt(x) {
    const share = Math.min(Math.max(x / this.canvas.clientWidth, 0), 1);
    return this.from + share * (this.to - this.from);
  }

  draw() {
    const { canvas, lane, data, settings } = this;
    const [ratio, width] = [globalThis.devicePixelRatio || 1, canvas.clientWidth];
    if (!width) return;
    [canvas.width, canvas.height] = [Math.round(width * ratio), Math.round(settings.height * ratio)];
    const pen = canvas.getContext("2d");
    const colour = globalThis.getComputedStyle(canvas).color;
    const bins = data.length / 3;
    const box = (index) => ((index - this.from) / (this.to - this.from)) * canvas.width;
    if (!bins) {
      pen.fillStyle = colour;
      for (let x = 0; x < canvas.width; x += 8 * ratio) pen.fillRect(x, 0, ratio, canvas.height);
      return;
    }
    const unit = canvas.height / settings.height;
    const perBin = (lane.to - lane.from) / bins;
    const parts = Object.values(settings.colours);
    for (let x = 0; x < canvas.width; x++) {
      const [first, next] = [x, x + 1].map((each) => this.from + (each / canvas.width) * (this.to - this.from));
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
    if (lane.beyond) {
      pen.fillStyle = settings.above;
      pen.fillRect(canvas.width - 4 * ratio, 0, 4 * ratio, canvas.height);
    }
  }

  selection() {
    return [Math.min(this.anchor, this.cursor), Math.max(this.anchor, this.cursor)];
  }

  tell() {
    const [from, to] = this.choosing ? this.selection() : [this.from, this.to];
    const what = this.choosing ? "choosing" : "in view";
    this.say(`${this.lane.log}: index ${count(this.cursor)}, ${what} ${count(from)} to ${count(to)}`);
    this.draw();
  }

  zoom(factor, around) {
    const { start, end } = this.lane;
    const size = Math.min(Math.max(Math.round((this.to - this.from) * factor), 10), end - start);
    const share = (around - this.from) / (this.to - this.from || 1);
    this.view(Math.round(around - share * size), size);
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

function render({ model, el: element }) {
  const { body, end } = root(model, element, "Missing entries");
  const send = (what, more = {}) => model.send({ do: what, ...more });
  const settings = model.get("settings");
  const verdict = el("p", { class: "ctkit-verdict" });
  const failed = el("ul", { class: "ctkit-failed" });
  const readout = el("p", { class: "ctkit-state", "aria-live": "polite" }, HELP);
  const rows = el("tbody");
  const more = el("button", { type: "button", onclick: () => showRows(true) });
  const heads = ["Log", "From its start to its end", "State", "To fetch", "Requests", "Time"];
  const head = el("tr", {}, ...heads.map((text) => el("th", { scope: "col" }, text)));
  const table = el("table", { class: "ctkit-lanes", onkeydown: takeAll }, el("thead", {}, head), rows);
  const key = el("p", { class: "ctkit-key" });
  for (const [name, colour] of [...Object.entries(settings.colours), ["above the ceiling", settings.above]]) {
    key.append(el("span", { style: `background: ${colour}` }), name);
  }
  const field = (text, attributes) => {
    const input = el("input", { spellcheck: "false", ...attributes });
    return [input, el("label", {}, text, " ", input)];
  };
  const onEnter = (act) => (event) => event.key === "Enter" && act();
  const button = (text, act) => el("button", { type: "button", onclick: act }, text);
  const typed = () => send("choose", { spec: spec.value });
  const save = () => send("save", { path: path.value, spec: spec.value });
  const [filter, filterLabel] = field("Filter logs", { type: "search", oninput: () => showRows() });
  const resize = () => send("size", { smallest: size.value || 1 });
  const [size, sizeLabel] = field("Smallest gap", { type: "number", min: 1, value: 1, onchange: resize });
  const [spec, specLabel] = field("Choice", { type: "text", class: "ctkit-spec", onkeydown: onEnter(typed) });
  const [path, pathLabel] = field("File", { type: "text", value: "choice.yaml", onkeydown: onEnter(save) });
  const all = button("Choose all", () => send("choose", { spec: "all" }));
  const again = button("Look again", () => send("refresh"));
  const tools = (...parts) => el("div", { class: "ctkit-tools" }, ...parts);
  const choosing = tools(specLabel, button("Choose", typed), all, pathLabel, button("Save choice", save));
  body.append(verdict, failed, tools(filterLabel, sizeLabel, again), table, more, key, readout, choosing);

  let views = [];
  let open = false;
  function takeAll(event) {
    if (event.key !== "a" || !(event.ctrlKey || event.metaKey)) return;
    event.preventDefault();
    send("choose", { spec: "all" });
  }
  function showRows(everything = open) {
    open = everything;
    const wanted = filter.value.toLowerCase();
    const found = views.filter(({ lane }) => lane.title.toLowerCase().includes(wanted));
    const shown = open ? found : found.slice(0, settings.shown);
    rows.replaceChildren(...shown.map((view) => view.row));
    more.textContent = `${count(found.length - shown.length)} more`;
    more.hidden = found.length === shown.length;
    shown.forEach((view) => view.draw());
  }
  function showLanes() {
    const lanes = model.get("lanes");
    const same = lanes.length === views.length && lanes.every((lane, number) => lane.url === views[number].lane.url);
    if (same) return lanes.forEach((lane, number) => views[number].update(lane));
    const say = (text) => readout.replaceChildren(text);
    views = lanes.map((lane) => new LaneView(lane, settings, send, say));
    return showRows();
  }
  function showChoice() {
    verdict.textContent = model.get("verdict");
    spec.value = model.get("spec");
    size.value = /size>?=(\d+)/.exec(spec.value)?.[1] ?? 1;
    failed.replaceChildren(...model.get("failed").map((text) => el("li", {}, text)));
  }
  const changes = { lanes: showLanes, verdict: showChoice, spec: showChoice, failed: showChoice };
  for (const [name, show] of Object.entries(changes)) model.on(`change:${name}`, show);
  let [checked, unanswered] = [-CHECK_EVERY, false];
  function look() {
    if (unanswered || performance.now() - checked < CHECK_EVERY) return;
    [checked, unanswered] = [performance.now(), true];
    send("check");
  }
  function hear({ what, lane }, buffers) {
    if (what === "checked") unanswered = false;
    else views.find((view) => view.lane.url === lane.url)?.update({ ...lane, levels: buffers[0] });
  }
  model.on("msg:custom", hear);
  element.addEventListener("pointerenter", look);
  const resized = new globalThis.ResizeObserver(() => views.forEach((view) => view.draw()));
  resized.observe(table);
  showChoice();
  showLanes();
  return () => {
    for (const [name, show] of Object.entries(changes)) model.off(`change:${name}`, show);
    model.off("msg:custom", hear);
    element.removeEventListener("pointerenter", look);
    resized.disconnect();
    end();
  };
}

export default { render };
