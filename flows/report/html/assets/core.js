// Data, words, shapes and state that every other part uses. No part ever parses text as markup: nodes
// are made by `h` and `s`, text goes in as text.
const $ = id => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const DASH = "–";

const unpack = async node => {
  const bytes = Uint8Array.from(atob(node.textContent.trim()), c => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
};
const packed = kind => document.querySelector(`script[type="application/x-${kind}"]`);

if (typeof DecompressionStream === "undefined") {
  $("too-old").hidden = false;
  throw new Error("this browser cannot unpack the page; Chrome 80, Firefox 113, Safari 16.4 or later can");
}
const D = await unpack(packed("table"));
const [HYPOTHESES, NOTES, EXCERPTS, LABELS] = await unpack(packed("texts"));

/* ---- trials: columns become objects once ---- */
const T = (cols => {
  const names = Object.keys(cols);
  return cols.id.map((id, i) => {
    const t = { i, hypothesis: HYPOTHESES[i], notes: NOTES[i], excerpt: EXCERPTS[i], label: LABELS[i] };
    for (const k of names) {
      const c = cols[k];
      t[k] = Array.isArray(c) ? c[i] : c.codes[i] < 0 ? null : c.words[c.codes[i]];
    }
    return t;
  });
})(D.columns);
const byId = new Map(T.map(t => [t.id, t]));
const kids = T.map(() => []);
for (const t of T) if (t.parent >= 0) kids[t.parent].push(t);
const champions = new Set(D.champions);
for (const c of D.confirmations) { const t = byId.get(c.trial); if (t) t.again = c; }
const believed = t => t?.again?.score ?? t?.score ?? null;    // fresh seeds where there are some: they did not choose the trial
const baseline = byId.get(D.baseline), incumbent = byId.get(D.incumbent_now), leader = byId.get(D.leader);
const SIGN = D.env.sign, LOWER = SIGN < 0;

/* ---- outcome groups: a colour and a shape each, so that neither is needed alone ---- */
const GROUPS = [
  ["baseline", "baseline", "diamond", ["baseline"]],
  ["keep", "keep", "up", ["keep"]],
  ["discard", "discard", "circle", ["discard"]],
  ["crash", "crash", "cross", ["crash", "preflight_crash"]],
  ["budget", "over a limit", "square", ["size_blocked", "train_budget_overrun", "eval_budget_overrun"]],
  ["disqualified", "disqualified", "down", ["disqualified"]],
  ["rejected", "rejected", "bar", ["rejected"]],
  ["abort", "aborted", "plus", ["harness_abort"]],
].map(([key, name, shape, statuses]) => ({ key, name, shape, statuses, n: 0 }));
const groupOf = {};
for (const g of GROUPS) for (const status of g.statuses) groupOf[status] = g;
for (const t of T) { t.group = groupOf[t.status] || groupOf.harness_abort; t.group.n++; }
const VALID = new Set(["baseline", "keep", "discard"]);

/* ---- numbers as people read them; the same rules as flows/report/formatting.py ---- */
const minus = text => String(text).replace(/-/g, "−");
const fixed = (x, digits) => x == null ? DASH : minus(x.toLocaleString("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits }));
const score = (x, unit = true) => x == null ? DASH : fixed(x, D.env.digits) + (unit && D.env.unit ? " " + D.env.unit : "");
const signed = x => x == null ? DASH : (x > 0 ? "+" : "") + fixed(x, D.env.digits);
const gained = x => x == null ? DASH : signed(SIGN * x);   // positive is better, whichever way the score improves
const percent = (f, digits = 2) => f == null ? DASH : (f > 0 ? "+" : "") + fixed(100 * f, digits) + "\u00a0%";
const gainOver = (x, ref) => x == null || ref == null || !ref ? null : SIGN * (x - ref) / Math.abs(ref);
const money = x => x == null ? DASH : x === 0 || x >= 0.01 ? "$" + fixed(x, 2) : "$" + fixed(x, 4);
const count = x => x == null ? DASH : x.toLocaleString("en-US");
const many = (n, noun) => `${count(n)} ${noun}${n === 1 ? "" : "s"}`;
const bytes = x => {
  if (x == null) return DASH;
  for (const [unit, scale] of [["GB", 1e9], ["MB", 1e6], ["kB", 1e3]]) if (x >= scale) return `${(x / scale).toFixed(x < 100 * scale ? 2 : 0)} ${unit}`;
  return `${x} B`;
};
const seconds = x => {
  if (x == null) return DASH;
  if (x < 1) return `${Math.round(1000 * x)} ms`;
  if (x < 10) return `${x.toFixed(1)} s`;
  const r = Math.round(x), two = n => String(n).padStart(2, "0");
  if (r < 60) return `${r} s`;
  if (r < 3600) return `${Math.floor(r / 60)} min ${two(r % 60)} s`;
  if (r < 86400) return `${Math.floor(r / 3600)} h ${two(Math.floor(r % 3600 / 60))} min`;
  return `${Math.floor(r / 86400)} d ${Math.floor(r % 86400 / 3600)} h`;
};
const clock = t => t == null ? DASH : new Date(t * 1000).toISOString().slice(0, 16).replace("T", " ") + " UTC";
const outcome = t => t.status + (t.cause && t.cause !== t.status ? ": " + t.cause : "") + (t.verdict ? ", " + t.verdict : "") + (t.throttled_runs ? ", throttled" : "");
const cpu = t => (t.build_cpu_s || 0) + (t.train_cpu_s || 0) + (t.evaluate_cpu_s || 0);
const tokens = t => (t.tokens_in || 0) + (t.tokens_out || 0) + (t.tokens_cache_read || 0) + (t.tokens_cache_write || 0);
const plainNumber = x => typeof x === "number" ? (Number.isInteger(x) ? count(x) : minus(+x.toPrecision(6))) : String(x);

/* ---- nodes ---- */
const fill = (node, attrs, children) => {
  for (const [k, v] of Object.entries(attrs || {})) {
    if (v == null || v === false) continue;
    if (k === "on") for (const [event, f] of Object.entries(v)) node.addEventListener(event, f);
    else if (k === "css") for (const [name, value] of Object.entries(v)) node.style.setProperty(name, value);
    else node.setAttribute(k, v === true ? "" : v);
  }
  for (const child of children.flat(3)) if (child != null && child !== false) node.append(child);
  return node;
};
const h = (name, attrs, ...children) => fill(document.createElement(name), attrs, children);
const s = (name, attrs, ...children) => fill(document.createElementNS(SVG, name), attrs, children);

const SHAPES = {
  circle: (x, y, r) => `M${x - r} ${y}a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0`,
  up: (x, y, r) => `M${x} ${y - 1.25 * r}L${x + 1.2 * r} ${y + 0.9 * r}H${x - 1.2 * r}Z`,
  down: (x, y, r) => `M${x} ${y + 1.2 * r}L${x + 1.15 * r} ${y - 0.85 * r}H${x - 1.15 * r}Z`,
  square: (x, y, r) => `M${x - 0.9 * r} ${y - 0.9 * r}h${1.8 * r}v${1.8 * r}h${-1.8 * r}Z`,
  diamond: (x, y, r) => `M${x} ${y - 1.35 * r}L${x + 1.35 * r} ${y}L${x} ${y + 1.35 * r}L${x - 1.35 * r} ${y}Z`,
  cross: (x, y, r) => `M${x - r} ${y - r}l${2 * r} ${2 * r}M${x + r} ${y - r}l${-2 * r} ${2 * r}`,
  plus: (x, y, r) => `M${x - 1.1 * r} ${y}h${2.2 * r}M${x} ${y - 1.1 * r}v${2.2 * r}`,
  bar: (x, y, r) => `M${x - r} ${y}h${2 * r}`,
  star: (x, y, r) => "M" + Array.from({ length: 10 }, (_, k) => {
    const a = Math.PI * k / 5 - Math.PI / 2, q = k % 2 ? 0.72 * r : 1.7 * r;
    return `${(x + q * Math.cos(a)).toFixed(1)} ${(y + q * Math.sin(a)).toFixed(1)}`;
  }).join("L") + "Z",
};
const mark = (shape, key, size = 12) => s("svg", { class: "mark", width: size, height: size, viewBox: "-6 -6 12 12", "aria-hidden": "true" },
  s("path", { d: SHAPES[shape](0, 0, shape === "star" ? 3.2 : 4), class: `m ${key}` }));
const badge = (t, short) => h("span", { class: `badge ${t.group.key}`, title: outcome(t) }, mark(t.group.shape, t.group.key), h("span", {}, short ? t.status : outcome(t)));

/* ---- state: one object, mirrored in the address so that a view can be shared and survives a reload ---- */
const state = { trial: null, q: "", groups: new Set(), role: "", sort: "i", down: false, full: false, axis: "trial", all: false };
const listeners = {};
const on = (event, f) => (listeners[event] ||= []).push(f);
const emit = (event, value) => (listeners[event] || []).forEach(f => f(value));
const remember = () => {
  const p = new URLSearchParams();
  if (state.trial != null) p.set("trial", T[state.trial].id);
  if (state.q) p.set("q", state.q);
  if (state.groups.size) p.set("show", [...state.groups].join("."));
  if (state.role) p.set("role", state.role);
  if (state.sort !== "i" || state.down) p.set("sort", (state.down ? "-" : "") + state.sort);
  if (state.axis !== "trial") p.set("axis", state.axis);
  if (state.full) p.set("full", "1");
  if (state.all) p.set("all", "1");
  history.replaceState(null, "", p.size ? "#" + p : location.pathname + location.search);
};
const recall = () => {
  const p = new URLSearchParams(location.hash.slice(1));
  state.trial = byId.get(p.get("trial"))?.i ?? null;
  state.q = p.get("q") || "";
  state.groups = new Set((p.get("show") || "").split(".").filter(k => GROUPS.some(g => g.key === k)));
  state.role = p.get("role") || "";
  const sort = p.get("sort") || "i";
  state.down = sort[0] === "-";
  state.sort = sort.replace("-", "");
  state.axis = p.get("axis") || "trial";
  state.full = p.get("full") === "1";
  state.all = p.get("all") === "1";
};
const select = i => {
  state.trial = i;
  remember();
  emit("select", i);
};
const chain = i => {
  const path = [];
  for (const seen = new Set(); i >= 0 && !seen.has(i); i = T[i].parent) { seen.add(i); path.push(i); }
  return path.reverse();
};
const onResize = (node, f) => {
  let width = node.clientWidth;
  new ResizeObserver(() => requestAnimationFrame(() => {
    if (node.clientWidth && node.clientWidth !== width) { width = node.clientWidth; f(); }
  })).observe(node);
};
