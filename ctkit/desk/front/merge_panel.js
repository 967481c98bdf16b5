// What a merge would do, and the buttons that do it: each asks again, in its place, before anything is written.

const BOXES = {
  confirmed: () => "These are not swapped: merge anyway",
  create_main: (shown) => `There is no main table at ${shown.main}: create it`,
};

/** One bar in parts, and what they stand for. */
function bar(shown) {
  const parts = [
    ["insert, file as it is", shown.adopted, "adopt"],
    ["insert, rewritten", shown.inserted - shown.adopted, "rewrite"],
    ["skip: main has it, or it is repeated", shown.skipped, "skip"],
  ];
  const text = parts.map(([name, rows]) => `${name}: ${count(rows)}`);
  const drawn = parts.map(([, rows, kind]) => el("div", { class: `ctkit-${kind}`, style: `flex-grow: ${rows}` }));
  const legend = parts.map(([, , kind], at) => el("li", {}, el("span", { class: `ctkit-${kind}` }), text[at]));
  return [
    el("div", { class: "ctkit-merge-bar", role: "img", "aria-label": text.join(", ") }, ...drawn),
    el("ul", { class: "ctkit-legend" }, ...legend),
  ];
}

/** What stands below the bar: conflicts, doubts, and what is staged of which log. */
function details(shown) {
  const parts = [];
  if (shown.conflicts) {
    const listed = shown.conflicting.rows.length;
    const title = `${count(shown.conflicts)} rows contradict the row that stays`;
    parts.push(el("p", { class: "ctkit-warning" }, `${title}: compare them with open_certificate before you merge.`));
    const name = listed < shown.conflicts ? `the first ${listed} as staged; more in the report` : "as staged";
    parts.push(el("div", { class: "ctkit-scroll", tabindex: "0" }, tableOf(name, shown.conflicting)));
  }
  if (shown.doubts.length) {
    parts.push(el("p", { class: "ctkit-warning" }, "Look twice: is this the staging table?"));
    parts.push(el("ul", {}, ...shown.doubts.map((doubt) => el("li", {}, doubt))));
  }
  if (shown.logs.rows.length) {
    const more = shown.left ? [el("p", {}, `and ${count(shown.left)} more in panel.preview.summary`)] : [];
    const rows = el("div", { class: "ctkit-scroll", tabindex: "0" }, tableOf("by log and date", shown.logs));
    parts.push(el("details", {}, el("summary", {}, "by log and date"), rows, ...more));
  }
  return parts;
}

/** A button that asks before it acts: Cancel has the focus then, so that no key that is held down goes through. */
function asking(act) {
  const place = el("div", { class: "ctkit-pager" });
  let question = "";
  const first = el("button", { type: "button", class: "ctkit-primary", onclick: ask });
  const isOff = () => first.getAttribute("aria-disabled") === "true";

  function back() {
    place.replaceChildren(first);
    first.focus();
  }
  function ask() {
    if (isOff()) return;
    const cancel = el("button", { type: "button", onclick: back }, "Cancel");
    const confirm = el("button", { type: "button", class: "ctkit-primary", onclick: go }, "Confirm");
    const both = el("div", { role: "group", "aria-label": question }, el("span", {}, question), confirm, cancel);
    both.addEventListener("keydown", (event) => event.key === "Escape" && back());
    place.replaceChildren(both);
    cancel.focus();
  }
  function go() {
    back();
    first.setAttribute("aria-disabled", "true");
    act();
  }
  return {
    place,
    show(text, asked, off) {
      question = asked;
      first.textContent = text;
      first.setAttribute("aria-disabled", String(off));
      // A question about what has changed is not answered.
      place.replaceChildren(first);
    },
  };
}

function outcomeTable(done) {
  const facts = done.facts.map(([name, value]) => el("tr", {}, el("th", { scope: "row" }, name), el("td", {}, value)));
  return el("table", {}, el("caption", {}, done.title), el("tbody", {}, ...facts));
}

function render({ model, el: element }) {
  const { body, end } = root(model, element, "merge");
  const overview = el("div");
  const boxes = el("div");
  const progress = el("div");
  const outcome = el("div", { tabindex: "-1" });
  const merge = asking(() => model.send({ do: "merge", versions: model.get("shown").versions }));
  const undo = asking(() => model.send({ do: "undo" }));
  const again = el("button", { type: "button", onclick: () => model.send({ do: "refresh" }) }, "Look again");
  const actions = el("div", { class: "ctkit-pager" }, merge.place, again);
  const cost = el("p");
  const taken = el("div", {}, cost, undo.place);
  body.append(overview, boxes, actions, progress, outcome, taken);

  function showPreview() {
    const shown = model.get("shown");
    const head = `${count(shown.rows)} staged rows in ${shown.staging}, to be merged into ${shown.main}`;
    overview.replaceChildren(...(shown.rows ? [el("p", {}, head), ...bar(shown), ...details(shown)] : []));
    boxes.replaceChildren(...shown.asks.map((name) => {
      const box = el("input", { type: "checkbox", name });
      box.addEventListener("change", () => {
        model.set(name, box.checked);
        model.save_changes();
      });
      return el("label", { class: "ctkit-box" }, box, ` ${BOXES[name](shown)}`);
    }));
    showActions();
  }

  function showActions() {
    const shown = model.get("shown");
    const done = model.get("outcome");
    const running = model.get("state") === "running";
    const merged = Boolean(done && done.merged);
    const focused = element.contains(document.activeElement);
    boxes.querySelectorAll("input").forEach((box) => box.checked = model.get(box.name));

    const text = shown.inserted || !shown.rows ? `Merge ${count(shown.inserted)} rows` : "Remove staging";
    const what = shown.inserted ? `${text} into ${shown.main}` : `${shown.main} has all of these rows: remove staging`;
    const off = running || !shown.rows || !shown.asks.every((name) => model.get(name));
    merge.show(running ? "Merging …" : text, `${what}? Afterwards staging is gone.`, off);
    overview.hidden = boxes.hidden = actions.hidden = merged;

    progress.replaceChildren(...(running ? [el("progress", { "aria-label": "running" })] : []));
    outcome.replaceChildren(...(done ? [outcomeTable(done)] : []));
    taken.hidden = !done?.undo;
    if (done?.undo) {
      const back = `Undo the merge of ${count(done.rows)} rows`;
      cost.textContent = done.undo;
      undo.show(running ? "Undoing …" : back, `${back}?`, running);
    }

    // What had the focus may be gone; without it, keys would go to the notebook.
    if (focused && !(element.contains(document.activeElement) && document.activeElement.checkVisibility())) {
      const next = merged ? (done.undo ? undo : { place: outcome }) : merge;
      (next.place.querySelector("button") ?? outcome).focus();
    }
  }

  const changes = { shown: showPreview, outcome: showActions, state: showActions };
  for (const name of Object.keys(BOXES)) changes[name] = showActions;
  for (const [name, show] of Object.entries(changes)) model.on(`change:${name}`, show);
  showPreview();
  return () => {
    for (const [name, show] of Object.entries(changes)) model.off(`change:${name}`, show);
    end();
  };
}

export default { render };
