// Drawing: elements and charts. Whatever comes from data becomes text or a number, never markup.

const SVG = "http://www.w3.org/2000/svg";
const EMPTY = "–";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "text") node.textContent = value;
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children);
  return node;
}

const el = (name, attributes = {}, ...children) => fill(document.createElement(name), attributes, children);
const draw = (name, attributes = {}, ...children) => fill(document.createElementNS(SVG, name), attributes, children);

function coloured(node, colour) {
  node.style.setProperty("--c", colour);
  return node;
}

function plain(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return EMPTY;
  const size = Math.abs(value);
  if (size >= 1000) return Math.round(value).toLocaleString("en-US");
  if (size >= 100) return value.toFixed(0);
  if (size >= 10) return value.toFixed(1);
  return size === 0 || size >= 0.01 ? value.toFixed(2) : value.toPrecision(2);
}

const percent = (value) => (value === null || !Number.isFinite(value) ? EMPTY : `${(100 * value).toFixed(value > 0 && value < 0.0995 ? 1 : 0)}%`);
const whole = (value) => (value === null || value === undefined ? EMPTY : value.toLocaleString("en-US"));

// From little weight to much: cool to warm, readable on light and dark.
const RAMP = [[88, 120, 190], [150, 140, 170], [214, 80, 80]];

function ramp(share) {
  const place = Math.min(0.9999, Math.max(0, share)) * (RAMP.length - 1);
  const [low, high] = [RAMP[Math.floor(place)], RAMP[Math.floor(place) + 1]];
  return `rgb(${low.map((part, at) => Math.round(part + (high[at] - part) * (place % 1))).join(" ")})`;
}

function rampKey(from, to) {
  const bar = el("span", { class: "ramp", "aria-hidden": "true" });
  for (let part = 0; part < 6; part++) {
    const piece = el("i");
    piece.style.background = ramp(part / 5);
    bar.append(piece);
  }
  return el("li", {}, from, bar, to);
}

function ticks(low, high, most) {
  const rough = (high - low) / Math.max(1, most);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((times) => times * power).find((size) => size >= rough * 0.999) || 10 * power;
  const found = [];
  for (let at = Math.ceil(low / step - 1e-9); at * step <= high + step * 1e-9; at++) found.push(at * step || 0);
  return found;
}

// As many digits as tell the ticks apart, and no more.
function labels(values, format) {
  if (format !== plain) return values.map((value) => format(value).replace(".0%", "%"));
  const step = values.length > 1 ? values[1] - values[0] : Math.abs(values[0]) || 1;
  const digits = Math.min(8, Math.max(0, -Math.floor(Math.log10(step) + 1e-9)));
  return values.map((value) => (Math.abs(value) >= 1000 ? plain(value) : value.toFixed(digits)));
}

function extent(lists, include = []) {
  let [low, high] = [Infinity, -Infinity];
  for (const list of [...lists, include]) {
    for (const value of list || []) {
      if (value === null || !Number.isFinite(value)) continue;
      low = Math.min(low, value);
      high = Math.max(high, value);
    }
  }
  if (low > high) return [0, 1];
  const room = (high - low) * 0.04 || Math.abs(high) * 0.05 || 0.5;
  return [low >= 0 && low - room < 0 ? 0 : low - room, high + room];
}

// A figure with a caption, an svg that is drawn for the width there is, a line to read values from, and a table of them.
function figure(spec) {
  const box = el("figure");
  const caption = el("figcaption", {}, el("span", { class: "bidi", text: spec.title }));
  if (spec.control) caption.append(spec.control);
  const svg = draw("svg", { role: "img", "aria-label": `${spec.title}. ${spec.says || ""}`, tabindex: "0" });
  const readout = el("p", { class: spec.long ? "readout long" : "readout" });
  box.append(caption, svg, readout);
  const legend = spec.legend ? el("ul", { class: "legend" }, ...spec.legend) : null;
  if (legend) box.append(legend);
  if (spec.table) box.append(spec.table);
  let [width, at] = [0, null];
  const state = { svg, redraw };
  function redraw() {
    width = svg.clientWidth || box.clientWidth || 520;
    const height = spec.height || 230;
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.setAttribute("height", height);
    svg.replaceChildren();
    state.points = spec.draw(svg, width, height);
    if (legend) legend.hidden = Boolean(state.points.named);
    if (at !== null) show(at);
  }
  function show(place) {
    at = Math.max(0, Math.min(state.points.length - 1, place));
    svg.querySelectorAll(".pointer").forEach((node) => node.remove());
    if (!state.points.length) return;
    readout.replaceChildren(...[spec.read(at)].flat());
    svg.append(spec.pointer(state.points[at], width, spec.height || 230));
  }
  svg.addEventListener("pointermove", (event) => {
    const frame = svg.getBoundingClientRect();
    const [x, y] = [event.clientX - frame.left, event.clientY - frame.top];
    let [best, nearest] = [Infinity, null];
    state.points.forEach((point, place) => {
      const far = (point.x - x) ** 2 + (point.y === null ? 0 : (point.y - y) ** 2);
      if (far < best) [best, nearest] = [far, place];
    });
    if (nearest !== null) show(nearest);
  });
  svg.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10 }[event.key];
    if (move) {
      event.preventDefault();
      show(at === null ? (move > 0 ? 0 : Infinity) : at + move);
    } else if (event.key === "Enter" && at !== null && spec.chosen) spec.chosen(at);
  });
  svg.addEventListener("focus", () => readout.setAttribute("aria-live", "polite"));
  if (spec.chosen) svg.addEventListener("click", () => at !== null && spec.chosen(at));
  new ResizeObserver(() => Math.abs((svg.clientWidth || 0) - width) > 1 && redraw()).observe(box);
  state.box = box;
  return state;
}

