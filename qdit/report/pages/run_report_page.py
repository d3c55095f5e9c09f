"""The template of the report of a run; index.py fills it."""

from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from qdit.report.claims.report import ORDER, PRINTED
from qdit.report.pages.claims_page import CLAIMS_CSS, CLASSES, MARKS, claims_table, contradictions_list, reading_items
from qdit.report.pages.pairs import MEANINGS
from qdit.report.pages.run_report_style import INDEX_CSS
from qdit.report.render.fragments import SHEETS_ABOUT
from qdit.report.render.script import SCRIPT
from qdit.report.render.style import CSS

if TYPE_CHECKING:
    from qdit.report.pages.run_report_data import Index

SECTIONS = {
    "summary": "Summary",
    "tables": "Tables",
    "uncertainty": "Chance",
    "figures": "Figures",
    "samples": "Samples",
    "kernels": "Kernels",
    "search": "Search",
    "quality": "Controls",
    "contradictions": "Contradictions",
    "provenance": "Provenance",
}

TABLE = """{% macro table_part(part, folded=false) %}
<article id="table-{{ part.table.name }}">
<h3>{{ part.table.title }}</h3>
{% for sentence in part.table.summary %}<p>{{ sentence }}</p>
{% endfor %}
{% if part.table.paper_protocol %}<p class="muted">paper: {{ part.table.paper_protocol }}</p>
{% endif %}
{% if part.warnings %}<details class="bad"><summary>{{ part.warnings | length }} missing or doubtful</summary><ul>
{% for note in part.warnings %}<li>{{ note }}</li>
{% endfor %}</ul></details>
{% endif %}
{% if folded %}<details><summary>All {{ part.table.rows | length }} rows</summary>
{{ part.rows }}
</details>
{% else %}{{ part.rows }}
{% endif %}
<details><summary>Notes, and how it was measured</summary>
{{ part.small_print }}
</details>
{% if part.panels %}
<details><summary>The damage of each method, drawn</summary>
{{ part.panels }}
</details>
{% endif %}
</article>
{% endmacro %}
"""

SUMMARY = """<section id="summary">
<h1>What held, and what did not</h1>
<p class="lead">Every number that Q-DiT and its companions print, beside what this run measured:
profile <b>{{ report.profile }}</b>.</p>
<div class="cards">
{% for name, counts in counts.items() %}
<div class="card"><h2>{{ "The papers’ own numbers" if name == printed else "The runs of profile " ~ name }}</h2>
<div class="bar" aria-hidden="true">{% for word, count in counts.items() %}<i class="{{ looks[word] }}"\
 style="flex-grow:{{ count }}"></i>{% endfor %}</div>
<ul class="counts">{% for word, count in counts.items() %}<li><span class="mark {{ looks[word] }}">{{ marks[word] }}\
</span><b>{{ count }}</b> {{ plurals.get(word, word) if count > 1 else word }}</li>{% endfor %}</ul></div>
{% endfor %}
</div>
<ul class="findings">
{% for finding in index.findings %}<li>{{ finding.text }}{% for claim in finding.claims %} <a href="#{{ claim.id }}"\
 title="{{ claim.reading or claim.words }}">{{ claim.id | replace("-", " ") }}</a>{{ "," if not loop.last else "." }}\
{% endfor %}</li>
{% endfor %}</ul>
{% if index.least %}<h2>Which method does the least damage</h2>
<p class="muted">By the distance to the full-precision samples (FD-FP), natural form, at equal bits. In how many
settings a method comes first, and in how many of those by more than chance against every other one.</p>
{{ index.least }}
{% endif %}
{% if index.choice_page %}<p>Which of two samples is better? <a href="{{ index.choice_page }}">Judge for yourself</a>,
without knowing which method made which.</p>
{% endif %}
<h2>All claims at a glance</h2>
<p class="muted">First mark: on the printed numbers. {% for name in sources[1:] %}
{{ "Second" if loop.first else "Third" }} mark: on the runs of {{ name }}.
{% endfor %}{% for word, mark in marks.items() %}<span class="key"><span\
 class="mark {{ looks[word] }}">{{ mark }}</span> {{ word }}</span> {% endfor %}</p>
<ol class="glance">
{% for claim in report.claims.claims %}<li><a href="#{{ claim.id }}" title="{{ claim.reading or claim.words }}">\
{% for name in sources %}{% set word = report.verdicts[name][claim.id].word %}<span class="mark {{ looks[word] }}"\
 title="{{ name }}: {{ word }}"><span aria-hidden="true">{{ marks[word] }}</span><span class="unseen">{{ name }}:\
 {{ word }}. </span></span>{% endfor %}<span class="words">{{ claim.id | replace("-", " ") }}</span></a></li>
{% endfor %}</ol>
<details id="claims"><summary>Every claim in its own words, with the numbers that decide</summary>
{{ claims }}
<h4>How to read this</h4>
<ul>{{ reading }}
<li>On a run, “holds” and “does not hold” mean that the 95 % interval of the difference excludes 0 (paired bootstrap
over images, each comparison by itself). With 0 in it the verdict is “cannot be told”.</li>
<li>On a miniature, rankings use its paired metrics; numbers of the papers cannot be told from it.</li>
{% for remark in report.remarks %}<li>{{ remark }}.</li>
{% endfor %}</ul>
</details>
</section>
"""

