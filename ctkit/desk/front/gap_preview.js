// Missing entries: a verdict, and a lane for each log, to choose from.

const HELP =
  "Drag over a lane to choose a range, with Shift to add one. Arrows move, with Shift they choose; + and - zoom; " +
  "Space chooses the log; Ctrl+A chooses all; Esc resets.";

/** The times from the first to the last that is known of any lane; null if none is. */
function whole(lanes) {
  const times = lanes.flatMap(({ times }) => times ? [times[0][1], times.at(-1)[1]] : []);
  return times.length ? [Math.min(...times), Math.max(...times)] : null;
}

function render({ model, el: element }) {
  const { body, end } = root(model, element, "Missing entries");
  const send = (what, more = {}) => model.send({ do: what, ...more });
  const settings = model.get("settings");
  const verdict = el("p", { class: "ctkit-verdict" });
  const failed = el("ul", { class: "ctkit-failed" });
  const readout = el("p", { class: "ctkit-readout", "aria-live": "polite" }, HELP);
  const rows = el("tbody");
  const more = el("button", { type: "button", onclick: () => showRows(true) });
  const [stretch, ...heads] = ["", "Log", "State", "To fetch", "Requests", "Time"].map((text) =>
    el("th", { scope: "col" }, text)
  );
  const head = el("tr", {}, heads[0], stretch, ...heads.slice(1));
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
  const turn = () => send("axis", { axis: axis.value });
  const axes = ["index", "time"].map((name) => el("option", { value: name }, name));
  const axis = el("select", { onchange: turn }, ...axes);
  const axisLabel = el("label", { hidden: !settings.dated }, "Axis ", axis);
  const again = button("Look again", () => send("refresh"));
  const tools = (...parts) => el("div", { class: "ctkit-tools" }, ...parts);
  const choosing = tools(specLabel, button("Choose", typed), all, pathLabel, button("Save choice", save));
  body.append(verdict, failed, tools(filterLabel, sizeLabel, axisLabel, again), table, more, key, readout, choosing);

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
    const span = whole(lanes);
    axis.value = model.get("axis");
    const [first, last] = (span ?? []).map((time) => minutes(time).slice(0, 10));
    stretch.textContent = span ? `About ${first} to ${last}, by the days of rows` : "From its start to its end";
    const same = lanes.length === views.length && lanes.every((lane, number) => lane.url === views[number].lane.url);
    if (same) return lanes.forEach((lane, number) => views[number].update(lane));
    const say = (text) => readout.replaceChildren(text);
    views = lanes.map((lane) => new LaneView(lane, settings, send, say, () => whole(model.get("lanes"))));
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
  function hear({ lane }, buffers) {
    if (lane) views.find((view) => view.lane.url === lane.url)?.update({ ...lane, levels: buffers[0] });
  }
  model.on("msg:custom", hear);
  const resized = new globalThis.ResizeObserver(() => views.forEach((view) => view.draw()));
  resized.observe(table);
  showChoice();
  showLanes();
  return () => {
    for (const [name, show] of Object.entries(changes)) model.off(`change:${name}`, show);
    model.off("msg:custom", hear);
    resized.disconnect();
    end();
  };
}

export default { render };
