// The table of samples: lists, search, filters, sorting, some rows at a time.

const ROWS = 25;
const LONG = 260;

const SORTS = [
  ["listed", "the list's order", null],
  ["weight", "mean weight", "mean weight"],
  ["weight2", "mean weight", "mean weight"],
  ["gap", "difference of the weights", null],
  ["first", "first loss", "first loss"],
  ["loss", "last loss", "last loss"],
  ["loss2", "last loss", "last loss"],
  ["change", "change of the loss", "change"],
  ["similarity", "similarity", "similarity"],
  ["visits", "visits", "visits"],
  ["bad", "losses not finite", "not finite"],
  ["times", "times the text occurs", null],
  ["length", "length of the text", null],
  ["step", "last step", null],
];

let samples = null;

function showSamples(report) {
  const columns = report.samples.columns;
  const count = columns.id.length;
  columns.change = columns.loss.map((loss, at) => (loss === null || columns.first[at] === null ? null : loss - columns.first[at]));
  if (columns.weight2) columns.gap = columns.weight.map((weight, at) => (weight === null || columns.weight2[at] === null ? null : Math.abs(weight - columns.weight2[at])));
  const names = report.runs.map((run) => run.name);
  const short = names.map((name) => (name.length > 16 ? `${name.slice(0, 15)}…` : name));
  const own = (name, text) => (names.length < 2 ? text : name.endsWith("2") ? `${text}, ${short[1]}` : columns[`${name}2`] ? `${text}, ${short[0]}` : text);
  const some = (name) => columns[name] && columns[name].some((value) => value !== null && (name !== "bad" || value > 0) && (name !== "times" || value > 1));
  const moved = columns.visits.some((visits) => visits > 1);
  const sorts = SORTS.filter(([name]) => name === "listed" || (some(name) && (moved || !["first", "change"].includes(name))));
  const shown = sorts.filter(([, , head]) => head).map(([name, , head]) => [name, own(name, head)]);
  const everything = Array.from({ length: count }, (_, at) => at);
  const lists = [{ key: "all", title: "all", rule: "The samples of all lists, and others drawn at random.", rows: everything }, ...report.samples.lists];
  const member = new Map();
  report.samples.lists.forEach((list) => list.rows.forEach((at) => member.set(at, [...(member.get(at) || []), list])));
  const texts = columns.text.map((text) => (text || "").toLowerCase());
  samples = { report, columns, names, lists, shown, member, texts, list: lists[0], sort: "weight", up: false, found: [], rows: 0, open: new Set() };

  byId("lists").append(...lists.map((list, at) => {
    const chip = el("input", { type: "radio", name: "list", value: list.key, checked: at === 0 });
    return el("label", {}, chip, el("span", { class: list.rows.length ? null : "none", text: `${list.title} ${whole(list.rows.length)}` }));
  }));
  choices("group", columns.group, "every kind");
  choices("shard", columns.shard, "every shard");
  byId("sort").append(...sorts.map(([name, text]) => el("option", { value: name, text: own(name, text) })));
  heads();
  byId("sort").value = "weight";
  byId("controls").addEventListener("input", (event) => {
    if (event.target.name === "list") {
      samples.list = lists.find((list) => list.key === event.target.value);
      order(samples.list === lists[0] ? "weight" : "listed", false);
    } else if (event.target.id === "sort") order(event.target.value, false);
    else find();
  });
  byId("controls").addEventListener("submit", (event) => event.preventDefault());
  byId("direction").addEventListener("click", () => order(samples.sort, !samples.up));
  byId("controls").addEventListener("reset", () => setTimeout(() => {
    samples.list = lists[0];
    order("weight", false);
  }));
  byId("more").addEventListener("click", () => {
    const first = samples.rows;
    render(samples.rows + ROWS);
    const row = byId("body").children[first];
    if (row) {
      row.tabIndex = -1;
      row.focus();
    }
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "/" && !/^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement.tagName)) {
      event.preventDefault();
      byId("search").focus();
    }
  });
  find();
}

function choices(id, values, all) {
  const counts = new Map();
  for (const value of values) if (value !== null) counts.set(value, (counts.get(value) || 0) + 1);
  byId(`${id}-label`).hidden = counts.size < 2;
  const named = [...counts].sort(([one], [other]) => (one < other ? -1 : 1));
  byId(id).append(el("option", { value: "", text: all }), ...named.map(([name, count], at) => el("option", { value: String(at), text: `${name} (${whole(count)})` })));
  byId(id).names = named.map(([name]) => name);
}

