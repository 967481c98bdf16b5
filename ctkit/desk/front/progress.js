// The progress of a backfill: a bar for each log, and a button that stops the run.

const HEADINGS = [
  ["log"],
  ["progress"],
  ["fetched", "number"],
  ["written", "number"],
  ["rate", "number"],
  ["time", "number"],
  ["state"],
];
const SECONDS_TO_ANSWER = 1;
const NO_ANSWER = "the kernel does not hear this while a cell runs; interrupt it";

function bar([written, fetched]) {
  const part = (share, kind) => el("span", { class: kind, style: `width: ${share}%` });
  return el("span", { class: "ctkit-bar", "aria-hidden": "true" }, part(written, "written"), part(fetched, "fetched"));
}

function row({ name, url, shares, cells, state, status }) {
  return el(
    "tr",
    { "data-state": state },
    el("td", { title: url }, name),
    el("td", {}, bar(shares)),
    ...cells.map((cell) => el("td", { class: "number" }, cell)),
    el("td", { class: "status" }, status),
  );
}

function render({ model, el: element }) {
  const { body, end } = root(model, element, "progress of the backfill");
  const head = el("tr", {}, ...HEADINGS.map(([heading, kind]) => el("th", { scope: "col", class: kind }, heading)));
  const rows = el("tbody");
  const more = el("div");
  const hint = el("span", { role: "status" });
  const button = el("button", { type: "button", onclick: stop }, "Stop");
  const table = el("table", {}, el("thead", {}, head), rows);
  body.append(table, more, el("div", {}, button, " ", hint));

  let timer = null;
  function stop() {
    button.disabled = true;
    hint.textContent = "stopping …";
    model.send({ do: "stop" });
    timer = setTimeout(interrupt, 1000 * SECONDS_TO_ANSWER);
  }

  // A kernel reads a widget's messages between cells only; an interrupt reaches the run at once.
  function interrupt() {
    if (model.get("state") !== "running" || model.get("note")) return;
    const kernel = model.widget_manager?.kernel;
    if (kernel) kernel.interrupt().catch(() => (hint.textContent = NO_ANSWER));
    else hint.textContent = NO_ANSWER;
  }

  function show() {
    rows.replaceChildren(...model.get("rows").map(row));
    table.hidden = !rows.hasChildNodes();
    more.textContent = model.get("more");
    const ended = model.get("state") !== "running";
    button.hidden = ended;
    if (ended || model.get("note")) hint.textContent = "";
  }

  const shown = ["change:rows", "change:more", "change:state", "change:note"];
  shown.forEach((name) => model.on(name, show));
  show();
  return () => {
    clearTimeout(timer);
    shown.forEach((name) => model.off(name, show));
    end();
  };
}

export default { render };