TABLES = """<section id="tables">
<h2>Tables</h2>
<fieldset class="switch"><legend>Small below a value</legend>
<label><input type="radio" name="small" value="change" checked> difference to full precision (FP)</label>
<label><input type="radio" name="small" value="gap"> ours − paper</label>
<label><input type="radio" name="small" value="none"> nothing</label></fieldset>
<p class="muted"><b>Bold</b>: the best of our quantized rows at equal bits in a block. <b>≈</b>: not the best, but no
further from it than chance explains (the 95 % interval of the paired difference includes 0). “–”: no number. A heading
sorts the rows of each block.</p>
<p class="jump">{% for part in tables %}<a href="#table-{{ part.table.name }}">\
{{ part.table.name | replace("_", " ") }}</a>{% endfor %}<a href="#table-leaderboard">leaderboard</a></p>
{% for part in tables %}{{ table_part(part) }}{% endfor %}
<article id="table-leaderboard"><h3>{{ index.board.table.title }}</h3>
<details><summary>{{ index.board.table.rows | length }} rows, ranked by FD-FP with intervals</summary>
{{ index.board.rows }}
{{ index.board.small_print }}
</details></article>
</section>
<section id="uncertainty">
<h2>Is a rank more than chance?</h2>
<p class="muted">FD-FP of the methods of a block at equal bits, from the least damage to the most. All rows share their
noise, so differences are paired: a mark says whether the row is lower than the row of that number by more than chance
(95 % interval, bootstrap over images). {% for sign, meaning in meanings.items() %}<b>{{ sign }}</b> {{ meaning }}{{\
 "; " if not loop.last else "." }}{% endfor %}</p>
{% if not index.rankings %}<p>No two measured rows at equal bits: nothing to rank.</p>{% endif %}
{% for title, rankings in index.rankings.items() %}
<details{% if loop.first %} open{% endif %}><summary>{{ title }}: {{ rankings | sum(attribute="certain") }} of
{{ rankings | sum(attribute="pairs") }} pairs are certain</summary>
<div class="rankings">
{% for ranking in rankings %}
<div class="scroll" tabindex="0" role="region" aria-label="{{ ranking.title }}">
<table class="ranking"><caption>{{ ranking.title }}</caption>
<thead><tr><th></th><th class="first">Method</th><th>Rank</th><th>FD-FP</th><th class="interval">95 %</th>
{%- for entry in ranking.ranked %}<th>{{ loop.index }}</th>{% endfor %}</tr></thead>
<tbody>{% for entry in ranking.ranked %}<tr><td>{{ loop.index }}</td><th scope="row">{{ entry.name }}</th>
<td>{{ entry.rank }}</td><td>{{ entry.value }}</td><td class="interval">{{ entry.interval }}</td>
{%- for mark in entry.marks %}<td class="sign {{ signs[mark.sign] }}" title="{{ mark.about }}">{{ mark.sign }}</td>\
{% endfor %}</tr>
{% endfor %}</tbody></table></div>
{% endfor %}
</div></details>
{% endfor %}
</section>
"""

PICTURES = """<section id="figures">
<h2>Figures</h2>
{% if not index.pictures %}<p>No figures were drawn for this run: there is no figures/figures.json beside this page.</p>
{% endif %}
{% for group, pictures in index.pictures %}
<h3>{{ groups.get(group, group) }}</h3>
<div class="gallery">
{% for picture in pictures %}<figure id="figure-{{ picture.name }}">
{% if picture.uri %}<div class="scroll plate" tabindex="0" role="region" aria-label="{{ picture.title }}">\
<img src="{{ picture.uri }}" alt="{{ picture.alt }}"></div>
{% else %}<p class="muted">Too large for a page that can be mailed: see {{ picture.file }}.</p>
{% endif %}
<figcaption><b>{{ picture.title }}</b> {{ picture.caption }}</figcaption></figure>
{% endfor %}</div>
{% endfor %}
</section>
<section id="samples">
<h2>Samples, image by image</h2>
<p class="muted">{{ sheets_about }}</p>
{% if not index.sheets %}<p>No table of this profile shows samples.</p>{% endif %}
{% for sheets in index.sheets %}
<details{% if loop.first %} open{% endif %}><summary>{{ sheets.title }}</summary>
{{ sheets.html }}
{% if sheets.left_out %}<p class="muted">{{ sheets.left_out }} more would make this page too large to mail: see
{{ sheets.file }}.</p>{% endif %}
</details>
{% endfor %}
</section>
"""

