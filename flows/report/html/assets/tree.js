// Lineage: who was built on whom. A first child continues the row of its parent, so that the chain to the
// champion is one straight line; trials that led nowhere are folded into a count until asked for.
const tree = { host: $("tree"), open: new Set(), shut: new Set(), view: { x: 0, y: 0, k: 1 }, nodes: [] };
const GAP_X = 92, GAP_Y = 34;

tree.main = new Set(chain((incumbent && incumbent !== baseline ? incumbent : leader || baseline || { i: -1 }).i));
tree.size = T.map(() => 1);                              // trials below and including each; parents come first
for (let i = T.length - 1; i >= 0; i--) if (T[i].parent >= 0 && T[i].parent < i) tree.size[T[i].parent] += tree.size[i];
tree.bears = T.map(t => t.status === "keep" || t.status === "baseline" || tree.main.has(t.i));
for (let i = T.length - 1; i >= 0; i--) if (tree.bears[i] && T[i].parent >= 0) tree.bears[T[i].parent] = true;

tree.shown = t => {
  if (tree.shut.has(t.i)) return [];
  const list = state.all || tree.open.has(t.i) ? kids[t.i] : kids[t.i].filter(c => tree.bears[c.i]);
  return [...list].sort((a, b) => tree.main.has(b.i) - tree.main.has(a.i) || tree.bears[b.i] - tree.bears[a.i] || tree.size[b.i] - tree.size[a.i] || a.i - b.i);
};

// A chain takes one row; what branches off is placed below it, from its far end back to its start, so that
// no branch crosses another. Trials that led nowhere hang as a block of small marks under their parent.
tree.arrange = () => {
  tree.nodes = [];
  tree.at = new Map();
  tree.floor = [];                                       // for each depth, the next free y
  for (const t of T) if (t.parent < 0 && (tree.bears[t.i] || state.all)) tree.place(t, null, 0, 0);
};
tree.place = (first, up, depth, least) => {
  const row = [];
  for (let t = first, above = up; t && !tree.at.has(t.i); ) {
    const list = tree.shown(t), leaf = c => !tree.bears[c.i] && !tree.shown(c).length;
    const node = { t, up: above, depth: depth + row.length, branches: list.filter(c => !leaf(c)), leaves: list.filter(leaf), hidden: kids[t.i].length - list.length };
    row.push(node);
    tree.at.set(t.i, node);
    above = node;
    t = node.branches[0];
  }
  const y = row.reduce((top, n) => Math.max(top, tree.floor[n.depth] || 0), least);
  for (const n of row) {
    Object.assign(n, { x: n.depth * GAP_X, y });
    tree.nodes.push(n);
    n.leaves.forEach((c, k) => {
      const leaf = { t: c, up: n, depth: n.depth + 1, x: n.x + 16 + 14 * (k % 5), y: y + 15 + 14 * Math.floor(k / 5), leaves: [], branches: [], hidden: kids[c.i].length, small: true };
      tree.nodes.push(leaf);
      tree.at.set(c.i, leaf);
    });
    tree.floor[n.depth] = y + GAP_Y + 14 * Math.ceil(n.leaves.length / 5);
  }
  for (const n of row.reverse()) for (const c of n.branches) if (!tree.at.has(c.i)) {
    tree.place(c, n, n.depth + 1, Math.max(y + GAP_Y, tree.floor[n.depth]));
    tree.floor[n.depth] = Math.max(tree.floor[n.depth], tree.at.get(c.i).y + GAP_Y);   // its edge runs down this column
  }
};

tree.label = t => t === baseline ? "baseline" : t.score != null && baseline ? `${t.id} ${percent(gainOver(t.score, baseline.score), 1)}` : t.id;

tree.drawNode = n => {
  const { t } = n, star = champions.has(t.id), g = s("g", { class: "node" + (tree.main.has(t.i) ? " main" : ""), "data-i": t.i, transform: `translate(${n.x} ${n.y})` });
  if (n.small) return fill(g, { class: "node small" }, [s("rect", { class: "hit", x: -7, y: -7, width: 14, height: 14 }), s("path", { class: `m ${t.group.key}`, d: SHAPES[t.group.shape](0, 0, 3.2) })]);
  g.append(s("rect", { class: "hit", x: -11, y: -12, width: GAP_X - 6, height: 24 }), s("path", { class: `m ${star ? "champion" : t.group.key}`, d: SHAPES[star ? "star" : t.group.shape](0, 0, star ? 5 : 4.6) }));
  g.append(s("text", { x: 9, y: -5, class: "name" }, tree.label(t)));
  if (n.hidden > 0 || tree.shut.has(t.i)) {
    const hidden = tree.shut.has(t.i) ? tree.size[t.i] - 1 : n.hidden;
    if (hidden > 0) g.append(s("g", { class: "more", "data-more": t.i }, s("rect", { x: 8, y: 1, width: 14 + 6 * String(hidden).length, height: 13, rx: 6.5 }), s("text", { x: 12, y: 11 }, `+${hidden}`)));
  }
  return g;
};

