// One trial in full: what was hoped, what was changed, what happened in each stage, what was measured.
const panel = { node: $("panel"), body: $("panel-body"), back: null, diffs: new Map() };

panel.blocks = [...document.querySelectorAll('script[type="application/x-diffs"]')].map(node => ({ node, of: new Set(node.dataset.of.split(",").map(Number)) }));
panel.diffOf = async i => {
  const block = panel.blocks.find(b => b.of.has(i));
  if (!block) return null;
  block.texts ||= unpack(block.node);
  return (await block.texts)[i];
};

const section = (title, ...content) => content.flat().some(Boolean) ? h("section", {}, h("h3", {}, title), ...content) : null;
const pairs = list => {
  const shown = list.filter(([, value]) => value != null && value !== false && value !== "" && value !== DASH);
  return shown.length ? h("dl", { class: "pairs" }, shown.map(([k, v]) => [h("dt", {}, k), h("dd", {}, v)])) : null;
};
const link = t => h("button", { type: "button", class: "link", on: { click: () => { select(t.i); tree.reveal(t.i); } } }, t.id);

const STAGES = ["propose", "patch", "build", "train", "evaluate", "label"];
panel.stages = t => {
  const took = STAGES.map(k => t[k + "_s"] ?? null), total = took.reduce((a, b) => a + (b || 0), 0), reached = Math.max(STAGES.indexOf(t.stage), took.findLastIndex(v => v != null));
  if (!total && reached < 0) return null;
  const failed = !VALID.has(t.status), last = failed ? reached : STAGES.length - 1;
  return [
    total ? h("div", { class: "stagebar", "aria-hidden": "true" }, STAGES.map((k, i) => took[i] ? h("span", { class: `st${i}` + (failed && i === last ? " bad" : ""), title: `${k} ${seconds(took[i])}`, css: { "flex-grow": Math.max(took[i], total * 0.006) } }) : null)) : null,
    h("ol", { class: "stages" }, STAGES.map((k, i) => h("li", { class: i > last ? "not" : failed && i === last ? "bad" : "" }, h("i", { class: `key st${i}` + (failed && i === last ? " bad" : "") }), h("span", {}, k), h("b", {}, i > last ? "not reached" : took[i] == null ? "done" : seconds(took[i]))))),
    t.queue_s > 0.05 ? h("p", { class: "small" }, `Waited ${seconds(t.queue_s)} for its turn.`) : null,
  ];
};

