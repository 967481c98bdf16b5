// Looks into a table: charts, a search, pages of rows, one certificate in full. Rows come from the kernel, page by page.

const COLUMNS = ["log", "index", "seen", "domains", "issuer", "valid", "kind", "entry"];

/** A button that can be off without losing the focus: keys would go to the notebook then. */
function button(text, press, attributes = {}) {
  const made = el("button", {
    type: "button",
    ...attributes,
    onclick: () => made.getAttribute("aria-disabled") === "true" || press(),
  }, text);
  return made;
}

function setOff(made, off) {
  made.setAttribute("aria-disabled", String(off));
}

/** Names and numbers with a bar for each; `press`, which gets name and place, makes the names buttons. */
function bars(title, pairs, press) {
  const most = Math.max(...pairs.map(([, number]) => number), 1);
  const named = (name, at) => press ? button(name || "(none)", () => press(name, at)) : name || "(none)";
  const rows = pairs.map(([name, number, inFull], at) =>
    el(
      "tr",
      {},
      el("th", { scope: "row", title: inFull ?? name }, named(name, at)),
      el("td", { class: "ctkit-number" }, count(number)),
      el("td", { class: "ctkit-track" }, el("div", { class: "ctkit-fill", style: `width: ${100 * number / most}%` })),
    )
  );
  return el("table", { class: "ctkit-bars" }, el("caption", {}, title), el("tbody", {}, ...rows));
}

/** Rows by date, as columns: the numbers are in their titles, and for a reader in one text. */
function columns(unit, pairs) {
  const most = Math.max(...pairs.map(([, number]) => number), 1);
  const text = pairs.map(([date, number]) => `${date}: ${count(number)}`);
  const drawn = pairs.map(([, number], at) =>
    el("div", { title: text[at] }, el("div", { class: "ctkit-fill", style: `height: ${100 * number / most}%` }))
  );
  return el(
    "figure",
    { class: "ctkit-dates" },
    el("figcaption", {}, `rows by ${unit}, at most ${count(most)}`),
    el("div", { role: "img", "aria-label": text.join(", ") }, ...drawn),
    el("p", {}, el("span", {}, pairs[0][0]), el("span", {}, pairs.length > 1 ? pairs.at(-1)[0] : "")),
  );
}

function charts(drawn, choose) {
  if (!drawn || !drawn.rows) return [];
  const few = drawn.issuers.slice(0, 5);
  const more = drawn.issuers.slice(5);
  const [others, rows] = drawn.others;
  const kinds = [...drawn.kinds, ...(drawn.unreadable ? [["unreadable", drawn.unreadable]] : [])];
  const issuers = el("div", {}, bars("top issuers", few, choose));
  if (more.length) {
    const last = others ? [el("p", {}, `and ${count(others)} more issuers with ${count(rows)} rows`)] : [];
    issuers.append(
      el(
        "details",
        {},
        el("summary", {}, `${count(more.length + others)} more issuers`),
        bars("", more, (name, at) => choose(name, few.length + at)),
        ...last,
      ),
    );
  }
  return [columns(drawn.unit, drawn.dates), bars("kinds", kinds), issuers];
}

/** First, previous, next, last, and what is shown; `turn` asks for the page from a row on. */
function pager(what, turn) {
  const text = el("span", { role: "status" });
  let at = { start: 0, size: 1, within: 0 };
  const last = () => Math.floor((at.within - 1) / at.size) * at.size;
  const made = [
    button("First", () => turn(0), { "aria-label": `first ${what}` }),
    button("Previous", () => turn(at.start - at.size), { "aria-label": `previous ${what}` }),
    button("Next", () => turn(at.start + at.size), { "aria-label": `next ${what}` }),
    button("Last", () => turn(last()), { "aria-label": `last ${what}` }),
  ];
  const show = (page, shown) => {
    at = page;
    made.forEach((each) => each.hidden = page.within <= page.size);
    made.forEach((each, place) => setOff(each, place < 2 ? page.start === 0 : page.start >= last()));
    text.textContent = shown;
  };
  return { bar: el("div", { class: "ctkit-pager" }, ...made, text), show };
}

/** One certificate in full. */
function certificate(opened, names, close) {
  const facts = opened.facts.map(([name, value]) =>
    el("tr", {}, el("th", { scope: "row" }, name), el("td", {}, name === "entry" ? link(value, value) : value))
  );
  const lists = opened.lists.map((list) =>
    tableOf(list.left ? `${list.title} (${count(list.left)} more in the report)` : list.title, list)
  );
  const hex = opened.left ? `hex (the first bytes; ${count(opened.left)} more in report.certificate.der)` : "hex";
  const texts = [[hex, opened.hex], ...(opened.pem ? [["PEM", opened.pem]] : [])].map(([title, text]) =>
    el("details", {}, el("summary", {}, title), el("pre", { tabindex: "0", "aria-label": title }, text))
  );
  return el(
    "section",
    {
      class: "ctkit-certificate",
      "aria-label": opened.title,
      onkeydown: (event) => event.key === "Escape" && close(),
    },
    el("div", { class: "ctkit-pager" }, button("Close", close), el("strong", {}, opened.title)),
    el("table", {}, el("tbody", {}, ...facts)),
    names,
    ...lists,
    ...texts,
  );
}

