// Start: draw what is in sight first, then the rest; keys, theme, reload.
const themes = ["auto", "light", "dark"];
const theme = name => {
  document.documentElement.dataset.theme = name;
  $("theme").textContent = { auto: "◐", light: "☀", dark: "☾" }[name];
  $("theme").setAttribute("aria-label", `Colours: ${name}`);
  try { localStorage.setItem("bakeoff-theme", name); } catch { /* a page opened from a file may have no storage */ }
};
let saved = "auto";
try { saved = localStorage.getItem("bakeoff-theme") || "auto"; } catch { /* as above */ }
theme(themes.includes(saved) ? saved : "auto");
$("theme").addEventListener("click", () => theme(themes[(themes.indexOf(document.documentElement.dataset.theme) + 1) % 3]));

recall();
on("select", i => { panel.show(i); curve.cursor = null; curve.select(); tree.select(); table.select(); });
curve.tools();
curve.draw();
table.start();
if (T.length) { tree.tools(); tree.draw(); tree.start(); }
requestAnimationFrame(() => {
  if (T.length) { figures.draw(); figures.enforced(); }
  figures.events($("events"));
  document.documentElement.dataset.ready = "1";
});
if (state.trial != null) { panel.show(state.trial); tree.reveal(state.trial); }
onResize($("curve"), () => { curve.draw(); table.first = -1; table.paint(); });
onResize($("failures"), figures.draw);
if (T.length) onResize($("tree"), () => tree.start());

$("close").addEventListener("click", panel.close);
$("prev").addEventListener("click", () => panel.step(-1));
$("next").addEventListener("click", () => panel.step(1));
for (const b of document.querySelectorAll("[data-trial]")) b.addEventListener("click", () => { const t = byId.get(b.dataset.trial); if (t) { select(t.i); tree.reveal(t.i); } });
$("keys").addEventListener("click", () => $("help").showModal());
addEventListener("keydown", e => {
  if (e.ctrlKey || e.metaKey || e.altKey) return;
  const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement?.tagName);
  if (e.key === "Escape") { if (typing) document.activeElement.blur(); else if (!$("help").open) panel.close(); return; }
  if (typing || $("help").open) return;
  const act = { "/": () => { $("trials").scrollIntoView(); $("q").focus(); $("q").select(); }, j: () => panel.step(1), k: () => panel.step(-1), "?": () => $("help").showModal(), b: () => { const t = incumbent || leader; if (t) { select(t.i); tree.reveal(t.i); } } }[e.key];
  if (act) { e.preventDefault(); act(); }
});
if (D.reload > 0) setInterval(() => {                   // never under a reader's hands
  if (document.visibilityState === "visible" && panel.node.hidden && document.activeElement === document.body) location.reload();
}, D.reload * 1000);
