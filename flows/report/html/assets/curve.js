// Score over trials: every trial a point, the confirmed line with its noise band, the best single
// measurements as a dashed line, and a lane below for trials that never got a score.
const curve = { host: $("curve"), zoom: null, points: [], cursor: null };

curve.x = (() => {
  let usd = 0, work = 0;
  const t0 = Math.min(...T.map(t => t.t_started ?? Infinity));
  const rows = T.map(t => ({ usd: (usd += t.usd || 0), cpu: (work += cpu(t)) / 3600, hour: t.t_started == null ? null : (t.t_started - t0) / 3600 }));
  return {
    trial: { name: "trial", of: t => t.i, text: v => Number.isInteger(v) ? T[v]?.id ?? "" : "", ok: true },
    hour: { name: "hours", of: t => rows[t.i].hour ?? 0, text: v => `${+v.toFixed(2)} h`, ok: T.length > 1 && T.some(t => rows[t.i].hour > 0) },
    cpu: { name: "CPU hours", of: t => rows[t.i].cpu, text: v => `${+v.toFixed(2)} h`, ok: work > 0 },
    usd: { name: "dollars", of: t => rows[t.i].usd, text: v => `$${+v.toFixed(2)}`, ok: usd > 0 },
  };
})();

curve.steps = trials => trials.map(t => [t, believed(t)]).filter(([, v]) => v != null);
curve.confirmed = curve.steps([baseline, ...D.champions.map(id => byId.get(id))].filter(Boolean).sort((a, b) => a.i - b.i));
curve.best = D.best.map(([id, v]) => [byId.get(id), v]).filter(([t]) => t);

curve.range = () => {
  const scored = T.filter(t => t.score != null).map(t => t.score).sort((a, b) => a - b);
  if (!scored.length) return [0, 1];
  if (state.full) return curve.pad(scored[0], scored[scored.length - 1]);
  const key = [...curve.confirmed, ...curve.best].map(([, v]) => v);
  for (const t of T) if (champions.has(t.id) && t.sealed_score != null) key.push(t.sealed_score);
  if (!key.length) key.push(quantile(scored, 0.5));
  let lo = Math.min(...key), hi = Math.max(...key);
  const span = Math.max(hi - lo, 6 * (D.noise || 0), Math.abs(hi) * 1e-4);
  // the rest of the trials may widen the picture, but never so far that the line becomes flat
  lo = Math.max(Math.min(lo, quantile(scored, 0.04)), lo - (LOWER ? 0.25 : 0.8) * span);
  hi = Math.min(Math.max(hi, quantile(scored, 0.96)), hi + (LOWER ? 0.8 : 0.25) * span);
  return curve.pad(lo, hi);
};
curve.pad = (lo, hi) => {
  const p = (hi - lo || Math.abs(hi) * 0.01 || 1) * 0.06;
  return [lo - p, hi + p];
};

curve.layout = () => {
  const width = curve.host.clientWidth || 900, narrow = width < 620;
  const lanes = GROUPS.filter(g => T.some(t => t.group === g && t.score == null)).map(g => g.key);
  const laneTop = narrow ? 268 : 340, height = laneTop + 14 * lanes.length + 34;
  const box = { left: narrow ? 54 : 88, right: width - (narrow ? 10 : 18), top: 12, bottom: laneTop };
  return { width, height, narrow, lanes, box, laneTop };
};

curve.place = (L, x, y) => {
  const [lo, hi] = [y.invert(L.box.bottom), y.invert(L.box.top)];
  curve.points = [];
  for (const t of T) {
    const px = x(curve.x[state.axis].of(t));
    if (px < L.box.left - 1 || px > L.box.right + 1) continue;
    if (champions.has(t.id) && t.again?.score != null) curve.points.push({ t, x: px, y: Math.max(L.box.top, Math.min(L.box.bottom, y(t.again.score))), star: true });
    const off = t.score != null && (t.score < lo ? -1 : t.score > hi ? 1 : 0);
    const py = t.score == null ? L.laneTop + 12 + 14 * L.lanes.indexOf(t.group.key) : off ? (off > 0 ? L.box.top + 3 : L.box.bottom - 3) : y(t.score);
    curve.points.push({ t, x: px, y: py, off });
  }
};

curve.stepPath = (steps, x, y, end) => {
  let d = "", last = null;
  for (const [t, v] of steps) {
    const px = x(curve.x[state.axis].of(t)).toFixed(1);
    d += last == null ? `M${px} ${y(v).toFixed(1)}` : `H${px}V${y(v).toFixed(1)}`;
    last = v;
  }
  return d && d + `H${end}`;
};

curve.band = (x, y, end) => {
  if (!D.noise || !curve.confirmed.length) return "";
  const side = k => curve.confirmed.flatMap(([t, v], i, all) => {
    const a = x(curve.x[state.axis].of(t)), b = all[i + 1] ? x(curve.x[state.axis].of(all[i + 1][0])) : end;
    return [[a, y(v + k)], [b, y(v + k)]];
  });
  return "M" + [...side(2 * D.noise), ...side(-2 * D.noise).reverse()].map(p => p.map(v => v.toFixed(1)).join(" ")).join("L") + "Z";
};

