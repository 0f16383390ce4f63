// The sections above the table: answers, and what the charts show.

const RUN = ["var(--one)", "var(--two)"];
const LINES = Array.from({ length: 8 }, (_, at) => `var(--c${at})`);
const MARKS = { good: "✓", look: "!", plain: "·" };

const byId = (id) => document.getElementById(id);

function showAnswers(report) {
  const pair = report.runs.length > 1;
  const holder = byId("answer-rows");
  if (pair) {
    holder.append(el("div", { class: "qa pair head" }, el("span"), ...report.runs.map((run, at) => el("span", { class: ["one", "two"][at], text: run.name }))));
  }
  const questions = [...new Set(report.runs.flatMap((run) => run.answers.map((one) => one.question)))];
  for (const question of questions) {
    const cells = report.runs.map((run, at) => answer(run.answers.find((one) => one.question === question), pair ? run.name : null, at));
    holder.append(el("div", { class: pair ? "qa pair" : "qa" }, el("h3", { text: question }), ...cells));
  }
  for (const one of report.comparison ? report.comparison.answers : []) {
    holder.append(el("div", { class: "qa both" }, el("h3", { text: one.question }), answer(one, null, 0)));
  }
}

function answer(one, name, at) {
  if (!one) return el("span");
  const mark = el("span", { class: "mark", "aria-hidden": "true", text: MARKS[one.level] });
  const said = el("b", { class: "bidi", text: one.answer });
  if (one.level === "look") said.prepend(el("span", { class: "hidden", text: "Worth a look: " }));
  const head = el("span", {}, ...(name === null ? [] : [el("span", { class: `runs-name ${["one", "two"][at]}`, text: name })]), said);
  return el("div", { class: `answer ${one.level}` }, mark, head, el("p", { class: "bidi", text: one.detail }));
}

function place(id, charts, missing) {
  const holder = byId(id);
  if (!charts.length) holder.replaceWith(el("p", { class: "empty", text: missing }));
  // All at once: then every chart knows its width.
  holder.append(...charts.map((chart) => chart.box || chart));
  for (const chart of charts) if (chart.redraw) chart.redraw();
}

const titled = (report, run, text) => (report.runs.length > 1 ? `${text}: ${run.name}` : text);
const key = (colour, text) => {
  const line = el("i");
  line.style.background = colour;
  return el("li", {}, line, el("bdi", { text }));
};

function showWeights(report) {
  const runs = report.runs.filter((run) => run.steps);
  const range = extent(runs.flatMap((run) => run.steps.weights), [1]);
  const weighed = runs.filter((run) => run.steps.weights.some((line) => line.some((value) => value !== null)));
  const charts = weighed.map((run) => {
    const [low, first, median, third, high] = run.steps.weights;
    const colour = RUN[report.runs.indexOf(run)];
    return overTime({
      ...run.steps,
      title: titled(report, run, "Weights"),
      range,
      marks: [1],
      bands: [
        { low, high, colour, opacity: 0.16, columns: [{ name: "5%", values: low }, { name: "95%", values: high }] },
        { low: first, high: third, colour, opacity: 0.28, columns: [{ name: "25%", values: first }, { name: "75%", values: third }] },
      ],
      lines: [{ name: "median", values: median, colour, wide: 2 }],
      reads: (at) => [`median ${plain(median[at])}, half of the weights ${plain(first[at])} to ${plain(third[at])}, nine of ten ${plain(low[at])} to ${plain(high[at])}`],
    });
  });
  if (weighed.length) charts.push(together(report, weighed, "Effective sample size, share of the batch", "ess", { range: [0, 1.02], y: percent, marks: [1] }));
  place("weight-charts", charts, "There is no journal with weights in it, so how they moved is not known.");
}

// One line for each run. Runs of different lengths lie over each other from their first step on.
function together(report, runs, title, name, more) {
  const longest = runs.reduce((one, other) => (other.steps.last > one.steps.last ? other : one));
  const lines = runs.map((run) => {
    const colour = RUN[report.runs.indexOf(run)];
    return { name: run.name, label: report.runs.length > 1 ? run.name : null, values: run === longest ? run.steps[name] : moved(run.steps, longest.steps, name), colour, wide: 2 };
  });
  const format = more.y || plain;
  return overTime({
    begins: longest.steps.begins,
    last: longest.steps.last,
    title,
    lines,
    legend: report.runs.length > 1 ? lines.map((line) => key(line.colour, line.name)) : null,
    reads: (at) => [lines.map((line) => `${report.runs.length > 1 ? `${line.name} ` : ""}${format(line.values[at])}`).join(", ")],
    ...more,
  });
}