panel.seeds = t => {
  if (!(t.scores?.length > 1)) return null;
  const W = 480, H = 74, lo = Math.min(...t.scores), hi = Math.max(...t.scores), reach = 5 * Math.max(hi - lo, D.noise || 0);
  const marks = [[baseline?.score, "baseline"], [T[t.parent]?.score, "parent"]].filter(([v], k, all) => v != null && t !== baseline && v > lo - reach && v < hi + reach && all.findIndex(q => q[0] === v) === k);
  const all = [...t.scores, t.score, ...marks.map(m => m[0])].filter(v => v != null), pad = (Math.max(...all) - Math.min(...all) || Math.abs(all[0]) * 0.01) * 0.12;
  const x = linear(Math.min(...all) - pad, Math.max(...all) + pad, 8, W - 8), ticks = niceTicks(Math.min(...all) - pad, Math.max(...all) + pad, 4), digits = tickDigits(ticks), svg = s("svg", { class: "seeds", viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": "Score of each seed: " + t.scores.map(v => score(v)).join(", ") });
  for (const v of ticks) svg.append(s("path", { class: "grid", d: `M${x(v)} 16V54` }), s("text", { class: "tick", x: x(v), y: 69, "text-anchor": "middle" }, fixed(v, digits)));
  if (D.noise && t.score != null) svg.append(s("rect", { class: "band", x: x(t.score - D.noise), width: Math.max(1, x(t.score + D.noise) - x(t.score - D.noise)), y: 22, height: 28 }));
  for (const [v, name] of marks) svg.append(s("path", { class: "line best", d: `M${x(v)} 14V54` }), s("text", { class: "tick", x: Math.max(24, Math.min(W - 24, x(v))), y: 10, "text-anchor": "middle" }, name));
  t.scores.forEach((v, k) => svg.append(s("path", { class: `m ${t.group.key}`, d: SHAPES[t.group.shape](x(v), 36, 4) }, s("title", {}, `seed ${t.seeds?.[k] ?? k + 1}: ${score(v)}`))));
  return [svg, h("p", { class: "small" }, `${t.scores.length} seeds drawn by the judge; the band is one noise sd around the mean.`)];
};

panel.quantities = (t, ruled) => Object.entries(t.quantities || {}).filter(([k]) => k !== D.env.metric && ruled === D.env.gates.some(g => g.quantity === k)).map(([k, v]) => [k.replace(/_/g, " "), plainNumber(v)]);
panel.more = list => list.length > 6 ? h("details", {}, h("summary", {}, `${list.length} numbers`), pairs(list)) : pairs(list);
panel.measured = t => pairs([
  ["score", t.score != null && h("b", {}, score(t.score))],
  ["against baseline", baseline && t !== baseline ? percent(gainOver(t.score, baseline.score)) : null],
  ["in noise sd", D.noise && baseline && t !== baseline && t.score != null ? fixed(SIGN * (t.score - baseline.score) / D.noise, 1) : null],
  ["against parent", t.delta_parent != null ? gained(t.delta_parent) : null],
  ["against leader then", t.delta_best != null ? gained(t.delta_best) : null],
  ["forecast", t.expected_delta != null ? gained(t.expected_delta) : null],
  ...panel.quantities(t, true),
  ["gates", t.gate_ok == null ? null : t.gate_ok ? "all passed" : "missed"],
]);
panel.checks = t => t.checks ? h("ul", { class: "checks" }, t.checks.map(([name, passed, took]) => h("li", { class: passed ? "" : "bad" }, h("span", { "aria-hidden": "true" }, passed ? "✓" : "✗"), " ", name.replace(/_/g, " "), passed ? "" : " failed", took >= 0.05 ? h("span", { class: "small" }, ` ${seconds(took)}`) : null))) : null;
const REASONS = { futile: "ended early: too little evidence of a gain", not_shown: "a gain was not shown", gate: "a gate fails", failed: "a fresh run had no score" };
panel.verdict = t => t.verdict ? [pairs([
  ["verdict", h("b", {}, t.verdict)], ["why", REASONS[t.again?.reason] || t.again?.reason], ["measured once", score(t.score)],
  ["on fresh seeds", t.again?.score != null && [h("b", {}, score(t.again.score)), h("span", { class: "small" }, ` ${t.again.ours.length} runs`)]], ["on the sealed split", t.sealed_score != null ? score(t.sealed_score) : null],
  [t.again?.over ? `gain over ${t.again.over}` : "gain", t.gain != null ? signed(t.gain) + (t.gain_low != null && t.gain_high != null ? ` (90 %: ${fixed(t.gain_low, D.env.digits)} to ${fixed(t.gain_high, D.env.digits)})` : "") : null],
  ["p value", t.p_value != null ? (t.p_value < 1e-4 ? "< 0.0001" : plainNumber(+t.p_value.toPrecision(2))) : null], ["level of the attempt", t.alpha_spent != null ? plainNumber(+t.alpha_spent.toPrecision(3)) : null],
]), panel.pairsPlot(t)] : null;
panel.pairsPlot = t => {
  const rows = [[t.id, t.again?.ours || [], "champion"], [t.again?.over || "incumbent", t.again?.theirs || [], "baseline"]].filter(([, v]) => v.length);
  if (rows.length < 2) return null;
  const W = 480, all = rows.flatMap(r => r[1]), lo = Math.min(...all), hi = Math.max(...all), pad = (hi - lo || Math.abs(hi) * 0.01 || 1) * 0.08, x = linear(lo - pad, hi + pad, 64, W - 10), ticks = niceTicks(lo - pad, hi + pad, 4);
  const svg = s("svg", { class: "seeds", viewBox: `0 0 ${W} 78`, role: "img", "aria-label": rows.map(([name, v]) => `${name}: ${v.map(q => score(q)).join(", ")}`).join("; ") });
  for (const v of ticks) svg.append(s("path", { class: "grid", d: `M${x(v)} 4V56` }), s("text", { class: "tick", x: x(v), y: 72, "text-anchor": "middle" }, fixed(v, tickDigits(ticks))));
  rows.forEach(([name, values, key], r) => {
    svg.append(s("text", { class: "tick", x: 0, y: 22 + 26 * r }, name));
    for (const v of values) svg.append(s("path", { class: `m ${key}`, d: SHAPES[r ? "diamond" : "star"](x(v), 18 + 26 * r, 3.2) }));
  });
  return svg;
};
panel.cost = t => pairs([
  ["CPU", cpu(t) ? seconds(cpu(t)) : null], ["engine CPU", t.engine_cpu_s ? seconds(t.engine_cpu_s) : null], ["peak memory", t.peak_bytes ? bytes(t.peak_bytes) : null],
  ["peak memory of a device", t.device_peak_bytes ? bytes(t.device_peak_bytes) : null], ["energy", t.energy_j ? `${plainNumber(+(t.energy_j / 1000).toPrecision(3))} kJ` : null],
  ["mean utilisation", t.utilisation != null ? `${Math.round(100 * t.utilisation)} %` : null], ["clocks lowered", t.throttled],
  ["artifact", t.artifact_bytes ? bytes(t.artifact_bytes) : null], ["source", t.source_bytes ? bytes(t.source_bytes) : null], ["money", t.usd ? money(t.usd) : null],
  ["tokens in", t.tokens_in ? count(t.tokens_in) : null], ["from cache", t.tokens_cache_read ? count(t.tokens_cache_read) : null], ["tokens out", t.tokens_out ? count(t.tokens_out) : null],
]);

const copyable = value => h("button", { type: "button", class: "hash", title: `${value} (copy)`, on: { click: async e => {
  const b = e.currentTarget;
  try { await navigator.clipboard.writeText(value); b.classList.add("copied"); setTimeout(() => b.classList.remove("copied"), 900); }
  catch { getSelection().selectAllChildren(b); }
} } }, value.slice(0, 12));
panel.record = t => pairs([
  ["proposer", [t.proposer, t.model].filter(Boolean).join(", ")], ["edit", [t.edit_kind, t.operator].filter(Boolean).join(", ")], ["arm", t.arm], ["attempt", t.attempt || null],
  ...[["source", t.source_sha256], ["diff", t.diff_sha256], ["prompt", t.prompt_sha256], ["exchange", t.exchange_sha256], ["measurement", t.measurement_sha256], ["judge", t.evaluator_sha256], ["environment", t.environment_sha256]].map(([k, v]) => [k, v && copyable(v)]),
  ["isolation", t.isolation], ["trust", t.trust], ["machine", [t.machine, t.accelerator].filter(Boolean).join(", ")], ["devices", t.devices?.length ? t.devices.join(", ") : null], ["started", t.t_started ? clock(t.t_started) : null], ["finished", t.t_finished ? clock(t.t_finished) : null],
]);

const diffLine = line => {
  const kind = /^(\+\+\+|---|diff |index )/.test(line) ? "file" : line.startsWith("@@") ? "hunk" : line[0] === "+" ? "add" : line[0] === "-" ? "del" : "";
  return h("span", { class: "dl " + kind }, line || " ", "\n");
};
panel.diff = async t => {
  const slot = $("panel-diff");
  if (!slot) return;
  const command = h("code", {}, `bakeoff diff ${t.id}`);
  if (!t.diff_sha256) return slot.replaceChildren(h("p", { class: "small" }, t === baseline ? "The recipe as shipped: nothing was changed." : "No diff was recorded."));
  const text = await panel.diffOf(t.i);
  if (state.trial !== t.i) return;
  if (text == null) return slot.replaceChildren(h("p", { class: "small" }, "Left out of this page to keep it small, or not in the store. ", command, " shows it."));
  const lines = text.replace(/\n$/, "").split("\n"), count_ = c => lines.filter(l => l[0] === c && !l.startsWith(c.repeat(3))).length;
  slot.replaceChildren(h("p", { class: "small" }, h("span", { class: "plus" }, `+${count_("+")}`), " ", h("span", { class: "minus" }, `−${count_("-")}`), " lines · ", command),
    h("pre", { class: "diff", tabindex: "0" }, lines.slice(0, 1200).map(diffLine), lines.length > 1200 && h("span", { class: "dl hunk" }, `… ${lines.length - 1200} more lines`)));
};

panel.show = i => {
  if (i == null) return panel.close();
  const t = T[i], path = chain(i);
  $("panel-title").replaceChildren(h("span", {}, t.id), t.role && t !== baseline ? h("span", { class: "who" }, t.role) : "", badge(t, champions.has(t.id)), champions.has(t.id) ? h("span", { class: "badge champion" }, mark("star", "champion"), t === incumbent ? "champion now" : "champion") : "");
  const numbers = Object.entries(t.numbers || {}).map(([k, v]) => [k.replace(/_/g, " "), plainNumber(v)]);
  panel.body.replaceChildren(...[
    h("p", { class: "hypothesis" }, t.hypothesis || "No hypothesis was recorded."),
    h("p", { class: "path" }, (path.length > 7 ? [link(T[path[0]]), " … ", ...path.slice(-5, -1).map(j => [link(T[j]), " › "])] : path.slice(0, -1).map(j => [link(T[j]), " › "])), h("b", {}, t.id),
      kids[i].length ? h("span", { class: "small" }, ` · ${many(kids[i].length, "child").replace("childs", "children")}`) : null),
    !VALID.has(t.status) || numbers.length || t.label ? section(VALID.has(t.status) ? "Label" : "Why it ended", t.label && h("p", { class: "label-text" }, t.label), pairs([["cause", VALID.has(t.status) ? null : t.cause || t.status], ["last stage", VALID.has(t.status) ? null : t.stage], ]), panel.more(numbers), t.excerpt && h("pre", { class: "log", tabindex: "0" }, t.excerpt)) : null,
    section(t.score == null ? "Forecast" : "Measured", panel.measured(t), panel.seeds(t), panel.more(panel.quantities(t, false))),
    section("Confirmation", panel.verdict(t)),
    section("Six stages", panel.stages(t), panel.checks(t)),
    h("section", {}, h("h3", {}, "Change"), h("div", { id: "panel-diff" }, h("p", { class: "small" }, "…"))),
    t.notes ? section("Notes", h("p", { class: "notes" }, t.notes)) : null,
    section("Cost", panel.cost(t)),
    section("Record", panel.record(t)),
  ].filter(Boolean));
  panel.body.scrollTop = 0;
  if (panel.node.hidden) {
    panel.back = document.activeElement;
    panel.node.hidden = false;
    document.body.classList.add("with-panel");
  }
  $("prev").disabled = i === 0;
  $("next").disabled = i === T.length - 1;
  panel.diff(t);
};
panel.focus = () => $("panel-title").focus({ preventScroll: true });
panel.close = () => {
  if (panel.node.hidden) return;
  panel.node.hidden = true;
  document.body.classList.remove("with-panel");
  if (state.trial != null) select(null);
  if (panel.back?.isConnected) panel.back.focus({ preventScroll: true });
};
panel.step = by => {                                    // the next trial of what the table shows
  const at = table.rows.findIndex(t => t.i === state.trial), rows = at < 0 ? T : table.rows, from = at < 0 ? state.trial ?? -by : at;
  const t = rows[Math.max(0, Math.min(rows.length - 1, from + by))];
  if (t) { select(t.i); tree.reveal(t.i); }
};