curve.dots = (g, L) => {
  const r = T.length < 150 ? 4.2 : T.length < 800 ? 3.2 : 2.3;
  for (const group of GROUPS) {
    const mine = curve.points.filter(p => p.t.group === group && !p.star);
    const dim = state.groups.size && !state.groups.has(group.key);
    for (const [off, hollow] of [[false, false], [true, false], [false, true], [true, true]]) {   // hollow: a number, but no valid score
      const d = mine.filter(p => !!p.off === off && hollow === (p.t.score != null && !VALID.has(p.t.status))).map(p => SHAPES[group.shape](+p.x.toFixed(1), +p.y.toFixed(1), r)).join("");
      if (d) g.append(s("path", { class: `m ${group.key}${hollow ? " hollow" : ""}${off ? " off" : ""}${dim ? " dim" : ""}`, d }));
    }
  }
  for (const p of curve.points) {
    if (!p.star) continue;
    g.append(s("path", { class: "m champion", d: SHAPES.star(p.x, p.y, 4.6) }));
  }
};

curve.lanes = (g, L) => {
  if (!L.lanes.length) return;
  g.append(s("path", { class: "axis", d: `M${L.box.left} ${L.laneTop}H${L.box.right}` }));
  L.lanes.forEach((key, k) => {
    const name = GROUPS.find(q => q.key === key).name, y = L.laneTop + 12 + 14 * k;
    if (!L.narrow) g.append(s("text", { class: "tick", x: L.box.left - 8, y: y + 4, "text-anchor": "end" }, name));
    else g.append(mark(GROUPS.find(q => q.key === key).shape, key));
  });
  if (L.narrow) [...g.querySelectorAll("svg.mark")].forEach((m, k) => { m.setAttribute("x", L.box.left - 18); m.setAttribute("y", L.laneTop + 6 + 14 * k); });
};

curve.draw = () => {
  const L = curve.layout(), { box } = L, xs = T.map(t => curve.x[state.axis].of(t));
  const all = [Math.min(0, ...xs), Math.max(1e-9, ...xs)], [a, b] = curve.zoom || all;
  const x = linear(a, b, box.left + 6, box.right - 6), y = linear(...curve.range(), box.bottom - 6, box.top);
  curve.scale = x;
  curve.box = box;
  curve.place(L, x, y);
  const svg = s("svg", { width: L.width, height: L.height, viewBox: `0 0 ${L.width} ${L.height}`, tabindex: "0", role: "group",
    "aria-label": `Score over ${many(T.length, "trial")}. Left and right arrow keys move, Enter opens a trial, plus and minus zoom, zero resets.` });
  const clip = s("clipPath", { id: "curve-clip" }, s("rect", { x: box.left, y: 0, width: Math.max(1, box.right - box.left), height: L.height }));
  const back = s("g"), front = s("g", { "clip-path": "url(#curve-clip)" }), end = box.right;
  const yTicks = niceTicks(y.invert(box.bottom - 6), y.invert(box.top), L.narrow ? 4 : 6), digits = tickDigits(yTicks);
  let xTicks = niceTicks(a, b, L.narrow ? 4 : 8);
  if (state.axis === "trial") xTicks = [...new Set(xTicks.map(Math.round))].filter(v => T[v] && v >= a && v <= b);
  axes(back, x, y, { ...box, bottom: L.height - 28 }, xTicks, yTicks, curve.x[state.axis].text, v => fixed(v, digits));
  curve.lanes(back, L);
  const band = curve.band(x, y, end);
  if (band) front.append(s("path", { class: "band", d: band }));
  front.append(s("path", { class: "line best", d: curve.stepPath(curve.best, x, y, end) || "M0 0" }));
  front.append(s("path", { class: "line confirmed", d: curve.stepPath(curve.confirmed, x, y, end) || "M0 0" }));
  curve.dots(front, L);
  for (const p of curve.points) if (p.star && p.t.sealed_score != null) front.append(s("path", { class: "m sealed", d: SHAPES.diamond(p.x, y(p.t.sealed_score), 3.4) }));
  curve.ring = s("g", { class: "ring", "pointer-events": "none" });
  curve.brush = s("rect", { class: "brush", y: box.top, height: L.height - box.top - 28, hidden: true });
  svg.append(clip, back, front, curve.brush, curve.ring);
  curve.events(svg);
  const focused = curve.host.contains(document.activeElement) && document.activeElement.tagName === "svg";
  curve.host.replaceChildren(svg);
  if (focused) svg.focus({ preventScroll: true });
  curve.svg = svg;
  curve.select();
};

curve.select = () => {
  const p = curve.points.find(q => q.t.i === (curve.cursor ?? state.trial));
  curve.ring.replaceChildren(...p ? [s("path", { class: "cross", d: `M${p.x} ${curve.box.top}V${curve.svg.viewBox.baseVal.height - 30}` }), s("circle", { cx: p.x, cy: p.y, r: 8 })] : []);
};