// The values of one run at the steps of another one.
function moved(steps, others, name) {
  return others.begins.map((begin, at) => {
    const middle = (begin + (others.begins[at + 1] ?? others.last + 1)) / 2;
    if (middle < steps.begins[0] || middle > steps.last + 1) return null;
    return steps[name][steps.begins.findLastIndex((first) => first <= middle)] ?? null;
  });
}

function showLoss(report) {
  const runs = report.runs.filter((run) => run.steps && run.steps.loss.some((value) => value !== null));
  const range = extent(runs.flatMap((run) => [...run.steps.tenths, run.steps.loss]));
  const charts = runs.filter((run) => run.steps.tenths.some((line) => line.some((value) => value !== null))).map((run) =>
    overTime({
      ...run.steps,
      title: titled(report, run, "Loss by tenth of the weights"),
      range,
      lines: run.steps.tenths.map((values, at) => ({ name: `tenth ${at + 1}`, values, colour: ramp(at / 9), wide: at % 9 ? 1.2 : 2.2, label: { 0: "least weight", 9: "most weight" }[at] })),
      legend: [rampKey("tenth of the least weight", "of the most")],
      reads: (at) => [`least weight ${plain(run.steps.tenths[0][at])}, middle ${plain(run.steps.tenths[4][at])}, most weight ${plain(run.steps.tenths[9][at])}`],
    }),
  );
  if (runs.length) charts.push(together(report, runs, "Mean loss, all samples alike", "loss", {}));
  place("tenth-charts", charts, "There is no journal with losses in it, so how they went is not known.");
  showScatter(report);
}

function showScatter(report) {
  const charts = [];
  const kinds = [["similarity", "similarity to the target"], ["weight", "last weight"]];
  for (const [name, xName] of kinds) {
    report.runs.forEach((run, at) => {
      const found = run.scatter;
      if (!found || !found[name] || !found.medians[name].length) return;
      const limits = found.weight && extent([quantiles(found.weight)]);
      const shade = (value) => ramp(value === null ? 0.5 : Math.round(6 * ((value - limits[0]) / (limits[1] - limits[0]))) / 6);
      const colours = name === "similarity" && found.weight ? found.weight.map(shade) : null;
      charts.push(scatter({
        title: titled(report, run, name === "weight" ? "Loss against weight" : "Loss against similarity"),
        x: found[name], y: found.loss, ids: found.id, xName, yName: "last loss", colour: RUN[at], colours,
        line: found.medians[name],
        legend: colours ? [rampKey("little weight", "much")] : null,
        reads: (point) => [el("b", { text: `id ${found.id[point]}` }), `: ${xName} ${plain(found[name][point])}, loss ${plain(found.loss[point])}${colours ? `, weight ${plain(found.weight[point])}` : ""}`, snippet(report, found.id[point])],
        choose: (point) => showSample(found.id[point]),
      }));
    });
  }
  const some = report.runs.filter((run) => run.scatter);
  const without = some.filter((run) => !run.scatter.similarity).map((run) => run.name);
  const drawn = some.map((run) => `${whole(run.scatter.id.length)} of ${whole(run.scatter.of)}`);
  byId("scatter-lead").textContent = charts.length
    ? `Each point is a sample: ${[...new Set(drawn)].join(" and ")}${some.every((run) => run.scatter.id.length === run.scatter.of) ? "" : ", drawn at random"}. The line joins the medians of twelve equal parts. Click a point, or press Enter, to see the sample.${without.length ? ` ${report.runs.length > 1 ? `In ${without.join(" and ")} no` : "No"} sample has a similarity.` : ""}`
    : "";
  place("scatter-charts", charts, "No sample has both a loss and a similarity or a weight that varies.");
}

const quantiles = (values) => {
  const known = values.filter((value) => value !== null).sort((one, other) => one - other);
  return [known[Math.floor(known.length * 0.02)], known[Math.floor(known.length * 0.98)]];
};

function snippet(report, id) {
  const at = report.samples.columns.id.indexOf(id);
  const text = at < 0 ? null : report.samples.columns.text[at];
  return text ? el("bdi", { text: ` “${text.slice(0, 80).replace(/\s+/g, " ")}”` }) : "";
}