REST = """<section id="kernels">
<h2>Kernels and benchmarks</h2>
<p class="muted">Measured once, by command, on the machine named; nothing else on this page depends on them.</p>
{% if not index.benches %}<p>No benchmark was recorded (qdit bench, docs/benchmarks.md).</p>{% endif %}
{% for bench, goals, measured in index.benches %}
<article><h3>{{ bench.title }}</h3>
{% if bench.goals %}<details{% if loop.first %} open{% endif %}><summary>{{ bench.met }} of \
{{ bench.goals.rows | length }} goals are met</summary>
{{ goals }}
</details>{% endif %}
{% if measured %}<details{% if bench.measured.rows | length < 16 %} open{% endif %}><summary>Measured</summary>
{{ measured }}
</details>{% endif %}
<p class="muted origin">{{ bench.origin }}</p></article>
{% endfor %}
</section>
<section id="search">
<h2>Search of group sizes</h2>
{% if index.study %}<article><h3>The study: several seeds</h3>
{% for sentence in index.study[0] %}<p class="muted">{{ sentence }}</p>{% endfor %}
{{ index.study[1] }}</article>
{% else %}<p class="muted">The study over several seeds was not made (snakemake --cores all search_study).</p>
{% endif %}
{% for part in searches %}
<article><p>{{ part.table.title }}: <a href="#table-{{ part.table.name }}">the rows</a>.</p>
{{ part.drawings }}</article>
{% else %}<p>This profile has no table of searches.</p>
{% endfor %}
</section>
<section id="quality">
<h2>Quality control</h2>
{% for part in controls %}{{ table_part(part, folded=true) }}{% else %}<p>This profile has no controls.</p>{% endfor %}
</section>
<section id="contradictions">
<h2>Where papers and code contradict each other</h2>
<p class="muted">Statements that do not fit: two places of a paper, two papers, or a paper and its released code.
Numbers are those of docs/differences.md, which says what this suite does.</p>
{{ contradictions }}
</section>
<section id="provenance">
<h2>Provenance</h2>
<dl>{% for name, text in index.origins.facts %}<dt>{{ name }}</dt><dd>{{ text }}</dd>
{% endfor %}</dl>
<details><summary>Every run, and the command that explains it</summary>
{{ index.origin_rows }}
</details>
</section>
"""

TEMPLATE = (
    TABLE
    + """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>What held, and what did not: profile {{ report.profile }}</title>
<style>{{ css }}</style>
</head>
<body data-small="change">
<a class="skip" href="#summary">To the summary</a>
<header class="top">
<div class="row"><b class="brand">Q-DiT, reproduced</b><span class="face">{{ report.face }}</span>
<button type="button" id="theme" hidden></button></div>
<nav aria-label="Sections">{% for id, name in sections.items() %}<a href="#{{ id }}">{{ name }}</a>{% endfor %}</nav>
</header>
<main>
"""
    + SUMMARY
    + TABLES
    + PICTURES
    + REST
    + """</main>
<footer><p class="face">{{ report.face }}</p></footer>
<script>{{ script }}</script>
</body>
</html>
"""
)

GROUPS = {
    "data": "Weights and activations",
    "methods": "What the methods do",
    "samples": "Samples side by side",
    "search": "Searches",
}
"""Groups of figures (`qdit.report.figures.plan`) → headings."""

PLURALS = {"holds": "hold", "does not hold": "do not hold"}
LOOKS = {"holds": "good", "does not hold": "bad", "cannot be told": "open", "by construction": "made"}
SIGNS = {"<": "good", ">": "bad", "≈": "open"}


def context(index: "Index") -> dict[str, Any]:
    """What the template needs."""
    report = index.report
    counts = {
        name: {word: count for word in ORDER if (count := sum(v.word == word for v in verdicts.values()))}
        for name, verdicts in report.verdicts.items()
    }
    return {
        "index": index,
        "report": report,
        "css": Markup(CSS + CLAIMS_CSS + INDEX_CSS),
        "script": Markup(SCRIPT),
        "sections": SECTIONS,
        "printed": PRINTED,
        "sources": list(report.verdicts),
        "counts": counts,
        "groups": GROUPS,
        "plurals": PLURALS,
        "marks": MARKS,
        "classes": CLASSES,
        "looks": {word: LOOKS.get(word, "none") for word in ORDER},
        "signs": {sign: SIGNS.get(sign, "none") for sign in (*MEANINGS, "·")},
        "meanings": MEANINGS,
        "claims": claims_table(report),
        "reading": reading_items(report),
        "contradictions": contradictions_list(report),
        "tables": index.but("qc"),
        "controls": index.of("qc"),
        "searches": index.of("table6", "transfer"),
        "sheets_about": SHEETS_ABOUT,
    }