tree.draw = () => {
  tree.arrange();
  const edges = s("g"), nodes = s("g"), world = s("g", { class: "world" });
  for (const n of tree.nodes) {
    if (n.up && !n.small) {
      const d = n.y === n.up.y ? `M${n.up.x} ${n.y}H${n.x}` : `M${n.up.x} ${n.up.y}V${n.y - 10}q0 10 10 10H${n.x}`;
      edges.append(s("path", { class: "edge" + (tree.main.has(n.t.i) ? " main" : ""), "data-c": n.t.i, d }));
    }
    nodes.append(tree.drawNode(n));
  }
  world.append(edges, nodes);
  const svg = s("svg", { tabindex: "0", role: "group", "aria-label": "Lineage tree. Arrow keys move between parent, child and sibling; Enter opens, Space folds; plus, minus and zero zoom." }, world);
  const focused = tree.host.contains(document.activeElement);
  tree.host.replaceChildren(svg);
  tree.svg = svg;
  tree.world = world;
  tree.events(svg);
  if (focused) svg.focus({ preventScroll: true });
  tree.move();
  tree.select();
};

tree.move = () => {
  const { x, y, k } = tree.view;
  tree.world.setAttribute("transform", `translate(${x.toFixed(1)} ${y.toFixed(1)}) scale(${k.toFixed(4)})`);
  tree.svg.classList.toggle("far", k < 0.55);
};
tree.extent = () => [Math.max(...tree.nodes.map(n => n.x), 0) + GAP_X, Math.max(...tree.nodes.map(n => n.y), 0) + GAP_Y];
tree.fit = () => {
  const [w, hgt] = tree.extent(), W = tree.host.clientWidth || 800, H = tree.host.clientHeight || 400;
  const k = Math.max(0.12, Math.min(1.25, (W - 40) / w, (H - 50) / hgt));
  tree.view = { k, x: 22, y: Math.max(28 * k + 6, (H - hgt * k) / 2 + 14 * k) };
  tree.move();
};
tree.grow = () => {                                     // as tall as what it shows, within reason
  const rows = Math.max(...tree.nodes.map(n => n.y), 0) / GAP_Y + 1;
  tree.host.style.setProperty("--tree-height", Math.max(150, Math.min(innerWidth < 720 ? 340 : 440, rows * GAP_Y + 70)) + "px");
};
tree.start = () => {                                     // readable rather than complete: the end of the main chain in sight
  tree.grow();
  tree.fit();
  if (tree.view.k >= 0.7) return;
  const last = tree.at.get([...tree.main].pop()), W = tree.host.clientWidth, k = 0.85;
  tree.view = { k, x: last ? Math.min(22, W - (last.x + GAP_X + 30) * k) : 22, y: 34 };
  tree.move();
};
tree.zoom = (factor, cx = tree.host.clientWidth / 2, cy = tree.host.clientHeight / 2) => {
  const v = tree.view, k = Math.max(0.05, Math.min(4, v.k * factor));
  tree.view = { k, x: cx - (cx - v.x) * k / v.k, y: cy - (cy - v.y) * k / v.k };
  tree.move();
};
tree.reveal = i => {
  for (const j of chain(i)) if (j !== i) {
    tree.shut.delete(j);
    const next = chain(i)[chain(i).indexOf(j) + 1];
    if (!tree.bears[next]) tree.open.add(j);
  }
  if (!tree.at.has(i)) tree.draw();
  const n = tree.at.get(i), { k } = tree.view, W = tree.host.clientWidth, H = tree.host.clientHeight;
  if (!n) return;
  const px = n.x * k + tree.view.x, py = n.y * k + tree.view.y;
  if (px < 10 || px > W - 90) tree.view.x += W / 2 - px;
  if (py < 20 || py > H - 24) tree.view.y += H / 2 - py;
  tree.move();
};
tree.select = () => {
  const path = new Set(state.trial == null ? [] : chain(state.trial));
  for (const e of tree.svg.querySelectorAll("[data-c]")) e.classList.toggle("on", path.has(+e.dataset.c));
  for (const e of tree.svg.querySelectorAll(".node")) e.classList.toggle("on", +e.dataset.i === state.trial);
};
tree.fold = i => {
  const n = tree.at.get(i);
  if (n && n.hidden > 0 && !tree.shut.has(i)) tree.open.add(i);
  else if (tree.open.has(i)) tree.open.delete(i);
  else tree.shut.has(i) ? tree.shut.delete(i) : tree.shut.add(i);
  tree.draw();
};