function axes(svg, frame, x, y, format) {
  const [left, below] = [ticks(y.low, y.high, 5), ticks(x.low, x.high, Math.max(2, (frame.right - frame.left) / 90))];
  const [said, named] = [labels(left, format.y), labels(below, format.x)];
  left.forEach((value, at) => {
    svg.append(draw("line", { class: "grid", x1: frame.left, x2: frame.right, y1: y.of(value), y2: y.of(value) }));
    svg.append(draw("text", { x: frame.left - 7, y: y.of(value) + 4, "text-anchor": "end", text: said[at] }));
  });
  svg.append(draw("line", { class: "axis", x1: frame.left, x2: frame.right, y1: frame.bottom, y2: frame.bottom }));
  below.forEach((value, at) => {
    svg.append(draw("text", { x: x.of(value), y: frame.bottom + 17, "text-anchor": "middle", text: named[at] }));
  });
  svg.append(draw("text", { x: frame.right, y: frame.bottom + 32, "text-anchor": "end", text: format.xName }));
}

const scale = (low, high, from, to) => ({ low, high, of: (value) => from + ((value - low) / (high - low || 1)) * (to - from) });

function path(xs, values, y) {
  let [text, open] = ["", false];
  values.forEach((value, at) => {
    if (value === null) open = false;
    else {
      text += `${open ? "L" : "M"}${xs[at].toFixed(1)} ${y.of(value).toFixed(1)}${open ? "" : "h.01"}`;
      open = true;
    }
  });
  return text;
}

function area(xs, low, high, y) {
  const known = xs.map((_, at) => at).filter((at) => low[at] !== null && high[at] !== null);
  const there = known.map((at) => `${xs[at].toFixed(1)} ${y.of(high[at]).toFixed(1)}`);
  const back = known.reverse().map((at) => `${xs[at].toFixed(1)} ${y.of(low[at]).toFixed(1)}`);
  return there.length ? `M${[...there, ...back].join("L")}Z` : "";
}

// Lines and bands over the steps of a run: spec.begins, spec.last, lines [{name, values, colour, wide, label}],
// bands [{low, high, colour, opacity}], marks [value], range [low, high], y (format).
function overTime(spec) {
  const format = spec.y || plain;
  const ends = [...spec.begins.slice(1), spec.last + 1];
  const middles = spec.begins.map((begin, at) => (begin + ends[at]) / 2);
  const steps = (at) => (ends[at] - 1 > spec.begins[at] ? `steps ${whole(spec.begins[at])} to ${whole(ends[at] - 1)}` : `step ${whole(spec.begins[at])}`);
  const values = () => [...spec.lines.map((line) => line.values), ...(spec.bands || []).flatMap((band) => [band.low, band.high])];
  const inTable = () => [...(spec.bands || []).flatMap((band) => band.columns || []), ...spec.lines];
  return figure({
    ...spec,
    says: `A line chart over ${whole(spec.begins.length)} intervals of steps. Arrow keys read its values; they are also in the table of figures below it.`,
    draw(svg, width, height) {
      const labelled = spec.lines.filter((line) => line.label);
      const room = labelled.length && width > 380 ? 12 + Math.min(130, 7 * Math.max(...labelled.map((line) => line.label.length))) : 12;
      const frame = { left: 44, right: width - room, top: 10, bottom: height - 36 };
      const [low, high] = spec.range || extent(values(), spec.marks);
      const y = scale(low, high, frame.bottom, frame.top);
      const x = scale(spec.begins[0], spec.last + 1, frame.left, frame.right);
      axes(svg, frame, x, y, { x: whole, y: format, xName: "step" });
      const xs = middles.map((middle) => x.of(middle));
      for (const mark of spec.marks || []) svg.append(draw("line", { class: "same", x1: frame.left, x2: frame.right, y1: y.of(mark), y2: y.of(mark) }));
      for (const band of spec.bands || []) {
        const shape = draw("path", { d: area(xs, band.low, band.high, y), "fill-opacity": band.opacity });
        shape.style.fill = band.colour;
        svg.append(shape);
      }
      const placed = [];
      for (const line of spec.lines) {
        const stroke = draw("path", { class: "line", d: path(xs, line.values, y), "stroke-linecap": "round" });
        stroke.style.stroke = line.colour;
        if (line.wide) stroke.style.strokeWidth = line.wide;
        svg.append(stroke);
        const end = line.values.findLast((value) => value !== null);
        if (line.label && room > 12 && end !== undefined) placed.push({ line, y: y.of(end) });
      }
      placed.sort((one, other) => one.y - other.y);
      for (let at = 1; at < placed.length; at++) placed[at].y = Math.max(placed[at].y, placed[at - 1].y + 13);
      let named = placed.length > 0;
      const over = placed.length ? Math.max(0, placed.at(-1).y - frame.bottom) : 0;
      for (const { line, y: where } of placed) {
        const most = Math.floor((room - 12) / 6.2);
        if (line.label.length > most) named = false;
        const label = line.label.length > most ? `${line.label.slice(0, most - 1)}…` : line.label;
        const text = draw("text", { class: "name", x: frame.right + 8, y: where - over + 4, text: label });
        text.style.fill = line.colour;
        svg.append(text);
      }
      // Where every line has its name beside it, a legend says nothing more.
      return Object.assign(xs.map((at) => ({ x: at, y: null })), { named });
    },
    pointer: (point, width, height) => draw("line", { class: "cross pointer", x1: point.x, x2: point.x, y1: 10, y2: height - 36 }),
    read: (at) => [el("b", { text: steps(at) }), ": ", ...spec.reads(at)],
    table: figures(() => [["steps", ...inTable().map((line) => line.name)], ...spec.begins.map((_, at) => [steps(at), ...inTable().map((line) => format(line.values[at]))])]),
  });
}

