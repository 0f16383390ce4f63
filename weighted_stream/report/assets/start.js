// Everything on this page comes out of one JSON value, which stands in it as text.

function start() {
  const report = JSON.parse(byId("data").textContent);
  const names = report.runs.map((run) => run.name);
  byId("title").replaceChildren(el("bdi", { text: names[0] }), ...(names.length > 1 ? [" and ", el("bdi", { text: names[1] })] : []));
  document.title = `${names.join(", ")}: weighted_stream report`;
  for (const run of report.runs) {
    const facts = Object.entries(run.facts).filter(([, count]) => count !== null).map(([name, count]) => `${whole(count)} ${name}`);
    byId("facts").append(el("span", { class: "bidi", text: `${names.length > 1 ? `${run.name}: ` : ""}${facts.join(", ")}. ` }));
  }
  showAnswers(report);
  showWeights(report);
  showLoss(report);
  showParts(report, "groups", "group-charts", "kind", "The stream named no groups. WeightedStream(…, group_fn=…) says which domain, language or source a sample is of, and this chart shows what weight each got.");
  showParts(report, "shards", "shard-charts", "shard", "The ids of this dataset do not tell the shards of its samples; those of MDS and Parquet shards without id_fn do.");
  showCompared(report);
  showSamples(report);
  byId("notes").append(...(report.notes.length ? report.notes : ["Sums and shares are of all samples; where some were drawn at random, it says so there."]).map((text) => el("li", { class: "bidi", text })));
  const places = report.runs.map((run) => run.path).join(" and ");
  byId("made").textContent = `Made by weighted_stream ${report.version} of ${places}${report.data === null ? "" : `, with the texts of ${report.data}`}.`;
}

start();
