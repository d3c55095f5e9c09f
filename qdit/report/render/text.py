"""Write a table as CSV, Markdown and LaTeX; equal tables give equal bytes."""

import re

from tabulate import tabulate

from qdit.report.data.rows import Table
from qdit.report.render.display import (
    FITTED_MARK,
    TIED_MARK,
    Cell,
    Column,
    Line,
    columns,
    has_ranks,
    headings,
    lead,
    lines,
    rank_text,
    status_column,
)
from qdit.report.render.headline import Headline, headline, progress_text
from qdit.report.render.notes import notes

TEX_SPECIAL = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "↓": r"$\downarrow$",
    "↑": r"$\uparrow$",
    "†": r"\textsuperscript{\textdagger}",
    "×": r"$\times$",
    "·": r"$\cdot$",
    "−": r"$-$",
    "±": r"$\pm$",
    "–": "--",
    "’": "'",
    "“": "``",
    "”": "''",
    "⁶": r"$^{6}$",
    "÷": r"$\div$",
    "≤": r"$\leq$",
    "≈": r"$\approx$",
    "✓": r"$\surd$",
    "✗": r"$\times$",
}


TEX_SIGN = {"": "", "+": "+", "-": "-", "±": r"\pm "}


def csv_text(table: Table) -> str:
    """Write a table as CSV. Numbers have all digits; an unknown cell is empty."""
    return str(table.frame.to_csv(index=False, lineterminator="\n"))


def row_name(line: Line) -> str:
    """Write the name of a row: the method, its group sizes, and a mark if the row is fitted."""
    mark = f" {FITTED_MARK}" if line.fitted else ""
    return line.name + (f", {line.detail}" if line.detail else "") + mark


def markdown_text(table: Table, finding: Headline | None = None) -> str:
    """Write a table as GitHub-flavoured Markdown: face, finding, one table per block, notes and provenance."""
    small, finding, ranked = notes(table), finding or headline(table), has_ranks(table)
    face = f"**{markdown(table.face)}**"
    text = [f"# {markdown(table.title)}", "", face, "", f"**{markdown(finding.text)}**", ""]
    facts = [sentence for sentence in (*finding.because, progress_text(table)) if sentence]
    if facts:
        text += [*(f"- {markdown(sentence)}" for sentence in facts), ""]
    for block in table.blocks:
        text += [f"## {markdown(block.title)}", "", markdown(block.about) + ".", ""]
        for _, portion in table.portions:
            shown = columns(portion)
            first = [*lead(portion), "Method", *(["Rank"] if ranked else [])]
            text += [_markdown_block(lines(portion, block, shown), shown, first, ranked=ranked), ""]
    text += ["## Notes", "", *(f"- {markdown(note)}" for note in small.reading), ""]
    if small.warnings:
        text += ["## Missing or doubtful", "", *(f"- {markdown(note)}" for note in small.warnings), ""]
    text += ["## How it was measured", "", *(f"- {markdown(f'{name}: {what}')}" for name, what in small.measured), ""]
    return "\n".join([*text, face, ""])


def _markdown_block(block: list[Line], shown: list[Column], first: list[str], *, ranked: bool) -> str:
    body = []
    for line in block:
        cells = [_markdown_cell(cell) for cell in line.cells]
        if line.status:
            cells[status_column(shown)] = f"*{markdown(line.status)}*"
        rank = [rank_text(line.standing)] if ranked else []
        body.append([*line.lead, markdown(row_name(line)), *rank, *cells])
    align = ["left"] * len(first) + ["right"] * len(shown)
    header = first + [markdown(f"{column.heading} {column.under}".strip()) for column in shown]
    return str(tabulate(body, header, tablefmt="pipe", disable_numparse=True, colalign=align))


def _markdown_cell(cell: Cell) -> str:
    tied = f"{TIED_MARK} " if cell.tied else ""
    value = f"**{cell.text}**" if cell.best else tied + markdown(cell.text)
    return f"{value} ({cell.change})" if cell.change else value


