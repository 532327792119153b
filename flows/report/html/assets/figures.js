// What the whole campaign says: failures over time, roles, forecasts, money and compute, what was enforced.
const figures = {};

/* ---- failures: one row per cause, time in columns, darker is more; a single hue reads in any eye ---- */
figures.failures = host => {
  const bad = T.filter(t => !VALID.has(t.status));
  if (!bad.length) return host.replaceChildren(h("p", { class: "empty" }, "Every trial got a valid score."));
  const name = t => t.cause && t.cause !== t.status ? t.cause : t.status, byCause = new Map();
  for (const t of bad) (byCause.get(name(t)) || byCause.set(name(t), []).get(name(t))).push(t);
  const rows = [...byCause].sort((a, b) => b[1].length - a[1].length).slice(0, 16), width = host.clientWidth || 560, left = width < 460 ? 104 : 168, right = 44;
  const bins = Math.max(1, Math.min(T.length, Math.floor((width - left - right) / 14), 40)), w = (width - left - right) / bins, cell = 18;
  const grid = rows.map(([, list]) => { const c = Array.from({ length: bins }, () => []); for (const t of list) c[Math.min(bins - 1, Math.floor(t.i * bins / T.length))].push(t); return c; });
  const top = Math.max(...grid.flat().map(c => c.length)), svg = s("svg", { width, height: rows.length * (cell + 4) + 24, role: "img", "aria-label": "Failures by cause over time: " + rows.map(([k, v]) => `${k} ${v.length}`).join(", ") });
  rows.forEach(([cause, list], r) => {
    const y = r * (cell + 4);
    svg.append(s("text", { class: "label", x: left - 10, y: y + 13, "text-anchor": "end" }, cause.length > (left / 7.4) ? cause.slice(0, left / 7.4 - 1) + "…" : cause, s("title", {}, cause)), s("text", { class: "label strong", x: width - right + 10, y: y + 13 }, count(list.length)));
    grid[r].forEach((c, b) => svg.append(s("rect", {
      class: "heat" + (c.length ? " some" : ""), x: left + b * w + 0.5, y, width: Math.max(1, w - 1.5), height: cell, rx: 3, css: { "--v": c.length ? (0.22 + 0.78 * c.length / top).toFixed(3) : 0 },
      on: c.length ? { pointermove: e => showTip(e, h("b", {}, `${cause}: ${c.length}`), h("div", {}, `trials ${T[Math.floor(b * T.length / bins)].id} to ${T[Math.min(T.length - 1, Math.ceil((b + 1) * T.length / bins) - 1)].id}`), h("div", { class: "small" }, "click for the last one")), pointerleave: hideTip, click: () => select(c[c.length - 1].i) } : {},
    })));
  });
  svg.append(s("text", { class: "tick", x: left, y: rows.length * (cell + 4) + 14 }, T[0].id), s("text", { class: "tick", x: width - right, y: rows.length * (cell + 4) + 14, "text-anchor": "end" }, T[T.length - 1].id));
  host.replaceChildren(svg, byCause.size > rows.length ? h("p", { class: "small" }, `${byCause.size - rows.length} rarer causes are in the table below.`) : "");
};

/* ---- roles (or arms): hit rate with its interval, best gain, cost ---- */
figures.groups = (host, list, what) => {
  if (!list.length) return host.replaceChildren(h("p", { class: "empty" }, "No specialist has proposed anything yet."));
  const top = Math.max(0.02, ...list.map(g => g.hit_high)), at = v => `${Math.min(100, 100 * v / top).toFixed(2)}%`, priced = list.some(g => g.usd || g.unpriced), kept = list.some(g => g.cost_per_keep), worked = list.some(g => g.cpu_s);
  host.replaceChildren(h("div", { class: "scroll-x" }, h("table", { class: "plain" },
    h("thead", {}, h("tr", {}, [what, "trials", "valid", champions.size ? "keeps (★)" : "keeps", "hit rate, 95 %", "best", ...worked ? ["CPU"] : [], ...priced ? ["cost"] : [], ...kept ? ["a keep"] : []].map((x, k) => h("th", { scope: "col", class: k && k !== 4 ? "num" : "" }, x)))),
    h("tbody", {}, list.map(g => h("tr", {},
      h("th", { scope: "row" }, h("button", { type: "button", class: "link", on: { click: () => { if (what !== "role") return; state.role = state.role === g.key ? "" : g.key; $("role").value = state.role; table.filtered(); $("trials").scrollIntoView(); } } }, g.key)),
      h("td", { class: "num" }, count(g.n)), h("td", { class: "num" }, percent(g.valid / g.n, 0).replace("+", "")), h("td", { class: "num", title: `${g.confirmed} confirmed` }, count(g.keeps), champions.size ? h("span", { class: "small" }, ` (${g.confirmed})`) : null),
      h("td", { class: "rate" }, h("div", {}, h("span", { class: "bar", title: `${percent(g.hit_low, 1)} to ${percent(g.hit_high, 1)}` }, h("i", { class: "ci", css: { left: at(g.hit_low), width: at(g.hit_high - g.hit_low) } }), h("i", { class: "dot", css: { left: at(g.keeps / g.n) } })), h("span", {}, percent(g.keeps / g.n, 1).replace("+", "")))),
      h("td", { class: "num" + (g.best_gain > 0 ? " good" : "") }, percent(g.best_gain)), worked ? h("td", { class: "num" }, seconds(g.cpu_s)) : null, priced ? h("td", { class: "num" }, [g.usd || !g.unpriced ? money(g.usd) : "", g.unpriced ? `${g.unpriced} unknown` : ""].filter(Boolean).join(" + ")) : null, kept ? h("td", { class: "num" }, g.cost_per_keep ? money(g.cost_per_keep) : "") : null))))));
};

