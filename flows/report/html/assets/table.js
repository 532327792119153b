// All trials: filter, sort, and only the rows in sight as nodes, so that 5,000 scroll as easily as 50.
const everyTrial = many(T.filter(t => t !== baseline).length, "trial") + (baseline ? " and the baseline" : "");
const table = { body: $("rows"), rows: [], first: -1, focus: 0 };

// key, heading, value to sort by, what the cell shows, class, width; the ones marked wide go first when space is short
const COLUMNS = [
  ["i", "trial", t => t.i, t => t.id, "id", "70px"],
  ["outcome", "outcome", t => outcome(t), t => badge(t), "outcome", "minmax(150px, 1.2fr)"],
  ["role", "role", t => t === baseline ? "" : t.role, t => t === baseline ? DASH : t.role || DASH, "role wide", "minmax(104px, .6fr)"],
  ["score", "score", t => t.score, t => score(t.score, false), "num score", "84px"],
  ["gain", "vs baseline", t => baseline && gainOver(t.score, baseline.score), t => percent(baseline && t !== baseline ? gainOver(t.score, baseline.score) : null), "num gain", "86px"],
  ["delta", "vs parent", t => t.delta_parent == null ? null : SIGN * t.delta_parent, t => gained(t.delta_parent), "num delta wide", "86px"],
  ["parent", "parent", t => t.parent, t => T[t.parent]?.id ?? DASH, "parent wide", "66px"],
  ["cpu", "CPU", t => cpu(t) || null, t => cpu(t) ? seconds(cpu(t)) : DASH, "num cpu wide", "78px"],
  ["usd", "cost", t => t.usd || null, t => t.usd ? money(t.usd) : DASH, "num usd wide", "62px"],
  ["hypothesis", "hypothesis", t => t.hypothesis, t => t.hypothesis, "hypothesis", "minmax(160px, 4fr)"],
].map(([key, name, value, cell, css, width]) => ({ key, name, value, cell, css, width }))
  .filter(c => !["usd", "cpu", "delta"].includes(c.key) || T.some(t => c.value(t) != null));

for (const t of T) t.search = [t.id, t.role, outcome(t), t.edit_kind, t.operator, t.proposer, t.model, t.arm, t.hypothesis].filter(Boolean).join(" ").toLowerCase();

table.compute = () => {
  const words = state.q.toLowerCase().split(/\s+/).filter(Boolean);
  const key = COLUMNS.find(c => c.key === state.sort)?.value || (t => t.i), dir = state.down ? -1 : 1;
  const rows = T.filter(t => (!state.groups.size || state.groups.has(t.group.key) || (state.groups.has("champion") && champions.has(t.id)))
    && (!state.role || t.role === state.role) && words.every(word => t.search.includes(word)));
  const values = new Map(rows.map(t => [t, key(t)]));
  rows.sort((a, b) => {
    const x = values.get(a), y = values.get(b);
    if (x == null || x === "" || y == null || y === "") return (x == null || x === "") - (y == null || y === "") || a.i - b.i;   // blanks last, both ways
    return (x > y ? 1 : x < y ? -1 : 0) * dir || a.i - b.i;
  });
  table.rows = rows;
};

table.update = keep => {
  table.compute();
  table.first = -1;
  if (!keep) { table.body.scrollTop = 0; table.focus = 0; }
  $("shown").textContent = table.rows.length === T.length ? everyTrial : `${count(table.rows.length)} of ${many(T.length, "trial")}`;
  for (const c of $("columns").children) {
    const mine = c.dataset.key === state.sort;
    c.setAttribute("aria-sort", mine ? (state.down ? "descending" : "ascending") : "none");
  }
  for (const b of $("chips").children) b.setAttribute("aria-pressed", String(state.groups.has(b.dataset.key)));
  $("clear").hidden = !(state.q || state.role || state.groups.size);
  $("columns").style.paddingRight = 12 + table.body.offsetWidth - table.body.clientWidth + "px";
  table.body.setAttribute("aria-rowcount", table.rows.length);
  $("none").hidden = table.rows.length > 0;
  table.paint();
};

table.height = () => innerWidth <= 720 ? 58 : 34;

table.paint = () => {
  const height = table.height(), view = table.body.clientHeight || 480, top = Math.floor(table.body.scrollTop / height), first = Math.max(0, top - 8);
  if (first === table.first && table.drawn === height) return;
  table.first = first;
  table.drawn = height;
  const last = Math.min(table.rows.length, top + Math.ceil(view / height) + 9), had = table.body.contains(document.activeElement) && document.activeElement !== table.body;
  $("canvas").style.height = table.rows.length * height + "px";
  $("canvas").replaceChildren(...table.rows.slice(first, last).map((t, k) => table.row(t, first + k, height)));
  if (had) $("canvas").querySelector(`[data-n="${table.focus}"]`)?.focus({ preventScroll: true });
};