function render({ model, el: element }) {
  const { body, end } = root(model, element, "staged rows");
  // While other rows are on their way, these cannot be opened: a click would be taken for one on the others.
  let busy = false;
  const wait = (waits) => {
    busy = waits;
    table.setAttribute("aria-busy", String(busy));
  };
  const settle = () => model.get("state") === "running" || wait(false);
  const ask = (message) => model.send(message);
  const askRows = (message) => {
    wait(true);
    ask(message);
  };
  const search = (text) => askRows({ do: "search", text });

  const drawn = el("div", { class: "ctkit-charts" });
  const box = el("input", { type: "search", "aria-label": "domain or issuer", maxlength: "200", size: "40" });
  box.placeholder = "domain or issuer";
  const all = button("All rows", () => {
    box.value = "";
    search("");
  });
  const form = el(
    "form",
    {
      role: "search",
      onsubmit: (event) => {
        event.preventDefault();
        search(box.value);
      },
    },
    box,
    el("button", { type: "submit" }, "Search"),
    all,
    button("Look again", () => askRows({ do: "refresh" })),
  );
  const choose = (name, place) => {
    box.value = "";
    askRows({ do: "issuer", place, name });
  };
  const pages = pager("page", (start) => askRows({ do: "turn", start }));
  const rows = el("tbody");
  const table = el(
    "table",
    { class: "ctkit-rows" },
    el("thead", {}, el("tr", {}, ...COLUMNS.map((name) => el("th", { scope: "col" }, name)))),
    rows,
  );
  const shown = el("div", {}, form, pages.bar, el("div", { class: "ctkit-scroll", tabindex: "0" }, table));
  const pane = el("div");
  body.append(drawn, shown, pane);

  const nameList = el("ul", { class: "ctkit-names", "aria-label": "names" });
  const namePages = pager("names", (start) => ask({ do: "names", start }));
  const names = el("div", {}, namePages.bar, nameList);

  function showCharts() {
    drawn.replaceChildren(...charts(model.get("charts"), choose));
  }

  function showPage() {
    const { number, start, search, issuer, matches, within, rows: total, items } = model.get("page");
    const range = items.length ? `${count(start + 1)} to ${count(start + items.length)} of ` : "";
    const chosen = issuer ? ` of issuer “${issuer}”` : " without an issuer";
    const what = issuer !== null ? chosen : search ? ` with “${search}”` : "";
    const found = what ? `${count(matches)} rows${what}, of ${count(total)}` : `${count(total)} rows`;
    const cut = matches > within ? `; the first ${count(within)} can be turned to: search for more of the name` : "";
    if (document.activeElement !== box) box.value = search;
    form.querySelectorAll(":scope > :not(:last-child)").forEach((each) => each.hidden = !total);
    shown.querySelectorAll(":scope > :not(form)").forEach((each) => each.hidden = !total);
    table.hidden = !items.length;
    pages.show(model.get("page"), `${range}${found}${cut}`);
    wait(false);
    rows.replaceChildren(...items.map((item, row) => {
      const open = () => busy || ask({ do: "open", page: number, row });
      const cells = COLUMNS.map((name) => {
        if (name === "entry") return el("td", { onclick: stop }, link(item.entry, "log"));
        if (name === "index") return el("td", { class: "ctkit-number" }, button(item.index, open, OPENS));
        return el("td", { title: name === "issuer" ? item.issuer_in_full : item[name] }, item[name]);
      });
      return el("tr", { onclick: (event) => event.target.closest("button") || open() }, ...cells);
    }));
  }

  function showNames() {
    const { start, size, total, items } = model.get("names");
    if (!items) return;
    const range = total ? `names ${count(start + 1)} to ${count(start + items.length)} of ${count(total)}` : "no names";
    namePages.show({ start, size, within: total }, range);
    nameList.replaceChildren(...items.map((name) => el("li", {}, name)));
    nameList.hidden = !total;
  }

  let opened = null;
  function showCertificate() {
    const before = opened;
    opened = model.get("certificate");
    pane.replaceChildren(...(opened ? [certificate(opened, names, () => ask({ do: "close" }))] : []));
    // The focus follows what was opened, and returns where it came from.
    if (opened) pane.querySelector("button").focus();
    else if (before) rows.querySelectorAll("button")[before.row]?.focus();
  }

  const changes = { charts: showCharts, page: showPage, names: showNames, certificate: showCertificate };
  const settles = ["change:state", "change:note"];
  settles.forEach((name) => model.on(name, settle));
  for (const [name, show] of Object.entries(changes)) {
    model.on(`change:${name}`, show);
    if (name !== "certificate" || model.get(name)) show();
  }
  return () => {
    for (const [name, show] of Object.entries(changes)) model.off(`change:${name}`, show);
    settles.forEach((name) => model.off(name, settle));
    end();
  };
}

const OPENS = { "aria-haspopup": "true", title: "open the certificate" };
const stop = (event) => event.stopPropagation();

export default { render };