tree.events = svg => {
  const touches = new Map();
  let moved = 0;
  svg.addEventListener("pointerdown", e => { touches.set(e.pointerId, local(svg, e)); moved = 0; });
  svg.addEventListener("pointermove", e => {
    if (!touches.has(e.pointerId)) return tree.hover(e);
    const now = local(svg, e), was = touches.get(e.pointerId), other = [...touches].find(([id]) => id !== e.pointerId)?.[1];
    touches.set(e.pointerId, now);
    moved += Math.abs(now[0] - was[0]) + Math.abs(now[1] - was[1]);
    if (moved > 5 && !svg.hasPointerCapture(e.pointerId)) svg.setPointerCapture(e.pointerId);
    if (other) {
      const span = p => Math.hypot(p[0] - other[0], p[1] - other[1]) || 1;
      tree.zoom(span(now) / span(was), (now[0] + other[0]) / 2, (now[1] + other[1]) / 2);
    }
    const share = other ? 0.5 : 1;
    tree.view.x += (now[0] - was[0]) * share;
    tree.view.y += (now[1] - was[1]) * share;
    tree.move();
  });
  for (const end of ["pointerup", "pointercancel"]) svg.addEventListener(end, e => touches.delete(e.pointerId));
  svg.addEventListener("pointerleave", hideTip);
  svg.addEventListener("click", e => {
    if (moved > 5) return;
    const more = e.target.closest("[data-more]"), node = e.target.closest(".node");
    more ? tree.fold(+more.dataset.more) : node && select(+node.dataset.i);
  });
  svg.addEventListener("wheel", e => {                   // a bare wheel keeps scrolling the page
    if (!e.ctrlKey && !e.metaKey) return;
    e.preventDefault();
    tree.zoom(Math.exp(-e.deltaY / 240), ...local(svg, e));
  }, { passive: false });
  svg.addEventListener("keydown", tree.keys);
};
tree.hover = e => {
  const node = e.target.closest?.(".node");
  node ? showTip(e, ...trialTip(T[+node.dataset.i])) : hideTip();
};

tree.keys = e => {
  if (state.trial != null && !tree.at.has(state.trial)) tree.reveal(state.trial);
  const now = tree.at.get(state.trial) || tree.nodes[0], near = dy => tree.nodes.filter(n => (n.y - now.y) * dy > 0)
    .sort((a, b) => Math.abs(a.y - now.y) - Math.abs(b.y - now.y) || Math.abs(a.x - now.x) - Math.abs(b.x - now.x))[0];
  const go = n => { if (n) { select(n.t.i); tree.reveal(n.t.i); } };
  const act = {
    ArrowLeft: () => go(now.up), ArrowRight: () => go(tree.nodes.find(n => n.up === now && !n.small) || tree.nodes.find(n => n.up === now)), ArrowDown: () => go(near(1)), ArrowUp: () => go(near(-1)),
    Enter: () => { go(now); panel.focus(); }, " ": () => tree.fold(now.t.i), "+": () => tree.zoom(1.3), "=": () => tree.zoom(1.3), "-": () => tree.zoom(1 / 1.3), 0: tree.fit,
  }[e.key];
  if (!act || !now) return;
  e.preventDefault();
  e.stopPropagation();
  act();
};

tree.tools = () => $("tree-tools").replaceChildren(
  h("button", { type: "button", class: "tool", "aria-pressed": String(state.all), on: { click: () => { state.all = !state.all; remember(); tree.tools(); tree.draw(); tree.start(); } } }, "All trials"),
  h("button", { type: "button", class: "tool square", "aria-label": "Zoom in", on: { click: () => tree.zoom(1.3) } }, "+"),
  h("button", { type: "button", class: "tool square", "aria-label": "Zoom out", on: { click: () => tree.zoom(1 / 1.3) } }, "−"),
  h("button", { type: "button", class: "tool", on: { click: tree.fit } }, "Fit"),
  h("button", { type: "button", class: "tool", on: { click: e => { e.target.textContent = tree.host.classList.toggle("tall") ? "Smaller" : "Larger"; } } }, "Larger"));