/* ---- forecasts: hoped-for change against measured change, both towards better ---- */
figures.forecasts = host => {
  const P = T.filter(t => VALID.has(t.status) && t.expected_delta != null && t.delta_parent != null).map(t => ({ t, a: SIGN * t.expected_delta, b: SIGN * t.delta_parent }));
  if (P.length < 2) return host.replaceChildren(h("p", { class: "empty" }, "No trial has both a forecast and a measured change."));
  const f = D.forecasts, width = host.clientWidth || 520, size = Math.min(width, 560), H = Math.round(size * 0.66), box = { left: 62, right: width - 14, top: 10, bottom: H - 40 };
  const reach = (key, q) => { const v = P.map(p => Math.abs(p[key])).sort((x, y) => x - y); return Math.max(quantile(v, q), 1e-12) * 1.15; }, ra = reach("a", 0.97), rb = reach("b", 0.95), sorted = P.map(p => p.a).sort((u, v) => u - v), la = Math.min(-0.12 * ra, Math.max(-ra, 1.15 * quantile(sorted, 0.03))), ha = Math.max(0.12 * ra, Math.min(ra, 1.15 * quantile(sorted, 0.97)));
  const x = linear(la, ha, box.left, box.right), y = linear(-rb, rb, box.bottom, box.top), svg = s("svg", { width, height: H, role: "img", "aria-label": `Forecast against outcome for ${P.length} trials; ${f.right_sign} moved in the predicted direction` });
  const tx = niceTicks(la, ha, width < 460 ? 3 : 5), ty = niceTicks(-rb, rb, 5);
  svg.append(s("rect", { class: "better", x: box.left, y: box.top, width: box.right - box.left, height: y(0) - box.top }));
  axes(svg, x, y, box, tx, ty, v => fixed(v, tickDigits(tx)), v => fixed(v, tickDigits(ty)));
  const lo = Math.max(la, -rb), hi = Math.min(ha, rb);
  svg.append(s("path", { class: "axis", d: `M${box.left} ${y(0)}H${box.right}M${x(0)} ${box.top}V${box.bottom}` }), s("path", { class: "line best", d: `M${x(lo)} ${y(lo)}L${x(hi)} ${y(hi)}` }));
  const clamp = (v, a, b) => Math.max(a, Math.min(b, v));
  for (const p of P) {
    p.x = clamp(x(p.a), box.left + 3, box.right - 3);
    p.y = clamp(y(p.b), box.top + 3, box.bottom - 3);
  }
  for (const g of GROUPS) { const d = P.filter(p => p.t.group === g).map(p => SHAPES[g.shape](+p.x.toFixed(1), +p.y.toFixed(1), P.length > 400 ? 2.4 : 3.4)).join(""); if (d) svg.append(s("path", { class: `m ${g.key}`, d })); }
  svg.append(s("text", { class: "tick", x: (box.left + box.right) / 2, y: H - 6, "text-anchor": "middle" }, "forecast gain" + (D.env.unit ? `, ${D.env.unit}` : "")), s("text", { class: "tick", transform: `translate(12 ${(box.top + box.bottom) / 2}) rotate(-90)`, "text-anchor": "middle" }, "measured gain over parent"));
  svg.addEventListener("pointermove", e => { const p = nearest(P, ...local(svg, e)); p ? showTip(e, ...trialTip(p.t), h("div", { class: "small" }, `forecast ${gained(p.t.expected_delta)}, measured ${gained(p.t.delta_parent)}`)) : hideTip(); });
  svg.addEventListener("pointerleave", hideTip);
  svg.addEventListener("click", e => { const p = nearest(P, ...local(svg, e)); if (p) select(p.t.i); });
  host.replaceChildren(h("p", { class: "lead" }, h("b", {}, `${f.right_sign} of ${f.n}`), ` trials moved the way their author predicted`, f.rank == null ? "." : `; rank correlation ${fixed(f.rank, 2)}.`), svg);
};

