"use strict";
// The page: filter, sort, look, decide. Every text of the data is set as text (textContent, setAttribute), never as HTML.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const rows = data.rows;
  const size = rows.index.length;
  const PAGE = 50;
  const KEY = `alignprune:decisions:${data.fingerprint}`;
  const NUMBERS = data.columns.filter((name) => rows[name].some((value) => typeof value === "number"));
  const $ = (id) => document.getElementById(id);

  // An element with properties, attributes (names with a dash, or role) and children; a text child stays a text.
  function h(tag, properties, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(properties ?? {})) {
      if (value === null || value === undefined) continue;
      if (name.includes("-") || name === "role" || name === "for") element.setAttribute(name, value);
      else element[name] = value;
    }
    element.append(...children.filter((child) => child !== null && child !== undefined));
    return element;
  }

  const whole = (number) => Math.round(number).toLocaleString("en-US");
  const named = (label) => (label === null || label === "" ? "(no label)" : label);
  function short(value) {
    if (value === null) return "–";
    if (typeof value === "boolean") return value ? "yes" : "no";
    if (typeof value !== "number") return String(value);
    if (Number.isInteger(value)) return value.toLocaleString("en-US");
    return Math.abs(value) >= 1e4 || Math.abs(value) < 1e-3 ? value.toExponential(2) : String(Number(value.toPrecision(4)));
  }

  // -- decisions ------------------------------------------------------------------------------------------------

  let decided = new Map();
  const undone = [];
  let stored = true; // whether this browser keeps the decisions
  let unsaved = false;

  function restore() {
    try {
      const found = localStorage.getItem(KEY);
      decided = new Map((found === null ? [] : JSON.parse(found)).map((one) => [one.index, one]));
    } catch (error) {
      stored = false;
    }
  }

  function keep() {
    unsaved = true;
    try {
      localStorage.setItem(KEY, JSON.stringify([...decided.values()]));
      stored = true;
    } catch (error) {
      stored = false;
    }
  }

  function put(index, decision) {
    if (decision === undefined) decided.delete(index);
    else decided.set(index, decision);
    keep();
    showProgress();
    refresh(index);
  }

  function decide(row, decision, label) {
    const index = rows.index[row];
    const before = decided.get(index);
    const again = before !== undefined && before.decision === decision && before.label === label;
    undone.push([index, before]);
    const given = rows.given_label[row] ?? "";
    put(index, again ? undefined : { index, id: rows.id[row], given_label: given, decision, label });
    say(again ? `${rows.id[row]}: decision taken back` : `${rows.id[row]}: ${decision}${label ? ` to ${label}` : ""}`);
  }

  function undo() {
    const last = undone.pop();
    if (last === undefined) return say("Nothing to undo since the page was opened");
    const [index, before] = last;
    put(index, before);
    say(`Undone: ${rows.id[rows.index.indexOf(index)]} is ${before ? before.decision : "undecided"}`);
    const at = view.findIndex((row) => rows.index[row] === index);
    if (at >= 0) activate(at);
  }

  function suggestion(row) {
    const label = rows.predicted_label[row];
    return label === null || label === rows.given_label[row] ? null : label;
  }

  function relabel(row) {
    const label = suggestion(row);
    if (label === null) choose();
    else decide(row, "relabel", label);
    return label !== null;
  }

  function choose() {
    if (!wide.matches) open(true);
    $("label")?.focus();
    say("Choose the label; Esc leads back");
  }

  // -- files ----------------------------------------------------------------------------------------------------

  // As alignprune.audit.decisions.as_cell: no spreadsheet program takes a text for a formula.
  const asCell = (text) => (/^[=+\-@\t\r\n＝＋－＠']/.test(text) ? `'${text}` : text);

  function cell(value) {
    if (value === null) return "";
    if (typeof value === "boolean") return value ? "True" : "False";
    if (typeof value === "number") return String(value);
    const text = asCell(value);
    return /[",\r\n]/.test(text) || text !== text.trim() ? `"${text.replaceAll('"', '""')}"` : text;
  }

  function download(name, header, lines) {
    // The byte order mark tells spreadsheet programs that it is UTF-8.
    const text = "\ufeff" + [header, ...lines].map((line) => line.map(cell).join(",") + "\r\n").join("");
    const url = URL.createObjectURL(new Blob([text], { type: "text/csv;charset=utf-8" }));
    h("a", { href: url, download: name }).click();
    setTimeout(() => URL.revokeObjectURL(url), 60000);
  }

  function saveDecisions() {
    const all = [...decided.values()].sort((a, b) => a.index - b.index);
    const lines = all.map((d) => [d.index, d.id, d.given_label, d.decision, d.label, data.fingerprint]);
    download("decisions.csv", ["index", "id", "given_label", "decision", "label", "data"], lines);
    unsaved = false;
    say(`Saved ${whole(all.length)} decisions as decisions.csv`);
  }

  function saveSelection() {
    download("selection.csv", data.columns, view.map((row) => data.columns.map((name) => rows[name][row])));
    say(`Saved ${whole(view.length)} rows as selection.csv`);
  }

  // -- what is selected -----------------------------------------------------------------------------------------

  const every = [...Array(size).keys()];
  let view = every;
  let active = 0; // position in the view
  let begun = false; // whether a row was chosen by the user: only then do keys decide
  const filter = { given: undefined, suggested: undefined, text: "", threshold: 0, status: "", sort: "p_wrong", down: true };

  function matches(row) {
    const p = rows.p_wrong[row];
    const decision = decided.get(rows.index[row])?.decision ?? "none";
    return (
      (filter.given === undefined || rows.given_label[row] === filter.given) &&
      (filter.suggested === undefined || rows.predicted_label[row] === filter.suggested) &&
      (filter.threshold === 0 || (p !== null && p >= filter.threshold)) &&
      (filter.status === "" || decision === filter.status) &&
      rows.id[row].toLowerCase().includes(filter.text)
    );
  }

  function compare(a, b) {
    const [x, y] = [rows[filter.sort][a], rows[filter.sort][b]];
    if (x === null || y === null) return (x === null) - (y === null) || a - b; // what is missing comes last
    const order = typeof x === "string" ? x.localeCompare(y, "en", { numeric: true }) : x - y;
    return (filter.down ? -order : order) || a - b;
  }

  function select() {
    view = every.filter(matches).sort(compare);
    active = 0;
    showList();
    showAbove();
  }

  const page = () => Math.floor(active / PAGE);
  const chosen = () => view[active];

  // -- the list -------------------------------------------------------------------------------------------------

  const sampleOf = (row) => data.samples?.[row] ?? null;

  function look(row) {
    const sample = sampleOf(row);
    const enlarge = () => open(true);
    if (sample.kind === "image") {
      const picture = h("img", { src: sample.uri, alt: `Sample ${rows.id[row]}`, loading: "lazy" });
      return h("button", { className: "thumb", tabIndex: -1, onclick: enlarge, "aria-label": `Enlarge ${rows.id[row]}` }, picture);
    }
    if (sample.kind === "text") {
      return h("button", { className: "excerpt", tabIndex: -1, onclick: enlarge, title: "Read all" }, sample.text.trim().slice(0, 400) || "(empty text)");
    }
    if (sample.kind === "values") return h("div", { className: "values" }, spark([[sample.numbers, "sample"]], "Values of the sample"));
    return h("p", { className: "unreadable" }, `The image could not be read. ${sample.reason}`);
  }

  function flip(row) {
    const to = suggestion(row);
    const given = h("span", { title: "given label" }, named(rows.given_label[row]));
    if (to !== null) return [given, h("i", {}, " → "), h("b", { title: "suggested label" }, to)];
    return [given, h("i", {}, rows.predicted_label[row] === null ? " · no suggestion" : " · also predicted")];
  }

  function score(row) {
    const p = rows.p_wrong[row];
    const bar = h("i", {});
    bar.style.setProperty("--share", p ?? 0);
    return h("div", { className: "p" }, p === null ? "–" : p < 1 && p >= 0.9995 ? "> 0.999" : p.toFixed(3), bar);
  }

  function choices(row) {
    const decision = decided.get(rows.index[row])?.decision;
    const button = (name, text, act) =>
      h("button", { type: "button", tabIndex: -1, onclick: act, "aria-pressed": decision === name, "data-decision": name }, text);
    return h(
      "div",
      { className: "choices", role: "group", "aria-label": `Decision on ${rows.id[row]}` },
      button("keep", "Keep", () => decide(row, "keep", "")),
      button("relabel", "Relabel", () => (decision === "relabel" ? decide(row, "relabel", decided.get(rows.index[row]).label) : relabel(row))),
      button("drop", "Drop", () => decide(row, "drop", "")),
    );
  }

  function became(row) {
    const one = decided.get(rows.index[row]);
    return h("div", { className: "became" }, one?.decision === "relabel" ? `→ ${one.label}` : "");
  }

  function line(row, at) {
    const td = (className, ...children) => h("td", { className, role: "cell" }, ...children);
    const element = h(
      "tr",
      { role: "row", tabIndex: at === active ? 0 : -1, "data-at": at, "data-index": rows.index[row], "aria-current": at === active },
      data.samples ? td("look", look(row)) : null,
      td("names", h("div", { className: "labels" }, ...flip(row)), h("div", { className: "id" }, rows.id[row])),
      td("score", score(row)),
      data.curves ? td("moves", trajectory(row)) : null,
      td("choose", choices(row), became(row)),
    );
    element.addEventListener("pointerdown", () => activate(at, false), true);
    element.addEventListener("focusin", () => activate(at, false));
    return element;
  }

  function showList() {
    const first = page() * PAGE;
    const lines = view.slice(first, first + PAGE).map((row, offset) => line(row, first + offset));
    const empty = h("tr", {}, h("td", { className: "empty", colSpan: 5 }, "No row of this page is like that. Reset the filters, or lower the threshold."));
    $("body").replaceChildren(...(lines.length ? lines : [empty]));
    const pages = Math.max(1, Math.ceil(view.length / PAGE));
    $("page").textContent = `Page ${page() + 1} of ${pages}`;
    $("previous").disabled = page() === 0;
    $("next").disabled = page() + 1 >= pages;
    $("count").textContent = `${whole(view.length)} of the ${whole(size)} rows on this page`;
    $("download").textContent = `Download ${whole(view.length)} rows as CSV`;
    $("download").disabled = view.length === 0;
    for (const head of $("heads").children) head.removeAttribute("aria-sort");
    for (const name of document.querySelectorAll("#heads [data-sort]")) {
      name.dataset.order = name.dataset.sort !== filter.sort ? "" : filter.down ? "descending" : "ascending";
      if (name.dataset.order) name.closest("th").setAttribute("aria-sort", name.dataset.order);
    }
    $("sort").value = filter.sort;
    $("order").value = filter.down ? "down" : "up";
    showPanel();
  }

  // Make a row of the view the chosen one; by key it gets the focus and comes into sight.
  function activate(at, focus = true) {
    if (at < 0 || at >= view.length) return;
    begun = true;
    const before = active;
    active = at;
    if (Math.floor(before / PAGE) !== page()) showList();
    else if (before !== at) {
      for (const element of $("body").children) {
        const own = Number(element.dataset.at) === at;
        element.setAttribute("aria-current", own);
        element.tabIndex = own ? 0 : -1;
      }
      showPanel();
    }
    if (!focus) return;
    const element = $("body").querySelector(`[data-at="${at}"]`);
    if (!$("panel").classList.contains("open")) element?.focus({ preventScroll: true });
    element?.scrollIntoView({ block: "nearest" });
  }

  // Draw one row and the panel anew after a decision, and leave the focus where it was.
  function refresh(index) {
    const old = $("body").querySelector(`[data-index="${index}"]`);
    if (old !== null) {
      const at = Number(old.dataset.at);
      const name = old.contains(document.activeElement) ? document.activeElement.dataset.decision : null;
      const focused = old.contains(document.activeElement);
      const own = line(view[at], at);
      old.replaceWith(own);
      if (focused) (own.querySelector(`[data-decision="${name}"]`) ?? own).focus({ preventScroll: true });
    }
    if (view.length && rows.index[chosen()] === index) showPanel();
  }

  // -- the chosen sample ----------------------------------------------------------------------------------------

  const wide = matchMedia("(min-width: 1221px)");
  const charts = new Map();
  const curves = h("div", { id: "curves", role: "img" });

  function full(row) {
    const sample = sampleOf(row);
    if (sample === null) return null;
    if (sample.kind === "image") {
      const [width, height] = sample.size;
      return h(
        "figure",
        { style: "margin:0" },
        h("img", { className: "big", src: sample.uri, alt: `Sample ${rows.id[row]}, given label ${named(rows.given_label[row])}` }),
        h("figcaption", { className: "note" }, `${width} × ${height} pixels${Math.max(width, height) > 128 ? ", shown smaller" : ""}`),
      );
    }
    if (sample.kind === "text") {
      const cut = sample.size > sample.text.length ? `The first ${whole(sample.text.length)} of ${whole(sample.size)} characters.` : "";
      return h("div", {}, h("div", { className: "full", tabIndex: 0, role: "region", "aria-label": "Text" }, sample.text || "(empty text)"), h("p", { className: "note" }, cut));
    }
    if (sample.kind === "values") {
      const facts = sample.names.flatMap((name, k) => [h("dt", {}, name), h("dd", {}, short(sample.numbers[k]))]);
      const cut = sample.size > sample.numbers.length ? `The first ${sample.numbers.length} of ${whole(sample.size)} values.` : "";
      return h("div", { className: "full", tabIndex: 0, role: "region", "aria-label": "Values" }, h("dl", { className: "facts" }, ...facts), h("p", { className: "note" }, cut));
    }
    return look(row);
  }

  function labelMenu(row) {
    const given = rows.given_label[row];
    const menu = h("select", { id: "label" }, h("option", { value: "" }, "choose a label"));
    data.classes.forEach((name, k) => {
      if (name !== given) menu.append(h("option", { value: String(k) }, name === suggestion(row) ? `${name} (suggested)` : name));
    });
    const one = decided.get(rows.index[row]);
    menu.value = one?.decision === "relabel" ? String(data.classes.indexOf(one.label)) : "";
    menu.onchange = () => menu.value !== "" && decide(row, "relabel", data.classes[Number(menu.value)]);
    return h("label", {}, "Relabel to", menu);
  }

  function examplesOf(label) {
    const some = label === null ? [] : (Object.hasOwn(data.examples, label) ? data.examples[label] : []);
    if (some.length === 0) return null;
    const shown = some.map(({ id, kind, uri, text }) => {
      if (kind === "image") return h("img", { src: uri, alt: `Sample ${id} of ${label}`, title: id });
      return kind === "text" ? h("p", { className: "excerpt", style: "margin:0" }, text.trim().slice(0, 200)) : null;
    });
    return h("div", {}, h("h4", {}, `Trusted samples of ${label}`), h("div", { className: "examples" }, ...shown));
  }

  function factsOf(row) {
    const others = data.columns.filter((name) => !["id", "given_label", "predicted_label", "p_wrong"].includes(name));
    return h("dl", { className: "facts" }, ...others.flatMap((name) => [h("dt", {}, name), h("dd", {}, short(rows[name][row]))]));
  }

  function showPanel() {
    const panel = $("panel");
    const menuHadFocus = document.activeElement?.id === "label";
    const hadFocus = panel.contains(document.activeElement);
    const decision = document.activeElement?.dataset?.decision;
    if (view.length === 0) return panel.replaceChildren(h("p", { className: "note" }, "No sample is chosen."));
    const row = chosen();
    curves.setAttribute("aria-label", `Losses of ${rows.id[row]}`);
    panel.replaceChildren(
      ...[
        h("button", { type: "button", className: "quiet close", onclick: () => open(false) }, "Close"),
        full(row),
        h("div", {}, h("h3", {}, ...flip(row)), h("div", { className: "id" }, rows.id[row])),
        h("div", { className: "decide" }, choices(row), labelMenu(row)),
        data.curves ? h("div", {}, h("h4", {}, `p_wrong ${short(rows.p_wrong[row])}, loss by epoch`), curves, legend(row)) : null,
        examplesOf(rows.given_label[row]),
        suggestion(row) === null ? null : examplesOf(suggestion(row)),
        factsOf(row),
      ].filter((part) => part !== null),
    );
    for (const button of panel.querySelectorAll("button")) button.tabIndex = 0;
    panel.scrollTop = 0;
    if (data.curves && curves.clientWidth > 0) drawCurves(row);
    if (menuHadFocus) $("label").focus();
    else if (hadFocus) (panel.querySelector(`[data-decision="${decision}"]`) ?? panel.querySelector("button")).focus();
  }

  function open(state) {
    if (view.length === 0) return;
    const panel = $("panel");
    if (panel.classList.contains("open") === state) return;
    panel.classList.toggle("open", state);
    panel.setAttribute("role", state ? "dialog" : "complementary");
    for (const element of document.querySelectorAll("[data-behind]")) element.inert = state;
    showPanel();
    if (state) panel.querySelector(".close").focus();
    else activate(active);
  }

  // -- trajectories ---------------------------------------------------------------------------------------------

  function halves(text) {
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const words = new DataView(bytes.buffer);
    return Float32Array.from({ length: bytes.length / 2 }, (_, k) => {
      const bits = words.getUint16(2 * k, true);
      const sign = bits >> 15 ? -1 : 1;
      const exponent = (bits >> 10) & 31;
      const fraction = bits & 1023;
      if (exponent === 31) return NaN;
      return sign * (exponent === 0 ? fraction * 2 ** -24 : (1 + fraction / 1024) * 2 ** (exponent - 15));
    });
  }

  const epochs = data.curves?.epochs ?? 0;
  const losses = data.curves ? halves(data.curves.losses) : null;
  const means = data.curves ? halves(data.curves.means) : null;
  const classAt = new Map(data.classes.map((name, k) => [name, k]));
  const lossOf = (row) => losses.subarray(row * epochs, (row + 1) * epochs);
  const meanOf = (label) => (classAt.has(label) ? means.subarray(classAt.get(label) * epochs, (classAt.get(label) + 1) * epochs) : null);
  // One scale for all rows, so that they can be compared; the few highest losses are cut off.
  const sorted = losses ? losses.filter((x) => x === x).sort() : [];
  const top = sorted.length ? sorted[Math.floor(0.98 * (sorted.length - 1))] || 1 : 1;

  function lines(row) {
    const to = suggestion(row);
    return [
      [meanOf(rows.given_label[row]), "given"],
      [to === null ? null : meanOf(to), "suggested"],
      [lossOf(row), "sample"],
    ].filter(([values]) => values !== null);
  }

  function spark(curves, label, high = Math.max(...curves.flatMap(([values]) => [...values]).filter(Number.isFinite))) {
    const make = (tag) => document.createElementNS("http://www.w3.org/2000/svg", tag);
    const svg = make("svg");
    svg.setAttribute("class", "spark");
    svg.setAttribute("viewBox", "0 0 132 44");
    svg.setAttribute("preserveAspectRatio", "none");
    svg.setAttribute("role", "img");
    svg.setAttribute("aria-label", label);
    for (const [values, name] of curves) {
      let path = "";
      let pen = "M";
      values.forEach((value, k) => {
        if (value === null || Number.isNaN(value)) return void (pen = "M");
        const x = values.length > 1 ? (132 * k) / (values.length - 1) : 66;
        const y = 42 - 40 * Math.min(Math.max(value, 0) / (high || 1), 1);
        path += `${pen}${x.toFixed(1)} ${y.toFixed(1)}`;
        // A point on its own would not be drawn: a line of no length is.
        if (pen === "M") path += "h0.01";
        pen = "L";
      });
      const drawn = make("path");
      drawn.setAttribute("class", name);
      drawn.setAttribute("d", path);
      svg.append(drawn);
    }
    return svg;
  }

  function trajectory(row) {
    const seen = [...lossOf(row)].filter((x) => x === x);
    const text = seen.length ? `Loss from ${short(seen[0])} to ${short(seen.at(-1))}` : "No loss was seen";
    return spark(lines(row), text, top);
  }

  const points = (row) =>
    lines(row).flatMap(([values, line]) => [...values].map((loss, k) => ({ epoch: k + 1, loss: loss === loss ? loss : null, line })));

  function legend(row) {
    const to = suggestion(row);
    const entry = (name, text) => h("span", { className: name }, text);
    return h(
      "div",
      { className: "legend" },
      entry("sample", "this sample"),
      rows.given_label[row] === null ? null : entry("given", `mean of ${rows.given_label[row]}`),
      to === null ? null : entry("suggested", `mean of ${to}`),
    );
  }

  // -- charts ---------------------------------------------------------------------------------------------------

  const dark = matchMedia("(prefers-color-scheme: dark)");
  const theme = () => document.documentElement.dataset.theme ?? (dark.matches ? "dark" : "light");

  function tip(handler, event, item, value) {
    const box = $("tip");
    box.hidden = value === null || value === undefined || value === "";
    if (box.hidden) return;
    box.textContent = Object.entries(value).map(([name, text]) => `${name}: ${text}`).join("\n");
    const left = Math.min(event.clientX + 14, innerWidth - box.offsetWidth - 8);
    box.style.left = `${left}px`;
    box.style.top = `${Math.max(8, event.clientY - box.offsetHeight - 12)}px`;
  }

  async function draw(name, container, sources) {
    charts.get(name)?.view?.finalize();
    const chart = { container, sources, width: container.clientWidth, view: null };
    charts.set(name, chart);
    const spec = structuredClone(data.charts[theme()][name]);
    for (const source of spec.data) if (Object.hasOwn(sources, source.name)) source.values = structuredClone(sources[source.name]);
    const options = { mode: "vega", renderer: "svg", actions: false, defaultStyle: false, tooltip: tip };
    const { view: drawn } = await vegaEmbed(container, spec, options);
    if (charts.get(name) !== chart) return drawn.finalize(); // drawn anew in the meantime
    chart.view = drawn;
    if (name === "histogram") drawn.signal("threshold", filter.threshold).run();
    if (name === "curves" && chart.sources !== sources) drawn.data("points", structuredClone(chart.sources.points)).run();
    if (name === "flips") {
      drawn.addEventListener("click", (event, item) => {
        if (item?.datum?.suggested !== undefined) pair(item.datum.given, item.datum.suggested);
      });
    }
  }

  function drawCurves(row) {
    const sources = { points: points(row) };
    const chart = charts.get("curves");
    if (chart === undefined || chart.width !== curves.clientWidth) return draw("curves", curves, sources);
    chart.sources = sources;
    chart.view?.data("points", structuredClone(sources.points)).run();
  }

  function redraw() {
    $("theme").textContent = theme() === "dark" ? "Light" : "Dark";
    for (const [name, { container, sources }] of [...charts]) draw(name, container, sources);
  }

  // -- what stands around the list ------------------------------------------------------------------------------

  function say(text) {
    $("message").textContent = text;
  }

  function showProgress() {
    const all = [...decided.values()];
    const of = (name) => all.filter((one) => one.decision === name).length;
    const here = new Set(rows.index);
    const elsewhere = all.filter((one) => !here.has(one.index)).length;
    const kinds = `${of("keep")} keep, ${of("relabel")} relabel, ${of("drop")} drop`;
    $("decided").textContent = whole(all.length);
    $("decided-note").textContent =
      (all.length ? kinds : "none yet") +
      (elsewhere ? `; ${elsewhere} on samples that this page does not hold` : "") +
      (stored ? "" : ". This browser does not keep them: save the file before you close the page");
    $("save").disabled = all.length === 0;
    $("undo").disabled = undone.length === 0;
  }

  function showAbove() {
    const step = Math.round(filter.threshold * 1000);
    const { samples, issues, expected } = data.above;
    $("threshold-value").textContent = filter.threshold.toFixed(3);
    $("above").replaceChildren(
      h("b", {}, whole(samples[step])),
      ` of all ${whole(data.total)} samples lie there or above, about `,
      h("b", {}, whole(expected[step])),
      ` of them expected wrong. ${whole(issues[step])} are label issues.`,
    );
    charts.get("histogram")?.view?.signal("threshold", filter.threshold).runAsync();
  }

  function showHeld() {
    const known = rows.p_wrong.filter((p) => p !== null);
    const lowest = known.length ? ` Their p_wrong goes down to ${Math.min(...known).toFixed(3)}.` : "";
    $("holds").textContent =
      size < data.total
        ? `This page holds the ${whole(size)} most suspicious of ${whole(data.total)} samples.${lowest} All numbers above count every sample.`
        : `This page holds all ${whole(size)} samples.`;
  }

  function fill(menu, column) {
    const counts = new Map();
    for (const value of rows[column]) counts.set(value, (counts.get(value) ?? 0) + 1);
    const names = [...data.classes.filter((name) => counts.has(name)), ...(counts.has(null) ? [null] : [])];
    menu.append(h("option", { value: "" }, "all"), ...names.map((name, k) => h("option", { value: String(k) }, `${named(name)} (${counts.get(name)})`)));
    return names;
  }

  const givenNames = fill($("given"), "given_label");
  const suggestedNames = fill($("suggested"), "predicted_label");

  // Show the samples of a class, or of a given and a suggested class. Those of which the page holds none give an empty list.
  function pair(given, suggested) {
    if (given !== undefined && !givenNames.includes(given)) return nothing(named(given));
    if (suggested !== undefined && !suggestedNames.includes(suggested)) return nothing(`suggested ${named(suggested)}`);
    filter.given = given;
    filter.suggested = suggested;
    $("given").value = given === undefined ? "" : String(givenNames.indexOf(given));
    $("suggested").value = suggested === undefined ? "" : String(suggestedNames.indexOf(suggested));
    select();
    $("review").scrollIntoView();
  }

  function nothing(what) {
    say(`None of the ${whole(size)} rows on this page is ${what}`);
  }

  function reset() {
    Object.assign(filter, { given: undefined, suggested: undefined, text: "", threshold: 0, status: "", sort: "p_wrong", down: true });
    for (const id of ["given", "suggested", "status", "search"]) $(id).value = "";
    $("threshold").value = "0";
    select();
  }

  function sortBy(name) {
    filter.down = filter.sort === name ? !filter.down : NUMBERS.includes(name);
    filter.sort = name;
    select();
  }

  function heads() {
    const head = (text, column) =>
      h("th", { role: "columnheader", scope: "col", "data-sort": column }, column ? h("button", { type: "button", className: "sort", onclick: () => sortBy(column) }, text) : text);
    const names = h("th", { role: "columnheader", scope: "col" });
    ["given_label", "predicted_label", "id"].forEach((column, k) => {
      const button = h("button", { type: "button", className: "sort", onclick: () => sortBy(column) }, ["given", "suggested", "id"][k]);
      names.append(...(k ? [["", " → ", ", "][k]] : []), h("span", { "data-sort": column }, button));
    });
    const all = [data.samples ? head("sample") : null, names, head("p_wrong", "p_wrong"), data.curves ? head("loss by epoch") : null, head("decision")];
    $("heads").append(...all.filter((one) => one !== null));
    const sortable = data.columns.filter((name) => rows[name].some((value) => value !== null));
    $("sort").append(...sortable.map((name) => h("option", { value: name }, name)));
  }

  function sortClasses(event) {
    const button = event.target.closest("button.sort");
    if (button === null) return;
    const head = button.parentElement;
    const column = [...head.parentElement.children].indexOf(head);
    const down = head.getAttribute("aria-sort") !== "descending" && !(column === 0 && head.getAttribute("aria-sort") !== "ascending");
    for (const other of head.parentElement.children) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const value = (line) => (column ? Number(line.children[column].dataset.value) : line.children[0].textContent);
    const missing = (line) => column > 0 && line.children[column].dataset.value === "";
    const body = $("classes").tBodies[0];
    const order = (a, b) => (column ? value(a) - value(b) : value(a).localeCompare(value(b), "en", { numeric: true }));
    body.append(...[...body.rows].sort((a, b) => missing(a) - missing(b) || (down ? -order(a, b) : order(a, b))));
  }

  // -- keys -----------------------------------------------------------------------------------------------------

  function step(by) {
    activate(begun ? Math.min(Math.max(active + by, 0), view.length - 1) : active);
  }

  function byKey(decision) {
    if (!begun) return step(0);
    const row = chosen();
    if (decision === "relabel" && !relabel(row)) return;
    if (decision !== "relabel") decide(row, decision, "");
    activate(Math.min(active + 1, view.length - 1));
  }

  const keys = {
    j: () => step(1),
    k: () => byKey("keep"),
    r: () => byKey("relabel"),
    d: () => byKey("drop"),
    u: undo,
    l: () => (begun ? choose() : step(0)),
    "/": () => $("search").focus(),
  };

  function onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
    const target = event.target instanceof Element ? event.target : document.body;
    if (event.key === "Escape") {
      if (!target.matches("input, select")) return open(false);
      target.blur();
      activate(active);
      return;
    }
    if (target.matches("select, textarea, input:not([type=range])")) return;
    const inList = $("body").contains(target) || $("panel").classList.contains("open");
    const arrow = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (arrow !== undefined && !(inList && !target.matches("input"))) return; // the arrows go on to scroll the page elsewhere
    const enter = event.key === "Enter" && target.matches("#body tr");
    const act = arrow !== undefined ? () => step(arrow) : enter ? () => open(true) : Object.hasOwn(keys, event.key.toLowerCase()) ? keys[event.key.toLowerCase()] : null;
    if (act === null) return;
    event.preventDefault();
    if (view.length || event.key === "/" || event.key === "u") act();
  }

  // -- start ----------------------------------------------------------------------------------------------------

  function listen() {
    const chosenName = (menu, names) => (menu.value === "" ? undefined : names[Number(menu.value)]);
    $("given").onchange = () => ((filter.given = chosenName($("given"), givenNames)), select());
    $("suggested").onchange = () => ((filter.suggested = chosenName($("suggested"), suggestedNames)), select());
    $("status").onchange = () => ((filter.status = $("status").value), select());
    $("search").oninput = () => ((filter.text = $("search").value.toLowerCase()), select());
    $("threshold").oninput = () => ((filter.threshold = Number($("threshold").value)), select());
    $("sort").onchange = () => ((filter.sort = $("sort").value), select());
    $("order").onchange = () => ((filter.down = $("order").value === "down"), select());
    $("reset").onclick = reset;
    $("download").onclick = saveSelection;
    $("save").onclick = saveDecisions;
    $("undo").onclick = undo;
    $("previous").onclick = () => activate((page() - 1) * PAGE);
    $("next").onclick = () => activate((page() + 1) * PAGE);
    $("classes").onclick = sortClasses;
    for (const button of document.querySelectorAll("[data-given]")) {
      button.onclick = () => pair(button.dataset.given, button.dataset.suggested);
    }
    $("theme").onclick = () => {
      document.documentElement.dataset.theme = theme() === "dark" ? "light" : "dark";
      try {
        localStorage.setItem("alignprune:theme", theme());
      } catch (error) {
        say("This browser does not keep the choice of light or dark");
      }
      redraw();
    };
    dark.onchange = redraw;
    wide.onchange = showPanel;
    document.addEventListener("keydown", onKey);
    // The same report in another tab: both show the same decisions.
    addEventListener("storage", (event) => {
      if (event.key !== KEY) return;
      restore();
      showProgress();
      showList();
    });
    addEventListener("beforeunload", (event) => {
      if (!stored && unsaved) event.preventDefault();
    });
  }

  try {
    const kept = localStorage.getItem("alignprune:theme");
    if (kept === "dark" || kept === "light") document.documentElement.dataset.theme = kept;
  } catch (error) {
    stored = false;
  }
  restore();
  heads();
  listen();
  showHeld();
  showProgress();
  select();
  const drawing = [draw("histogram", $("histogram"), { bins: data.histogram })];
  if ($("flips") !== null) drawing.push(draw("flips", $("flips"), { cells: data.flips.cells }));
  $("theme").textContent = theme() === "dark" ? "Light" : "Dark";
  Promise.all(drawing).then(() => (document.documentElement.dataset.ready = "yes"));
})();