// Points: spec.x, spec.y, spec.ids, spec.colours (one class of RAMP each, or null), spec.line [[x, y]], spec.diagonal.
function scatter(spec) {
  const known = spec.ids.map((_, at) => at).filter((at) => spec.x[at] !== null && spec.y[at] !== null);
  known.sort((one, other) => spec.x[one] - spec.x[other]);
  return figure({
    ...spec,
    height: 300,
    says: `A chart of ${whole(known.length)} samples. Arrow keys go through them; Enter shows one in the table.`,
    draw(svg, width, height) {
      const frame = { left: 44, right: width - 12, top: 22, bottom: height - 36 };
      const both = spec.diagonal ? extent([known.map((at) => spec.x[at]), known.map((at) => spec.y[at])]) : null;
      const x = scale(...(both || extent([known.map((at) => spec.x[at])])), frame.left, frame.right);
      const y = scale(...(both || extent([known.map((at) => spec.y[at])])), frame.bottom, frame.top);
      axes(svg, frame, x, y, { x: plain, y: plain, xName: spec.xName });
      svg.append(draw("text", { x: 4, y: 10, text: spec.yName }));
      if (spec.diagonal) svg.append(draw("line", { class: "same", x1: x.of(both[0]), x2: x.of(both[1]), y1: y.of(both[0]), y2: y.of(both[1]) }));
      const classes = new Map();
      const points = known.map((at) => ({ x: x.of(spec.x[at]), y: y.of(spec.y[at]) }));
      points.forEach((point, place) => {
        const colour = spec.colours ? spec.colours[known[place]] : spec.colour;
        classes.set(colour, `${classes.get(colour) || ""}M${point.x.toFixed(1)} ${point.y.toFixed(1)}h0`);
      });
      for (const [colour, d] of classes) {
        const dots = draw("path", { class: "points", d });
        dots.style.stroke = colour;
        svg.append(dots);
      }
      const line = (spec.line || []).filter(([one, other]) => one !== null && other !== null);
      if (line.length > 1) svg.append(draw("path", { class: "mid", d: path(line.map(([at]) => x.of(at)), line.map(([, at]) => at), y) }));
      return points;
    },
    pointer: (point) => draw("circle", { class: "ring pointer", cx: point.x, cy: point.y, r: 6 }),
    read: (at) => spec.reads(known[at]),
    chosen: (at) => spec.choose(known[at]),
  });
}

// The figures of a chart, made when somebody opens them.
function figures(rows) {
  const holder = el("details", {}, el("summary", { text: "Figures" }));
  holder.addEventListener("toggle", () => {
    if (!holder.open || holder.children.length > 1) return;
    const [head, ...body] = rows();
    holder.append(
      el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Figures" },
        el("table", {},
          el("thead", {}, el("tr", {}, ...head.map((text) => el("th", { scope: "col", text })))),
          el("tbody", {}, ...body.map(([first, ...rest]) => el("tr", {}, el("th", { scope: "row", text: first }), ...rest.map((text) => el("td", { text }))))),
        ),
      ),
    );
  });
  return holder;
}