/* ---- the front of score against another quantity: less of a cost is better, more of what a gate wants at least ---- */
figures.quantities = () => {
  const valid = T.filter(t => VALID.has(t.status) && t.score != null), seen = new Map();
  for (const t of valid) for (const [k, v] of Object.entries(t.quantities || {})) if (k !== D.env.metric && Number.isFinite(v)) (seen.get(k) || seen.set(k, new Set()).get(k)).add(v);
  const first = ["total_bytes", "peak_mb", "train_cpu_seconds", "cpu_seconds"], rank = k => D.env.gates.some(g => g.quantity === k) ? -1 : first.includes(k) ? first.indexOf(k) : first.length;
  return [...seen].filter(([, values]) => values.size > 1).map(([k]) => k).sort((a, b) => rank(a) - rank(b) || a.localeCompare(b));
};
figures.pareto = (points, more) => {
  const front = [];
  for (const p of [...points].sort((a, b) => (more ? b.a - a.a : a.a - b.a) || b.b - a.b)) if (!front.length || p.b > front[front.length - 1].b) front.push(p);
  return front;
};
figures.front = (host, key) => {
  const P = T.filter(t => VALID.has(t.status) && t.score != null && Number.isFinite(t.quantities?.[key])).map(t => ({ t, a: t.quantities[key], b: SIGN * t.score }));
  const more = D.env.gates.some(g => g.quantity === key && g.at_least != null), front = figures.pareto(P, more);
  const width = host.clientWidth || 520, size = Math.min(width, 560), H = Math.round(size * 0.6), box = { left: 66, right: width - 14, top: 10, bottom: H - 40 };
  const span = list => { const lo = Math.min(...list), hi = Math.max(...list), pad = 0.06 * (hi - lo || Math.abs(hi) || 1); return [lo - pad, hi + pad]; };
  const [la, ha] = span(P.map(p => p.a)), [lb, hb] = span(P.map(p => p.b)), x = linear(la, ha, box.left, box.right), y = linear(lb, hb, box.bottom, box.top);
  const tx = niceTicks(la, ha, width < 460 ? 3 : 5), ty = niceTicks(lb, hb, 5), name = key.replace(/_/g, " ");
  const svg = s("svg", { width, height: H, role: "img", "aria-label": `Score against ${name} for ${P.length} trials; on the front: ${front.map(p => p.t.id).join(", ")}` });
  axes(svg, x, y, box, tx, ty, v => fixed(v, tickDigits(tx)), v => fixed(SIGN * v, tickDigits(ty)));
  svg.append(s("path", { class: "line best", id: "front-line", d: front.map((p, k) => k ? `H${x(p.a).toFixed(1)}V${y(p.b).toFixed(1)}` : `M${x(p.a).toFixed(1)} ${y(p.b).toFixed(1)}`).join("") }));
  for (const p of P) { p.x = x(p.a); p.y = y(p.b); }
  for (const g of GROUPS) { const d = P.filter(p => p.t.group === g).map(p => SHAPES[g.shape](+p.x.toFixed(1), +p.y.toFixed(1), 3.4)).join(""); if (d) svg.append(s("path", { class: `m ${g.key}`, d })); }
  svg.append(s("text", { class: "tick", x: (box.left + box.right) / 2, y: H - 6, "text-anchor": "middle" }, `${name}, ${more ? "more" : "less"} is better`), s("text", { class: "tick", transform: `translate(12 ${(box.top + box.bottom) / 2}) rotate(-90)`, "text-anchor": "middle" }, "score, up is better"));
  svg.addEventListener("pointermove", e => { const p = nearest(P, ...local(svg, e)); p ? showTip(e, ...trialTip(p.t), h("div", { class: "small" }, `${name} ${plainNumber(p.a)}`)) : hideTip(); });
  svg.addEventListener("pointerleave", hideTip);
  svg.addEventListener("click", e => { const p = nearest(P, ...local(svg, e)); if (p) select(p.t.i); });
  host.replaceChildren(svg);
};
figures.fronts = () => {
  const names = figures.quantities(), by = $("front-by");
  $("front-card").hidden = !names.length;
  if (!names.length) return;
  if (!by.children.length) {
    by.append(...names.map(k => h("option", { value: k }, k.replace(/_/g, " "))));
    by.addEventListener("change", () => figures.front($("front"), by.value));
  }
  figures.front($("front"), by.value || names[0]);
};

