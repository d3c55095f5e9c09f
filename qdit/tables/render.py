"""A table as CSV, Markdown and LaTeX; equal tables give equal bytes. (HTML is in page.py.)"""

import re

from tabulate import tabulate

from qdit.tables.display import FITTED_MARK, OURS, Cell, Column, Line, columns, headings, lines
from qdit.tables.notes import notes
from qdit.tables.rows import Table

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
}


TEX_SIGN = {"": "", "+": "+", "-": "-", "±": r"\pm "}


def csv_text(table: Table) -> str:
    """Every cell with full precision, unknown ones empty."""
    return str(table.frame.to_csv(index=False, lineterminator="\n"))


def row_name(line: Line) -> str:
    """Method with its group sizes and the mark of fitted cells."""
    mark = f" {FITTED_MARK}" if line.fitted else ""
    return line.name + (f", {line.detail}" if line.detail else "") + mark


def fid_column(shown: list[Column]) -> int:
    """Index of the column in which a row that was not measured says so: our FID, the first metric."""
    return next(n for n, column in enumerate(shown) if column.metric == "fid" and column.source == OURS)


def markdown_text(table: Table) -> str:
    """Face, one table per block, notes and provenance as GitHub-flavoured Markdown."""
    shown, small = columns(table), notes(table)
    face = f"**{_markdown(table.face)}**"
    text = [f"# {_markdown(table.title)}", "", face, ""]
    for block in table.blocks:
        text += [f"## {_markdown(block.title)}", "", _markdown(block.about) + ".", ""]
        text += [_markdown_block(lines(block, shown), shown, shows_bits=table.shows_bits), ""]
    text += ["## Notes", "", *(f"- {_markdown(note)}" for note in small.reading), ""]
    if small.warnings:
        text += ["## Missing or doubtful", "", *(f"- {_markdown(note)}" for note in small.warnings), ""]
    text += ["## How it was measured", "", *(f"- {_markdown(f'{name}: {what}')}" for name, what in small.measured), ""]
    return "\n".join([*text, face, ""])


def _markdown_block(block: list[Line], shown: list[Column], *, shows_bits: bool) -> str:
    header = (["Bits"] if shows_bits else []) + ["Method"]
    body = []
    for line in block:
        cells = [_markdown_cell(cell) for cell in line.cells]
        if line.status:
            cells[fid_column(shown)] = f"*{_markdown(line.status)}*"
        body.append(([line.bits] if shows_bits else []) + [_markdown(row_name(line)), *cells])
    align = ["left"] * len(header) + ["right"] * len(shown)
    header += [_markdown(f"{column.heading} {column.source}") for column in shown]
    return str(tabulate(body, header, tablefmt="pipe", disable_numparse=True, colalign=align))


def _markdown_cell(cell: Cell) -> str:
    value = f"**{cell.text}**" if cell.best else cell.text
    return f"{value} ({cell.change})" if cell.change else value


def _markdown(text: str) -> str:
    """Escape what Markdown would read as markup."""
    return re.sub(r"([\\`*_|<>\[\]])", r"\\\1", text)


def tex(text: str) -> str:
    """Escape what LaTeX would read as markup, and spell out the symbols that plain pdflatex does not know."""
    return "".join(TEX_SPECIAL.get(character, character) for character in text)


def tex_number(text: str) -> str:
    """A formatted number in math mode: −0.05, 9.8·10⁻⁴; anything else is escaped text."""
    found = re.fullmatch(r"([+±-]?)(\d+\.?\d*)(?:e(-?\d+))?", text)
    if found is None:
        return tex(text)
    sign, mantissa, exponent = found.groups()
    power = rf"\cdot10^{{{exponent}}}" if exponent is not None else ""
    return f"${TEX_SIGN[sign]}{mantissa}{power}$"


def latex_text(table: Table) -> str:
    """A booktabs float; the face stands in its caption and at its end."""
    shown, small = columns(table), notes(table)
    first = 2 if table.shows_bits else 1
    face = rf"\textbf{{{tex(table.face)}}}."
    text = [
        r"% needs \usepackage{booktabs,graphicx}",
        r"\begin{table*}[t]",
        r"\centering",
        rf"\caption{{{tex(table.title)}. {face}}}",
        rf"\label{{tab:{table.name}}}",
        r"\resizebox{\textwidth}{!}{%",
        rf"\begin{{tabular}}{{{'l' * first}{'r' * len(shown)}}}",
        r"\toprule",
        *_latex_header(shown, first, shows_bits=table.shows_bits),
    ]
    for block in table.blocks:
        title = rf"\textbf{{{tex(block.title)}}} ({tex(block.about)})"
        text += [r"\midrule", rf"\multicolumn{{{first + len(shown)}}}{{l}}{{{title}}} \\"]
        text += [_latex_line(line, shown, shows_bits=table.shows_bits) for line in lines(block, shown)]
    text += [r"\bottomrule", r"\end{tabular}}", r"\begin{flushleft}\footnotesize"]
    text += [tex(note) + r"\\" for note in (*small.reading, *small.warnings)]
    text += [tex(f"{name}: {what}.") + r"\\" for name, what in small.measured]
    return "\n".join([*text, face, r"\end{flushleft}", r"\end{table*}", ""])


def _latex_header(shown: list[Column], first: int, *, shows_bits: bool) -> list[str]:
    groups, rules, start = [], [], first + 1
    for heading, count in headings(shown):
        groups.append(rf"\multicolumn{{{count}}}{{c}}{{{tex(heading)}}}")
        rules.append(rf"\cmidrule(lr){{{start}-{start + count - 1}}}")
        start += count
    names = (["Bits"] if shows_bits else []) + ["Method", *(column.source for column in shown)]
    return ["& " * first + " & ".join(groups) + r" \\", " ".join(rules), " & ".join(names) + r" \\"]


def _latex_line(line: Line, shown: list[Column], *, shows_bits: bool) -> str:
    cells = []
    for cell in line.cells:
        number = tex_number(cell.text)
        bold = rf"\textbf{{\boldmath{number}}}" if cell.best else number
        cells.append(bold + (rf" {{\scriptsize({tex_number(cell.change)})}}" if cell.change else ""))
    if line.status:
        cells[fid_column(shown)] = rf"\textit{{{tex(line.status)}}}"
    names = ([line.bits] if shows_bits else []) + [tex(row_name(line))]
    return " & ".join([*names, *cells]) + r" \\"