curve.events = svg => {
  let from = null;
  svg.addEventListener("pointermove", e => {
    const [px, py] = local(svg, e);
    if (from != null && Math.abs(px - from) > 6) {
      const [a, b] = [Math.min(from, px), Math.max(from, px)].map(v => Math.max(curve.box.left, Math.min(curve.box.right, v)));
      curve.brush.removeAttribute("hidden");
      curve.brush.setAttribute("x", a);
      curve.brush.setAttribute("width", b - a);
      return hideTip();
    }
    const p = nearest(curve.points, px, py);
    svg.classList.toggle("hit", !!p);
    p ? showTip(e, ...trialTip(p.t)) : hideTip();
  });
  svg.addEventListener("pointerleave", hideTip);
  svg.addEventListener("pointerdown", e => { if (e.button === 0 && e.pointerType !== "touch") { from = local(svg, e)[0]; svg.setPointerCapture(e.pointerId); } });
  svg.addEventListener("pointerup", e => {
    const [px] = local(svg, e), start = from;
    from = null;
    if (start == null || Math.abs(px - start) <= 6) return;
    curve.moved = true;
    curve.zoomTo(curve.scale.invert(Math.max(Math.min(start, px), curve.box.left)), curve.scale.invert(Math.min(Math.max(start, px), curve.box.right)));
  });
  svg.addEventListener("click", e => {
    if (curve.moved) { curve.moved = false; return; }
    const p = nearest(curve.points, ...local(svg, e));
    if (p) { curve.cursor = null; select(p.t.i); }
  });
  svg.addEventListener("dblclick", () => curve.zoomTo(null));
  svg.addEventListener("keydown", curve.keys);
};

curve.zoomTo = (a, b) => {
  curve.zoom = a == null || b - a < 1e-9 ? null : [a, b];
  curve.draw();
  curve.tools();
};

curve.keys = e => {
  const shown = curve.points.filter(p => !state.groups.size || state.groups.has(p.t.group.key)).sort((a, b) => a.t.i - b.t.i);
  const at = shown.findIndex(p => p.t.i >= (curve.cursor ?? state.trial ?? 0)), move = { ArrowRight: 1, ArrowLeft: -1, PageDown: 20, PageUp: -20 }[e.key];
  if (move && shown.length) {
    const p = shown[Math.max(0, Math.min(shown.length - 1, (at < 0 ? 0 : at) + (curve.cursor == null && state.trial == null ? 0 : move)))];
    curve.cursor = p.t.i;
    curve.select();
    $("live").textContent = `${p.t.id} ${p.t.role || ""} ${outcome(p.t)} ${score(p.t.score)}`;
    const r = curve.svg.getBoundingClientRect();
    showTip({ clientX: r.left + p.x, clientY: r.top + p.y }, ...trialTip(p.t));
  } else if (e.key === "Enter" && curve.cursor != null) { select(curve.cursor); curve.cursor = null; hideTip(); }
  else if (e.key === "+" || e.key === "-") {
    const [a, b] = [curve.scale.invert(curve.box.left), curve.scale.invert(curve.box.right)], m = curve.cursor == null ? (a + b) / 2 : curve.x[state.axis].of(T[curve.cursor]);
    const k = e.key === "+" ? 0.5 : 2, full = curve.x[state.axis].of(T[T.length - 1]);
    curve.zoomTo(...(b - a) * k >= full * 1.02 ? [null] : [m - (m - a) * k, m + (b - m) * k]);
  } else if (e.key === "0") curve.zoomTo(null);
  else return;
  e.preventDefault();
};

curve.tools = () => {
  const choices = Object.entries(curve.x).filter(([, v]) => v.ok).map(([k, v]) => [k, v.name]);
  $("curve-tools").replaceChildren(
    choices.length > 1 ? segmented("Horizontal axis", choices, state.axis, k => { state.axis = k; curve.zoom = null; remember(); curve.draw(); curve.tools(); }) : "",
    h("button", { type: "button", class: "tool", "aria-pressed": String(state.full), title: "Show every score, also those far off", on: { click: () => { state.full = !state.full; remember(); curve.draw(); curve.tools(); } } }, "Full range"),
    curve.zoom ? h("button", { type: "button", class: "tool", on: { click: () => curve.zoomTo(null) } }, "Reset zoom") : "");
  $("curve-key").replaceChildren(
    h("span", { class: "legend-item" }, s("svg", { class: "mark", width: 26, height: 12 }, s("path", { class: "line confirmed", d: "M1 6H25" })), "confirmed best"),
    D.noise ? h("span", { class: "legend-item" }, s("svg", { class: "mark", width: 26, height: 12 }, s("path", { class: "band", d: "M1 1H25V11H1Z" })), `±2 noise sd (${score(2 * D.noise)})`) : "",
    h("span", { class: "legend-item" }, s("svg", { class: "mark", width: 26, height: 12 }, s("path", { class: "line best", d: "M1 6H25" })), "best measured once"),
    champions.size ? legendItem("champion", "star", "champion on fresh seeds", champions.size) : "",
    T.some(t => t.sealed_score != null) ? legendItem("sealed", "diamond", "on the sealed split") : "");
};
