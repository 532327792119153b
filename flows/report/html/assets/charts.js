// Scales, axes, tooltips: the little that the charts share.
const niceTicks = (lo, hi, want) => {
  const raw = (hi - lo) / Math.max(want, 1) || 1, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map(k => k * power).find(k => k >= raw * 0.999);
  const ticks = [];
  for (let v = Math.ceil(lo / step - 1e-9) * step; v <= hi + step * 1e-9; v += step) ticks.push(+v.toPrecision(12));
  return ticks;
};
const linear = (lo, hi, a, b) => {
  const k = (b - a) / ((hi - lo) || 1), f = v => a + (v - lo) * k;
  f.invert = p => lo + (p - a) / k;
  return f;
};
const quantile = (sorted, q) => sorted.length ? sorted[Math.min(sorted.length - 1, Math.max(0, Math.round(q * (sorted.length - 1))))] : null;
const tickDigits = ticks => {
  const step = ticks.length > 1 ? Math.abs(ticks[1] - ticks[0]) : 1;
  return Math.min(7, (step.toPrecision(3).replace(/0+$/, "").split(".")[1] || "").length);
};
const axes = (g, x, y, box, xTicks, yTicks, xText = String, yText = String) => {
  for (const v of yTicks) g.append(
    s("path", { class: "grid", d: `M${box.left} ${y(v).toFixed(1)}H${box.right}` }),
    s("text", { class: "tick", x: box.left - 8, y: y(v) + 4, "text-anchor": "end" }, yText(v)));
  for (const v of xTicks) g.append(s("text", { class: "tick", x: x(v), y: box.bottom + 18, "text-anchor": "middle" }, xText(v)));
};

/* one tooltip for the page; it follows the pointer and never takes the focus */
const tip = h("div", { class: "tip", role: "status", hidden: true });
document.body.append(tip);
const showTip = (event, ...content) => {
  tip.replaceChildren(...content.flat().filter(Boolean));
  tip.hidden = false;
  const { clientX: x, clientY: y } = event, w = tip.offsetWidth, hgt = tip.offsetHeight;
  tip.style.left = Math.max(6, Math.min(x + 14, innerWidth - w - 6)) + "px";
  tip.style.top = (y + hgt + 24 > innerHeight ? Math.max(6, y - hgt - 12) : y + 16) + "px";
};
const hideTip = () => { tip.hidden = true; };
addEventListener("scroll", hideTip, { passive: true });
const trialTip = t => [
  h("div", { class: "tip-head" }, h("b", {}, t.id), t.role && t !== baseline ? ` ${t.role} ` : " ", badge(t)),
  t.score != null && h("div", { class: "num" }, score(t.score), baseline && t !== baseline ? `  ${percent(gainOver(t.score, baseline.score))}` : ""),
  h("div", { class: "tip-text" }, (t.hypothesis || "").slice(0, 180)),
];

/* nearest point by brute force: 5,000 distances take well under a millisecond */
const nearest = (points, x, y, reach = 22) => {
  let best = null, d = reach * reach;
  for (const p of points) {
    const q = (p.x - x) ** 2 + (p.y - y) ** 2;
    if (q < d) { d = q; best = p; }
  }
  return best;
};
const local = (svg, event) => {
  const r = svg.getBoundingClientRect();
  return [event.clientX - r.left, event.clientY - r.top];
};
const legendItem = (key, shape, name, n) => h("span", { class: "legend-item" }, mark(shape, key, 14), name, n != null && h("span", { class: "n" }, count(n)));
const segmented = (name, choices, current, pick) => h("div", { class: "seg", role: "group", "aria-label": name },
  choices.map(([value, label]) => h("button", { type: "button", "aria-pressed": String(value === current), on: { click: () => pick(value) } }, label)));