table.row = (t, n, height) => h("div", {
  class: "row" + (t.i === state.trial ? " on" : "") + (champions.has(t.id) ? " champ" : ""), role: "row", "aria-rowindex": n + 1, "data-n": n, "data-i": t.i,
  tabindex: n === table.focus ? "0" : "-1", css: { top: n * height + "px", height: height + "px" },
}, COLUMNS.map(c => {
  const value = c.cell(t), sign = c.key === "gain" && t !== baseline && VALID.has(t.status) ? gainOver(t.score, baseline?.score) : 0;
  return h("span", { role: "gridcell", class: `cell ${c.css}` + (sign > 0 ? " good" : "") }, value);
}));

table.goto = n => {
  const height = table.height(), view = table.body.clientHeight;
  table.focus = Math.max(0, Math.min(table.rows.length - 1, n));
  const y = table.focus * height;
  if (y < table.body.scrollTop) table.body.scrollTop = y;
  else if (y + height > table.body.scrollTop + view) table.body.scrollTop = y + height - view;
  table.first = -1;
  table.paint();
  $("canvas").querySelector(`[data-n="${table.focus}"]`)?.focus({ preventScroll: true });
};

table.keys = e => {
  const page = Math.max(1, Math.floor(table.body.clientHeight / table.height()) - 1);
  const to = { ArrowDown: table.focus + 1, ArrowUp: table.focus - 1, PageDown: table.focus + page, PageUp: table.focus - page, Home: 0, End: table.rows.length - 1 }[e.key];
  if (to != null) table.goto(to);
  else if ((e.key === "Enter" || e.key === " ") && table.rows[table.focus]) { select(table.rows[table.focus].i); panel.focus(); }
  else return;
  e.preventDefault();
  e.stopPropagation();
};

table.filtered = () => { remember(); table.update(); curve.draw(); };
table.toggle = key => {
  state.groups.has(key) ? state.groups.delete(key) : state.groups.add(key);
  table.filtered();
};

table.start = () => {
  const sheet = document.documentElement.style, widths = list => list.map(c => c.width).join(" ");
  sheet.setProperty("--columns", widths(COLUMNS));
  sheet.setProperty("--columns-mid", widths(COLUMNS.filter(c => !c.css.includes("wide"))));
  $("columns").replaceChildren(...COLUMNS.map(c => h("div", { role: "columnheader", class: `cell ${c.css}`, "data-key": c.key },
    h("button", { type: "button", on: { click: () => { state.down = state.sort === c.key ? !state.down : false; state.sort = c.key; remember(); table.update(); } } }, c.name))));
  const chips = [...champions.size ? [{ key: "champion", name: "confirmed", shape: "star", n: champions.size }] : [], ...GROUPS.filter(g => g.n)];
  $("chips").replaceChildren(...chips.map(g => h("button", { type: "button", class: "chip", "data-key": g.key, on: { click: () => table.toggle(g.key) } }, mark(g.shape, g.key, 14), g.name, h("span", { class: "n" }, count(g.n)))));
  const roles = [...new Set(T.map(t => t.role).filter(Boolean))].sort();
  $("role").replaceChildren(h("option", { value: "" }, "all roles"), ...roles.map(r => h("option", { value: r }, r)));
  $("role").value = state.role;
  $("q").value = state.q;
  let wait;
  $("q").addEventListener("input", () => { clearTimeout(wait); wait = setTimeout(() => { state.q = $("q").value; table.filtered(); }, 90); });
  $("role").addEventListener("change", () => { state.role = $("role").value; table.filtered(); });
  $("clear").addEventListener("click", () => { state.q = state.role = $("q").value = $("role").value = ""; state.groups.clear(); table.filtered(); });
  table.body.addEventListener("scroll", () => requestAnimationFrame(table.paint), { passive: true });
  table.body.addEventListener("keydown", table.keys);
  table.body.addEventListener("click", e => {
    const row = e.target.closest(".row");
    if (!row) return;
    table.focus = +row.dataset.n;
    select(+row.dataset.i);
  });
  table.update();
};
table.select = () => { for (const r of $("canvas").children) r.classList.toggle("on", +r.dataset.i === state.trial); };
