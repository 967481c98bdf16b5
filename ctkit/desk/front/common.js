// What all front ends share. It stands in front of each of them, in one module.
// Text from outside (names, errors) becomes text nodes, never markup.

/** Makes an element: `on...` attributes are listeners, others are set; children are elements or text. */
function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (typeof value === "boolean") element.toggleAttribute(name, value);
    else if (value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

const withSeparators = new Intl.NumberFormat("en");

/** A whole number with separators of thousands: 1,328. */
function count(number) {
  return withSeparators.format(number);
}

/** A link to the web, or plain text where the address is none. */
function link(address, text) {
  if (!/^https?:\/\//.test(address)) return el("span", {}, text);
  return el("a", { href: address, target: "_blank", rel: "noopener noreferrer" }, text);
}

/** A table of texts. */
function tableOf(title, { columns, rows }) {
  return el(
    "table",
    {},
    el("caption", {}, title),
    el("thead", {}, el("tr", {}, ...columns.map((name) => el("th", { scope: "col" }, name)))),
    el("tbody", {}, ...rows.map((row) => el("tr", {}, ...row.map((value) => el("td", {}, value))))),
  );
}

const STATES = {
  loading: "loading …",
  empty: "nothing to show",
  stale: "the table has changed since; look again",
  running: "running …",
  stopped: "stopped",
  failed: "failed",
  disconnected: "the kernel is gone: this is a record",
};

const CHECK_EVERY = 5000; // milliseconds: a check opens tables

/**
 * Prepares a widget's element: keys stay inside, a line tells the state and the note, and whenever somebody turns to it,
 * the kernel is asked whether what it shows is still so.
 * Returns the element to fill, and a function that ends it.
 */
function root(model, element, label) {
  const body = el("div", { class: "ctkit-body" });
  const line = el("div", { class: "ctkit-state", role: "status", "aria-live": "polite" });
  element.classList.add("ctkit-live", "tex2jax_ignore", "mathjax_ignore");
  element.setAttribute("role", "region");
  element.setAttribute("aria-label", label);
  element.append(line, body);

  // JupyterLab acts on keys that reach the notebook: "dd" deletes the cell. Saving it is all that may be meant here, too.
  const keep = (event) => {
    const saves = event.key === "s" && (event.ctrlKey || event.metaKey);
    if (!saves) event.stopPropagation();
  };
  const kinds = ["keydown", "keypress", "keyup"];
  kinds.forEach((kind) => element.addEventListener(kind, keep));

  let [checked, unanswered] = [-CHECK_EVERY, false];
  function look() {
    if (!connected || unanswered || performance.now() - checked < CHECK_EVERY) return;
    [checked, unanswered] = [performance.now(), true];
    model.send({ do: "check" });
  }
  const hear = ({ what }) => {
    if (what === "checked") unanswered = false;
  };
  const turns = ["pointerenter", "focusin"];
  turns.forEach((kind) => element.addEventListener(kind, look));
  model.on("msg:custom", hear);

  let connected = true;
  function show() {
    const state = connected ? model.get("state") : "disconnected";
    element.dataset.state = state;
    line.textContent = (connected && model.get("note")) || STATES[state] || "";
    body.inert = !connected;
  }
  // A model without its kernel says that its comm is dead.
  const disconnect = () => {
    connected = false;
    show();
  };
  model.on("comm_live_update", disconnect);
  // A kernel that is shut down tells no model.
  const kernel = model.widget_manager?.kernel;
  kernel?.disposed?.connect(disconnect);
  model.on("change:state", show);
  model.on("change:note", show);
  show();
  return {
    body,
    end() {
      turns.forEach((kind) => element.removeEventListener(kind, look));
      model.off("msg:custom", hear);
      model.off("comm_live_update", disconnect);
      kernel?.disposed?.disconnect(disconnect);
      model.off("change:state", show);
      model.off("change:note", show);
      kinds.forEach((kind) => element.removeEventListener(kind, keep));
    },
  };
}
