"""The style sheet of the report, on top of the one of a table: bar, cards, marks, folded parts, phone, paper."""

INDEX_CSS = """
html { scroll-padding-top: 6.2rem; } body { padding: 0; max-width: none; }
main, footer, header.top > * { max-width: 1320px; margin-inline: auto; padding-inline: 1.25rem; }
main { padding-bottom: 3rem; } section { padding-top: 1.5rem; } section + section { border-top: 1px solid var(--rule);
  margin-top: 2.5rem; }
h1 { font-size: 2rem; letter-spacing: -.015em; margin: .75rem 0 .25rem; }
h2 { font-size: 1.35rem; letter-spacing: -.01em; margin: 1.25rem 0 .5rem; }
h3 { font-size: 1.08rem; margin: 2rem 0 .35rem; } h4 { font-size: .95rem; margin: 1.1rem 0 .3rem; }
a { color: var(--accent); text-decoration-thickness: 1px; text-underline-offset: 2px; }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; border-radius: 3px; }
.unseen { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
.skip { position: absolute; left: -999rem; } .skip:focus { position: fixed; left: 1rem; top: .5rem; z-index: 9;
  background: var(--ground); padding: .4rem .8rem; }
.lead { font-size: 1.1rem; color: var(--muted); } .lead b { color: var(--ink); }

header.top { position: sticky; top: 0; z-index: 5; background: var(--ground); border-bottom: 1px solid var(--rule); }
header.top .row { display: flex; align-items: center; gap: .75rem; padding-top: .5rem; padding-bottom: .35rem; }
header.top .brand { white-space: nowrap; } header.top .face { margin: 0; padding: .12rem .6rem; font-size: .82rem; }
#theme { margin-left: auto; width: 2.1rem; height: 2.1rem; flex: none; border: 1px solid var(--rule);
  border-radius: 50%;
  background: var(--band); color: var(--ink); font-size: 1rem; line-height: 1; cursor: pointer; }
header.top nav { display: flex; gap: .1rem; overflow-x: auto; scrollbar-width: none; padding-inline: .7rem; }
header.top nav a { padding: .3rem .6rem .4rem; color: var(--muted); text-decoration: none; white-space: nowrap;
  font-size: .92rem; border-bottom: 2px solid transparent; }
header.top nav a:hover { color: var(--ink); }
header.top nav a[aria-current] { color: var(--ink); border-color: var(--accent); }

.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(22rem, 100%), 1fr)); gap: 1rem;
  margin: 1.25rem 0; }
.card { border: 1px solid var(--rule); border-radius: 10px; padding: 1rem 1.15rem; }
.card { min-width: 0; } .card h2 { font-size: 1rem; margin: 0 0 .7rem; letter-spacing: 0; }
.bar { display: flex; gap: 2px; height: .7rem; border-radius: 99px; overflow: hidden; } .bar i { min-width: 3px; }
.bar .good { background: var(--good); } .bar .bad { background: var(--bad); } .bar .open { background: var(--muted);
  opacity: .55; } .bar .made { background: var(--accent); } .bar .none { background: var(--rule); }
.counts { list-style: none; padding: 0; margin: .75rem 0 0; display: flex; flex-wrap: wrap; gap: .25rem 1.1rem; }
.counts b { font-size: 1.15rem; font-variant-numeric: tabular-nums; } .counts .mark { margin-right: .4rem; }
.mark { display: inline-block; min-width: 1.25rem; height: 1.25rem; line-height: 1.25rem; text-align: center;
  border-radius: 4px; font-size: .8rem; font-weight: 700; position: relative; background: var(--band);
  color: var(--muted); }
.mark.good { background: color-mix(in srgb, var(--good) 16%, var(--ground)); color: var(--good); }
.mark.bad { background: color-mix(in srgb, var(--bad) 16%, var(--ground)); color: var(--bad); }
.mark.made { background: color-mix(in srgb, var(--accent) 16%, var(--ground)); color: var(--accent); }
.findings { font-size: 1.02rem; padding-left: 1.1rem; } .findings li { margin: .45rem 0; }
.key { white-space: nowrap; margin-right: .6rem; }
.glance { list-style: none; padding: 0; margin: .9rem 0 1.25rem; columns: 19rem 4; column-gap: 1.5rem; }
.glance li { break-inside: avoid; margin: 0; } .glance a { display: flex; gap: .25rem; align-items: baseline;
  padding: .13rem .2rem; color: var(--ink); text-decoration: none; border-radius: 5px; }
.glance a:hover { background: var(--band); } .glance .words { font-size: .9rem; margin-left: .3rem; }

details { margin: .6rem 0; } details > summary { cursor: pointer; padding: .35rem .1rem; font-size: .95rem;
  color: var(--accent); width: fit-content; } td details { margin: 0; }
td details > summary { padding: 0; color: var(--muted); font-size: .78rem; }
details.bad > summary { color: var(--bad); }
.switch { border: 0; padding: 0; margin: .25rem 0 .75rem; display: flex; flex-wrap: wrap; gap: .2rem 1.1rem;
  align-items: baseline; font-size: .92rem; } .switch legend { float: left; color: var(--muted); padding: 0; }
.jump { display: flex; flex-wrap: wrap; gap: .3rem; max-width: none; } .jump a { padding: .12rem .6rem;
  border: 1px solid var(--rule); border-radius: 99px; text-decoration: none; font-size: .88rem; }
body[data-small="change"] small.gap, body[data-small="gap"] small.change, body[data-small="none"] small.gap,
body[data-small="none"] small.change { display: none; }

th[aria-sort] button { all: unset; cursor: pointer; position: relative; white-space: nowrap; }
th[aria-sort] button:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
th[aria-sort] button::after { content: "↕"; opacity: .4; font-size: .75em; position: absolute; left: 100%;
  bottom: .1em; }
th[aria-sort]:not(.first) button::after { left: auto; right: 100%; margin: 0 .1em; }
th[aria-sort] button:empty { width: 1em; height: 1em; display: inline-block; }
th[aria-sort]:not(.first) button:empty::after { right: 0; }
th[aria-sort] button:hover::after { opacity: 1; }
th[aria-sort="ascending"] button::after { content: "▲"; opacity: 1; color: var(--accent); }
th[aria-sort="descending"] button::after { content: "▼"; opacity: 1; color: var(--accent); }
table.sorted .again span { visibility: visible; }
table.grid td.text { text-align: left; white-space: normal; min-width: 9rem; overflow-wrap: anywhere; }
table.grid { width: auto; min-width: 0; } table.grid thead th { border-bottom: 1px solid var(--strong);
  font-weight: 600;
  color: var(--ink); border-top: 2px solid var(--strong); }
table.grid tbody tr + tr > * { border-top: 1px solid var(--rule); } table.grid tbody:last-of-type { border-bottom: 2px
  solid var(--strong); } table.grid td { padding-inline: .6rem; } table.grid th { padding-inline: .6rem; }
.origin { font-size: .85rem; overflow-wrap: anywhere; }

.rankings { display: flex; flex-wrap: wrap; gap: .5rem 2.5rem; align-items: flex-start; }
.rankings .scroll { max-width: 100%; } table.ranking { min-width: 0; width: auto; }
table.ranking caption { text-align: left; font-weight: 600; font-size: .92rem; padding-bottom: .3rem;
  white-space: normal; }
table.ranking td, table.ranking th { padding: .18rem .4rem; white-space: nowrap; }
table.ranking thead th { border-bottom: 1px solid var(--strong); } table.ranking td:first-child { color: var(--muted); }
table.ranking td.sign { text-align: center; min-width: 1.5rem; border: 1px solid var(--ground); background: var(--band);
  color: var(--muted); cursor: default; }
td.sign.good { background: color-mix(in srgb, var(--good) 16%, var(--ground)) !important;
  color: var(--good) !important; }
td.sign.bad { background: color-mix(in srgb, var(--bad) 13%, var(--ground)) !important; color: var(--bad) !important; }
table.ranking .interval { color: var(--muted); }

.gallery { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(34rem, 100%), 1fr)); gap: 1.5rem 2rem; }
.gallery figure { width: auto; min-width: 0; } .gallery figcaption { font-weight: 400; font-size: .92rem;
  margin-top: .5rem; }
.plate { background: #fff; border: 1px solid var(--rule); border-radius: 8px; padding: .5rem; margin: 0; }
.plate img { display: block; max-width: 100%; height: auto; margin-inline: auto; }
footer { border: 0; } section:last-of-type { min-height: 70vh; }
@media (max-width: 640px) {
  html { scroll-padding-top: 7rem; } main, footer, header.top > * { padding-inline: .85rem; } h1 { font-size: 1.55rem; }
  header.top .brand { display: none; } header.top .face { font-size: .72rem; padding-inline: .5rem; }
  header.top nav { padding-inline: .3rem; }
  .glance { columns: 1; } table.ranking .interval { display: none; } .plate img { max-width: none; width: 40rem; }
  table.grid td.text { min-width: 7.5rem; }
}
@media print {
  @page { size: A4 landscape; margin: 12mm; } html { font-size: 11px; }
  header.top { position: static; }
  header.top nav, #theme, .switch, .jump, th[aria-sort] button::after { display: none; }
  section { break-before: auto; } article, figure, tr { break-inside: avoid-page; } main { max-width: none;
  padding: 0; }
  details > summary { color: var(--muted); } .plate { border: 0; }
}
"""