function showParts(report, name, holder, what, missing) {
  const charts = [];
  report.runs.forEach((run, at) => {
    const found = run[name];
    if (!found) return;
    const bars = el("figure", {}, el("figcaption", {}, el("span", { class: "bidi", text: titled(report, run, `Share of the weight and of the visits`) })), partsTable(found, what, RUN[at]));
    if (found.names.length < found.of) bars.append(el("p", { class: "readout", text: `${found.names.length} of ${whole(found.of)} are listed${name === "shards" ? ": those of the highest and of the lowest mean weight" : ""}.` }));
    charts.push(bars);
    if (run.steps && found.lines.length) charts.push(partsOverTime(report, run, found, what));
  });
  place(holder, charts, missing);
}

function partsTable(found, what, colour) {
  const most = Math.max(...found.weight, ...found.visits);
  const rows = found.names.map((name, at) => {
    const [weight, visits] = [coloured(el("span", { class: "bar" }), colour), el("span", { class: "bar visits" })];
    weight.style.width = `${(100 * found.weight[at]) / most}%`;
    visits.style.width = `${(100 * found.visits[at]) / most}%`;
    return el("tr", {},
      el("th", { scope: "row" }, el("bdi", { text: name }), el("span", { "aria-hidden": "true" }, weight, visits)),
      el("td", { text: percent(found.weight[at]) }), el("td", { text: percent(found.visits[at]) }),
      el("td", { text: found.mean[at] === null ? EMPTY : `×${plain(found.mean[at])}` }), el("td", { text: whole(found.samples[at]) }));
  });
  const head = [what, "of the weight", "of the visits", "mean weight", "samples"].map((text) => el("th", { scope: "col", text }));
  const table = el("table", { class: "parts" }, el("thead", {}, el("tr", {}, ...head)), el("tbody", {}, ...rows));
  return el("div", found.names.length > 12 ? { class: "tall", tabindex: "0", role: "region", "aria-label": `Weight by ${what}` } : {}, table);
}

// Share of the weight, or mean weight where it is known: a switch in the caption changes from one to the other.
function partsOverTime(report, run, found, what) {
  const holder = el("div");
  const both = found.lines.every((line) => line.mean);
  const name = `over-time-${what}-${report.runs.indexOf(run)}`;
  let chart = null;
  function show(kind, focus) {
    const format = kind === "share" ? percent : plain;
    const lines = found.lines.map((line, at) => ({ name: line.name, label: line.name, values: line[kind], colour: LINES[at] }));
    const choices = [["share", "share of the weight"], ["mean", "mean weight"]].map(([value, text]) =>
      el("label", {}, el("input", { type: "radio", name, value, checked: value === kind }), text));
    const control = both ? el("fieldset", { class: "switch" }, el("legend", { class: "hidden", text: "Show" }), ...choices) : null;
    if (control) control.addEventListener("change", (event) => show(event.target.value, true));
    chart = overTime({
      ...run.steps,
      title: titled(report, run, both ? "Over the steps" : "Share of the weight over the steps"),
      control, lines, y: format, long: true, marks: kind === "mean" ? [1] : [],
      legend: lines.map((line) => key(line.colour, line.name)),
      reads: (at) => [lines.map((line) => `${line.name} ${format(line.values[at])}`).join(", ")],
    });
    holder.replaceChildren(chart.box);
    if (holder.isConnected) chart.redraw();
    if (focus) control.querySelector("input:checked").focus();
  }
  show("share", false);
  return { box: holder, redraw: () => chart.redraw() };
}

function showCompared(report) {
  if (!report.comparison) return;
  byId("compared").hidden = byId("to-compared").hidden = false;
  const [one, other] = report.runs;
  const charts = Object.entries(report.comparison.points).map(([kind, points]) =>
    scatter({
      title: kind === "weight" ? "Mean weight" : "Last loss",
      x: points.x, y: points.y, ids: points.id, xName: one.name, yName: other.name, colour: "var(--c6)", diagonal: true,
      reads: (at) => [el("b", { text: `id ${points.id[at]}` }), `: ${one.name} ${plain(points.x[at])}, ${other.name} ${plain(points.y[at])}`, snippet(report, points.id[at])],
      choose: (at) => showSample(points.id[at]),
    }),
  );
  place("compared-charts", charts, "The two runs have no sample in common.");
}
