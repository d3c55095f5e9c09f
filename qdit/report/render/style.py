"""The style sheet of a rendered table: light and dark, wide and narrow, screen and paper; nothing from outside."""

LIGHT = """--ground: #fff; --ink: #1b1f24; --muted: #5d6670; --rule: #d9dee3; --strong: #1b1f24;
  --band: #f3f5f7; --paired: #f5f8fc; --accent: #1f6feb; --face-ground: #fff4d6; --face-ink: #5c4300; --bad: #b42318;
  --good: #1a7f37; --curve: 40%; color-scheme: light;"""

DARK = """--ground: #14171b; --ink: #e4e7eb; --muted: #9aa4af; --rule: #2c333b;
  --strong: #aab3bd; --band: #1c2127; --paired: #181e26; --accent: #6ea8ff; --face-ground: #3a2f10; --face-ink: #ffdf8a;
  --bad: #ff8d80; --good: #56d364; --curve: 70%; color-scheme: dark;"""

COLOURS = f"""
:root {{ {LIGHT} }}
@media (prefers-color-scheme: dark) {{ :root {{ {DARK} }} }}
:root[data-theme="light"] {{ {LIGHT} }} :root[data-theme="dark"] {{ {DARK} }}
@media print {{ :root, :root[data-theme="dark"] {{ {LIGHT} }} }}
"""
"""The system's colours unless the reader chose; paper is always light."""

CSS = (
    COLOURS
    + """* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1280px; padding: 1.5rem 1.25rem 3rem; background: var(--ground); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 .75rem; }
h2 { font-size: 1.1rem; margin: 2.25rem 0 .5rem; }
h3 { font-size: 1rem; margin: 1.5rem 0 .25rem; }
p { margin: .35rem 0; max-width: 90ch; }
.muted, .about { color: var(--muted); }
.face { display: inline-block; margin: 0 0 .75rem; padding: .35rem .75rem; border-radius: 6px; font-weight: 600;
  background: var(--face-ground); color: var(--face-ink); }
.scroll { margin-top: .9rem; overflow-x: auto; -webkit-overflow-scrolling: touch; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; min-width: 100%; font-size: .9rem; }
thead th { font-weight: 600; text-align: right; padding: .3rem .42rem; vertical-align: bottom; }
thead tr:first-child th { border-top: 2px solid var(--strong); text-align: center; padding-top: .5rem; }
thead tr:first-child th.first, thead th.first { text-align: left; }
thead th.name { position: sticky; left: 0; z-index: 1; background: var(--ground); }
thead tr:first-child th[colspan] { box-shadow: inset 0 -1px var(--rule); }
thead tr:last-child th { border-bottom: 1px solid var(--strong); font-weight: 400; color: var(--muted); }
tbody th { text-align: left; font-weight: 400; padding: .35rem .42rem; vertical-align: top; }
tbody td { text-align: right; padding: .35rem .42rem; vertical-align: top; white-space: nowrap; }
thead th.edge { min-width: 3.6rem; } tbody th.bits { white-space: nowrap; color: var(--muted); }
th.again span { visibility: hidden; } table.wide { font-size: .8rem; } table.wide :is(td, th) { padding-inline: .3rem; }
table.wide :is(td.edge, thead th.edge) { padding-left: .55rem; } table.wide thead th.edge { min-width: 3rem; }
table.wide th.name { min-width: 7.5rem; } table.wide :is(td, th) small { font-size: .92em; }
tbody th.name { position: sticky; left: 0; background: var(--ground); background-clip: padding-box; min-width: 8.5rem;
  max-width: 17rem; }
tbody tr.block th { position: static; background: var(--band); border-top: 1px solid var(--strong);
  border-bottom: 1px solid var(--rule); padding: .5rem .55rem; }
tbody tr.block span { position: sticky; left: .55rem; display: inline-block; max-width: min(88vw, 1100px); }
tbody tr.bits-start > * { border-top: 1px solid var(--rule); }
tbody:last-of-type { border-bottom: 2px solid var(--strong); }
td small, th small { display: block; font-size: .78rem; color: var(--muted); line-height: 1.25; }
th small.inline-bits { display: none; } th small.detail { max-width: 16rem; }
th small.bad { color: var(--bad); max-width: 11rem; }
td.paper { color: var(--muted); }
td.paired { background: var(--paired); }
td.edge, thead th.edge { padding-left: .85rem; }
.bad { color: var(--bad); } .good { color: var(--good); } .summary { font-size: 1.05rem; font-weight: 600; }
.panels { display: flex; flex-wrap: wrap; gap: 1.25rem 2rem; }
figure { margin: 0; width: 344px; max-width: 100%; }
figcaption { font-weight: 600; font-size: .9rem; margin-bottom: .15rem; }
svg { display: block; max-width: 100%; height: auto; font-size: 12px; fill: var(--ink); }
svg .grid { stroke: var(--rule); } svg .stem { stroke: var(--accent); stroke-width: 2; opacity: .35; }
svg .dot { fill: var(--accent); } svg .name { text-anchor: end; }
svg .tick { text-anchor: middle; fill: var(--muted); font-size: 11px; }
svg .value { font-variant-numeric: tabular-nums; } svg .name.tick { text-anchor: end; }
svg .curve { stroke: hsl(var(--hue) 65% var(--curve)); fill: none; stroke-width: 1.5; stroke-linejoin: round; }
svg .curve text { stroke: none; fill: hsl(var(--hue) 65% var(--curve)); font-size: 11px; }
svg .curve .lead { stroke-width: .75; opacity: .5; } svg .curve circle { fill: hsl(var(--hue) 65% var(--curve)); }
.sheet { display: grid; grid-template-columns: max-content max-content; gap: .5rem 1rem; width: max-content;
  align-items: start; padding-bottom: .5rem; }
.sheet .label { position: sticky; left: 0; background: var(--ground); min-width: 9.5rem; max-width: 12rem;
  font-size: .9rem; line-height: 1.25; padding-right: .5rem; }
.sheet img { display: block; image-rendering: pixelated; } .sheet img + img { margin-top: 2px; }
.classes { display: flex; color: var(--muted); font-size: .8rem; text-align: center; }
ul { padding-left: 1.2rem; } li { margin: .2rem 0; max-width: 90ch; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; font-size: .9rem; margin: .5rem 0; }
dt { color: var(--muted); } dd { margin: 0; overflow-wrap: anywhere; }
footer { margin-top: 2rem; border-top: 1px solid var(--rule); padding-top: 1rem; }
@media (max-width: 640px) { th.bits { display: none; } th small.inline-bits { display: block; }
  tbody th, tbody td, thead th { padding-left: .35rem; padding-right: .35rem; } tbody th.name { min-width: 7rem;
  max-width: 9.5rem; }
  body { padding: 1rem .85rem 2rem; } dl { grid-template-columns: 1fr; } dd { margin-bottom: .4rem; }
  .sheet { grid-template-columns: max-content; gap: .2rem; } .sheet .label { width: max-content; max-width: none;
  margin-top: .5rem; } .sheet .corner { display: none; } }
@media print { body { max-width: none; font-size: 11px; } .scroll { overflow: visible; } }
"""
)
