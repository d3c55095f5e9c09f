"""The page of claims: what held, what did not, what cannot be told, and the numbers that say so."""

from markupsafe import Markup

from qdit.report.claims.claims import CONSTRUCTED, FAILS, HOLDS, KINDS, NOT_CHECKED, OPEN
from qdit.report.claims.report import SHOWN, Report, evidence_text, summary
from qdit.report.render.fragments import render_text
from qdit.report.render.style import CSS

MARKS = {HOLDS: "✓", FAILS: "✗", OPEN: "?", CONSTRUCTED: "=", NOT_CHECKED: "–"}
CLASSES = {HOLDS: "good", FAILS: "bad"}
CLAIMS_CSS = """
td.claim, td.verdict { text-align: left; white-space: normal; min-width: 15rem; max-width: 30rem; padding-right: 1rem;
  overflow-wrap: anywhere; }
tbody tr.claim > * { border-top: 1px solid var(--rule); } td.verdict b { font-weight: 600; }
q { quotes: "“" "”"; } details summary { cursor: pointer; font-size: .78rem; color: var(--muted); }
thead tr:first-child th.left, thead th.left { text-align: left; }
@media (max-width: 640px) { table.claims thead { display: none; } table.claims tr, table.claims td { display: block; }
  td.claim, td.verdict { max-width: none; min-width: 0; padding: .3rem 0; }
  table.claims tr { padding: .5rem 0; } td.verdict::before { content: attr(data-source) ": "; color: var(--muted); } }
"""

TABLE = """<div class="scroll" tabindex="0" role="region" aria-label="Claims">
<table class="claims">
<thead><tr><th class="left">Claim</th>{% for name in sources %}<th class="left">{{ name }}</th>{% endfor %}</tr></thead>
<tbody>
{% for claim in report.claims.claims %}
<tr class="claim" id="{{ claim.id }}"><td class="claim"><q>{{ claim.words }}</q>
<small>{{ titles[claim.source] }}, {{ claim.place }}</small>
{% if claim.reading %}<small>Read as: {{ claim.reading }}.</small>
{% endif %}
<small>{{ claim.kind }}{% if claim.table %}, {{ claim.table }}{% endif %}; {{ claim.id }}</small></td>
{% for name in sources %}{% set verdict = report.verdicts[name][claim.id] %}
<td class="verdict" data-source="{{ name }}"><b class="{{ classes.get(verdict.word, "muted") }}">\
{{ marks[verdict.word] }} {{ verdict.word }}</b>
{% if verdict.metrics %}<small>by {{ verdict.metrics | join(", ") }}</small>{% endif %}
{% if verdict.why %}<small>{{ verdict.why }}</small>{% endif %}
{% if verdict.evidence %}<small>{{ evidence(verdict.evidence[0]) }}</small>{% endif %}
{% if verdict.evidence | length > 1 %}<details><summary>{{ verdict.evidence | length - 1 }} more</summary>
{% for piece in verdict.evidence[1:shown] %}<small>{{ evidence(piece) }}\
{% if piece.reason and piece.reason != verdict.why %}: {{ piece.reason }}{% endif %}</small>
{% endfor %}
{% if verdict.evidence | length > shown %}<small>and {{ verdict.evidence | length - shown }} others</small>{% endif %}
</details>{% endif %}</td>
{% endfor %}</tr>
{% endfor %}
</tbody>
</table>
</div>
"""

CONTRADICTIONS = """<ul>
{% for entry in report.claims.contradictions %}<li id="{{ entry.id }}"><b>{{ entry.between }}</b>: {{ entry.first }}.
But: {{ entry.second }}.{% if entry.resolution %} Here: {{ entry.resolution }}.{% endif %}
{% if entry.differences %} <span class="muted">No. {{ entry.differences | join(", ") }}.</span>{% endif %}</li>
{% endfor %}</ul>
"""

READING = """{% for kind, meaning in kinds.items() %}<li>{{ kind }}: {{ meaning }}.</li>
{% endfor %}
<li>On a run, “holds” and “does not hold” mean that the 95 % interval of the difference excludes 0 (paired bootstrap
over images, each comparison by itself: of twenty that are equal, one will look different). With 0 in it the verdict is
“cannot be told”; where a run has no interval the numbers alone decide, and the verdict says so.</li>
{% for remark in report.remarks %}<li>{{ remark }}.</li>
{% endfor %}
<li>“=” (by construction): the cells were used to choose the salient form of the weights.</li>
<li>Comparisons stand in order of closeness. Differences are left minus right.</li>
"""

TEMPLATE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>What the papers claim</title>
<style>{{ css }}</style>
</head>
<body>
<header>
<h1>What the papers claim, and what the numbers say</h1>
<p class="face">{{ report.face }}</p>
{% for line in summary %}<p class="summary">{{ line }}</p>
{% endfor %}
<p>“{{ sources[0] }}” are the papers’ own numbers: do they support the words?
{% if report.miniature %}The profile {{ report.profile }} measures other models on other data: it can show whether a
method beats another one there, never whether a number of the paper is right. Rankings use its paired metrics.
{% endif %}</p>
</header>
<main>
{{ table }}
<h2>Contradictions</h2>
<p>Statements that do not fit each other. Numbers are those of docs/differences.md, which says what this suite does.</p>
{{ contradictions }}
</main>
<footer>
<h2>How to read this</h2>
<ul>
{{ reading }}</ul>
<p class="face">{{ report.face }}</p>
</footer>
</body>
</html>
"""


def claims_page(report: Report) -> str:
    """The page as one file without anything from outside."""
    return render_text(
        TEMPLATE,
        report=report,
        css=Markup(CSS + CLAIMS_CSS),
        summary=summary(report),
        sources=list(report.verdicts),
        table=claims_table(report),
        contradictions=contradictions_list(report),
        reading=reading_items(report),
    )


def claims_table(report: Report) -> Markup:
    """Every claim with the verdict of each source and the numbers that decide."""
    return Markup(
        render_text(
            TABLE,
            report=report,
            sources=list(report.verdicts),
            titles=report.claims.documents,
            marks=MARKS,
            classes=CLASSES,
            shown=SHOWN,
            evidence=evidence_text,
        )
    )


def contradictions_list(report: Report) -> Markup:
    """Statements that do not fit each other."""
    return Markup(render_text(CONTRADICTIONS, report=report))


def reading_items(report: Report) -> Markup:
    """Items of a list: what kinds and verdicts mean."""
    return Markup(render_text(READING, report=report, kinds=KINDS))