function heads() {
  const head = byId("head");
  head.append(el("th", { scope: "col", role: "columnheader", class: "left", text: "" }, el("span", { class: "hidden", text: "Sample" })));
  for (const [name, text] of samples.shown) {
    const button = el("button", { type: "button", text });
    button.addEventListener("click", () => order(name, samples.sort === name ? !samples.up : false));
    const cell = el("th", { scope: "col", role: "columnheader" }, button);
    cell.name = name;
    head.append(cell);
  }
}

function order(sort, up) {
  samples.sort = sort;
  samples.up = up;
  byId("sort").value = sort;
  find();
}

function find() {
  const { columns, texts, list, sort, up } = samples;
  const words = byId("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const picked = (id) => (byId(id).value === "" ? null : byId(id).names[Number(byId(id).value)]);
  const [group, shard] = [picked("group"), picked("shard")];
  samples.found = list.rows.filter((at) =>
    (group === null || columns.group[at] === group) && (shard === null || columns.shard[at] === shard) && words.every((word) => texts[at].includes(word) || isId(word, columns.id[at])));
  if (sort !== "listed") {
    const values = columns[sort];
    const sign = up ? 1 : -1;
    samples.found.sort((one, other) => {
      if (values[one] === null || values[other] === null) return (values[one] === null) - (values[other] === null);
      return sign * (values[one] - values[other]);
    });
  } else if (up) samples.found.reverse();
  byId("rule").textContent = list.rule;
  const direction = byId("direction");
  direction.textContent = sort === "listed" ? "Reverse" : "Lowest first";
  direction.setAttribute("aria-pressed", String(up));
  for (const cell of byId("head").children) {
    if (cell.name) cell.setAttribute("aria-sort", cell.name === sort ? (up ? "ascending" : "descending") : "none");
  }
  render(ROWS);
}

// All of an id, or its beginning where that is long enough not to be some number in a text.
function isId(word, id) {
  return id === word || (word.length > 5 && id.startsWith(word));
}

function render(most) {
  const { found } = samples;
  const body = byId("body");
  if (most === ROWS) body.replaceChildren();
  body.append(...found.slice(body.children.length, most).map(row));
  samples.rows = Math.min(most, found.length);
  byId("more").hidden = samples.rows >= found.length;
  byId("more").textContent = `Show ${Math.min(ROWS, found.length - samples.rows)} more`;
  byId("table").hidden = !found.length;
  byId("status").textContent = found.length ? `${whole(samples.rows)} of ${whole(found.length)} samples are shown.` : "No sample fits.";
}

function row(at) {
  const { columns, shown, member } = samples;
  const text = columns.text[at];
  const holder = el("div", { class: "text", dir: "auto", text: text === null ? "" : text });
  const about = el("div", { class: "about" });
  if (text === null) holder.replaceChildren(el("i", { text: "text not read" }));
  else if (text.length > LONG || text.split("\n").length > 4) {
    holder.classList.add("short");
    const more = el("button", { type: "button", "aria-expanded": "false", text: "whole text", "aria-label": `Whole text of sample ${columns.id[at]}` });
    more.addEventListener("click", () => {
      const short = holder.classList.toggle("short");
      more.setAttribute("aria-expanded", String(!short));
      more.textContent = short ? "whole text" : "less";
    });
    about.append(more, " · ");
  }
  const cut = columns.length[at] !== null && columns.length[at] > text.length;
  const facts = [
    columns.group[at],
    columns.shard[at] === null ? null : columns.row[at] === null ? columns.shard[at] : `${columns.shard[at]}, row ${whole(columns.row[at])}`,
    `id ${columns.id[at]}`,
    columns.step[at] === null ? null : `last at step ${whole(columns.step[at])}`,
    cut ? `the beginning of ${whole(columns.length[at])} characters` : null,
    columns.times[at] > 1 ? `its text occurs ${whole(columns.times[at])} times` : null,
  ].filter((fact) => fact !== null);
  facts.forEach((fact, place) => about.append(place ? " · " : "", el("bdi", { text: fact })));
  if (samples.list.key === "all") about.append(el("div", {}, ...(member.get(at) || []).map((list) => el("span", { class: "tag", text: list.title }))));
  const cells = shown.map(([name, label]) => el("td", { role: "cell", "data-label": label, text: number(name, columns[name][at]) }));
  return el("tr", { role: "row" }, el("td", { class: "left", role: "cell" }, holder, about), ...cells);
}

function number(name, value) {
  if (name === "visits" || name === "bad") return whole(value);
  return name === "change" && value > 0 ? `+${plain(value)}` : plain(value);
}

// What a chart points at. It may not be among those in the table: then the search says so.
function showSample(id) {
  byId("controls").reset();
  setTimeout(() => {
    byId("search").value = id;
    find();
    if (!samples.found.length) byId("status").textContent = `Sample ${id} is in the chart, but not among those of the table.`;
    byId("search").focus();
    byId("samples").scrollIntoView();
  });
}