/* ---- money and compute: where it went, and the running total ---- */
figures.cost = host => {
  const share = [["keeps", t => t.status === "keep", "keep"], ["discards", t => t.status === "discard", "discard"], ["baseline", t => t.status === "baseline", "baseline"], ["no valid score", t => !VALID.has(t.status), "crash"]];
  const bar = (name, of, text) => {
    const total = T.reduce((a, t) => a + of(t), 0);
    if (!total) return null;
    const parts = share.map(([label, has, css]) => [label, css, T.reduce((a, t) => a + (has(t) ? of(t) : 0), 0)]).filter(p => p[2] > 0);
    return h("div", { class: "split" }, h("div", { class: "split-head" }, h("span", {}, name), h("b", {}, text(total))),
      h("div", { class: "split-bar" }, parts.map(([label, css, v]) => h("span", { class: css, title: `${label}: ${text(v)}`, css: { "flex-grow": v / total } }))),
      h("div", { class: "split-key" }, parts.map(([label, css, v]) => h("span", {}, h("i", { class: `swatch ${css}` }), `${label} ${text(v)} (${fixed(100 * v / total, 0)} %)`))));
  };
  const S = D.spent, read = S.tokens_cache_read, input = S.tokens_in + read + S.tokens_cache_write;
  host.replaceChildren(...[
    bar("CPU time of candidates", cpu, seconds), bar("Money", t => t.usd || 0, money), bar("Tokens", tokens, count),
    pairs([["time on the clock", S.wall_s == null ? null : seconds(S.wall_s)], ["engine's own CPU", S.engine_cpu_s ? `${seconds(S.engine_cpu_s)} (${seconds(S.engine_cpu_s / T.length)} a trial)` : null],
      ["input read from cache", input ? percent(read / input, 0).replace("+", "") : null], ["dollars per keep", S.usd && D.roles.length ? money(S.usd / Math.max(1, T.filter(t => t.status === "keep").length)) : null]]),
  ].filter(Boolean));
  if (!host.children.length) host.replaceChildren(h("p", { class: "empty" }, "No cost was recorded."));
};

/* ---- what was enforced, and with which judge ---- */
figures.enforced = host => {
  const tally = key => { const m = new Map(); for (const t of T) if (t[key]) m.set(t[key], (m.get(t[key]) || 0) + 1); return [...m].sort((a, b) => b[1] - a[1]); };
  const line = (name, key, show = v => v) => { const list = tally(key); return list.length ? [name, list.slice(0, 4).map(([v, n]) => h("div", {}, show(v), list.length > 1 ? h("span", { class: "small" }, ` ${many(n, "trial")}`) : null))] : null; };
  const rule = g => `${g.quantity.replace(/_/g, " ")} ${g.at_least != null ? "≥ " + plainNumber(g.at_least) : "≤ " + plainNumber(g.at_most)} (${{ mean: "mean", bound: `${fixed(100 * g.confidence, 0)} % bound`, each: "every run" }[g.on]})`;
  const judges = tally("evaluator_sha256").length;
  $("enforced-rows").replaceChildren(...[
    pairs([line("isolation", "isolation"), line("judge", "evaluator_sha256", copyable), line("environment", "environment_sha256", copyable), line("machine", "machine"), line("accelerator", "accelerator"), line("version", "bakeoff_version"),
      D.env.gates.length ? ["gates", D.env.gates.map(g => h("div", {}, rule(g)))] : null].filter(Boolean)),
    judges > 1 ? h("p", { class: "warn" }, `${judges} different judges measured this campaign: their scores are not comparable without a new baseline.`) : null,
  ].filter(Boolean));
};

figures.events = host => {
  const words = e => [e.what, e.why].filter(Boolean).join(": ");
  const list = D.events.filter(e => words(e)).sort((a, b) => (a.t || 0) - (b.t || 0));
  $("events-card").hidden = !list.length;
  host.replaceChildren(h("ol", { class: "events" }, list.slice(-60).map(e => h("li", {}, h("time", {}, clock(e.t)), h("span", {}, e.kind === "intervention" ? "a person: " : "", words(e), e.trial ? ` (${e.trial})` : "")))));
};

figures.draw = () => {
  figures.failures($("failures"));
  figures.groups($("roles"), D.roles, "role");
  $("arms-card").hidden = D.arms.length < 2;
  if (D.arms.length > 1) figures.groups($("arms"), D.arms, "arm");
  $("makers-card").hidden = D.makers.length < 2;
  if (D.makers.length > 1) figures.groups($("makers"), D.makers, "proposer");
  figures.forecasts($("forecasts"));
  figures.fronts();
  figures.cost($("cost"));
};