def markdown(text: str) -> str:
    """Escape characters that Markdown would read as markup."""
    return re.sub(r"([\\`*_|<>\[\]])", r"\\\1", text)


def tex(text: str) -> str:
    """Escape characters that LaTeX would interpret, and replace symbols that pdflatex does not know."""
    return "".join(TEX_SPECIAL.get(character, character) for character in text)


def tex_number(text: str) -> str:
    """Write a formatted number in LaTeX's math mode: −0.05, 9.8·10⁻⁴. Any other text is escaped."""
    match = re.fullmatch(r"([+±-]?)(\d+\.?\d*)(?:e(-?\d+))?", text)
    if match is None:
        return tex(text)
    sign, mantissa, exponent = match.groups()
    power = rf"\cdot10^{{{exponent}}}" if exponent is not None else ""
    return f"${TEX_SIGN[sign]}{mantissa}{power}$"


def latex_text(table: Table) -> str:
    """Write a table as a LaTeX float with booktabs rules; the profile's face stands in the caption and at the end."""
    small = notes(table)
    face = rf"\textbf{{{tex(table.face)}}}."
    text = [
        r"% needs \usepackage{booktabs,graphicx}",
        r"\begin{table*}[t]",
        r"\centering",
        rf"\caption{{{tex(table.title)}. {face}}}",
        rf"\label{{tab:{table.name}}}",
    ]
    for number, (_, portion) in enumerate(table.portions):
        text += [r"\par\medskip"] if number else []
        text += _latex_tabular(portion)
    text += [r"\begin{flushleft}\footnotesize"]
    text += [tex(note) + r"\\" for note in (*table.summary, *small.reading, *small.warnings)]
    text += [tex(f"{name}: {what}.") + r"\\" for name, what in small.measured]
    return "\n".join([*text, face, r"\end{flushleft}", r"\end{table*}", ""])


def _latex_tabular(table: Table) -> list[str]:
    """The numbers, as wide as the page."""
    shown, names = columns(table), [*lead(table), "Method"]
    first = len(names)
    text = [
        r"\resizebox{\textwidth}{!}{%",
        rf"\begin{{tabular}}{{{'l' * first}{'r' * len(shown)}}}",
        r"\toprule",
        *_latex_header(shown, names),
    ]
    for block in table.blocks:
        title = rf"\textbf{{{tex(block.title)}}} ({tex(block.about)})"
        text += [r"\midrule", rf"\multicolumn{{{first + len(shown)}}}{{l}}{{{title}}} \\"]
        text += [_latex_line(line, shown) for line in lines(table, block, shown)]
    return [*text, r"\bottomrule", r"\end{tabular}}"]


def _latex_header(shown: list[Column], first: list[str]) -> list[str]:
    groups, rules, start = [], [], len(first) + 1
    for heading, count in headings(shown):
        groups.append(rf"\multicolumn{{{count}}}{{c}}{{{tex(heading)}}}")
        rules.append(rf"\cmidrule(lr){{{start}-{start + count - 1}}}")
        start += count
    names = [*first, *(column.under for column in shown)]
    return ["& " * len(first) + " & ".join(groups) + r" \\", " ".join(rules), " & ".join(names) + r" \\"]


def _latex_line(line: Line, shown: list[Column]) -> str:
    cells = []
    for cell in line.cells:
        number = tex_number(cell.text)
        strong = rf"\boldmath{number}" if number.startswith("$") else number
        bold = rf"\textbf{{{strong}}}" if cell.best else (tex(f"{TIED_MARK} ") if cell.tied else "") + number
        cells.append(bold + (rf" {{\scriptsize({tex_number(cell.change)})}}" if cell.change else ""))
    if line.status:
        cells[status_column(shown)] = rf"\textit{{{tex(line.status)}}}"
    return " & ".join([*line.lead, tex(row_name(line)), *cells]) + r" \\"
