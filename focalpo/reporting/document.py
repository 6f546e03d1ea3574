"""The report's content outside the page: as Markdown, and as LaTeX with booktabs."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from focalpo.reporting.blocks import Block, caveats
from focalpo.reporting.cells import Cell, Results
from focalpo.reporting.diagnostics import NOTE
from focalpo.reporting.finding import LEVEL, finding, of_rows, short_label
from focalpo.reporting.judges import TITLES, JudgeStatistics
from focalpo.reporting.page import Content
from focalpo.reporting.tables import as_markdown, latex_tables
from focalpo.reporting.tex import tabular, tex
from focalpo.stages.metrics import NONE

FEW_ROWS = 3
"""So many rows need no sentence about all of them."""


def as_markdown_report(content: Content) -> str:
    """The whole report in Markdown; its figures are files beside it."""
    blocks = [f"# {content.results.title}", f"**{content.finding}**", content.summary]
    blocks += ["## Table", as_markdown(content.results).strip(), "## Figures"]
    blocks += [f"### {p.title}\n\n![{p.title}](figures/{p.name}.png)\n\n{p.caption}" for p in content.pictures]
    if any(content.judges.values()):
        blocks.append("## Judge statistics")
    for setting, found in content.judges.items():
        if not found:
            continue
        lines = ["| " + " | ".join(cells) + " |" for cells in _judge_rows(content, setting, found)]
        rule = "|" + " --- |" * (len(TITLES) + 1)
        blocks.append("\n".join([content.results.settings[setting], "", lines[0], rule, *lines[1:]]))
    if content.diagnostics:
        blocks += ["## Diagnostics of training", NOTE, *(_markdown(block) for block in content.diagnostics)]
    if content.anchors.body:
        blocks += [f"## {content.anchors.title.capitalize()}", _markdown(replace(content.anchors, title=""))]
    blocks.append("## Reproduce one cell")
    for setting, origins in content.origins.items():
        for row, origin in origins.items():
            blocks.append(f"{content.results.settings[setting]}, {row}: `{origin.commands[-1]}`")
    return "\n\n".join(blocks) + "\n"


def as_latex_report(content: Content) -> str:
    """The whole report as a LaTeX document: `pdflatex report.tex` in its folder. For a paper there is table1.tex."""
    results = content.results
    blocks = [f"\\section*{{{tex(results.title)}}}", tex(content.finding), tex(content.summary)]
    if results.warnings:
        items = "\n".join(f"\\item {tex(line)}" for line in results.warnings)
        blocks.append(f"\\begin{{itemize}}\n{items}\n\\end{{itemize}}")
    blocks += [*map(tex, results.who_judged), *map(_fitted, latex_tables(results))]
    for picture in content.pictures:
        image = (
            f"\\includegraphics[width=\\linewidth,height=.8\\textheight,keepaspectratio]{{figures/{picture.name}.png}}"
        )
        blocks.append(f"\\begin{{center}}\n{image}\n\\end{{center}}\n{tex(f'{picture.title}. {picture.caption}')}")
    for setting, found in content.judges.items():
        if found:
            title = f"Judge statistics, {results.settings[setting]}"
            blocks.append(_titled(title, "l" + "r" * len(TITLES), _judge_rows(content, setting, found)))
    for block in content.diagnostics:
        columns = "l" + "r" * len(block.header)
        blocks.append(_titled(f"Diagnostics of training, {block.title}", columns, [["", *block.header], *block.body]))
    blocks += [tex(NOTE)] if content.diagnostics else []
    if content.anchors.body:
        blocks.append(
            _titled(
                content.anchors.title.capitalize(), "lllrrl", [["", *content.anchors.header], *content.anchors.body]
            )
        )
    blocks += [tex(note) for note in results.notes]
    return "\n\n".join([PREAMBLE, *blocks, "\\end{document}"]) + "\n"


PREAMBLE = r"""\documentclass[10pt]{article}
\usepackage[a4paper,margin=2cm]{geometry}
\usepackage{booktabs,graphicx}
\setlength{\parindent}{0pt}\setlength{\parskip}{1ex}\setlength{\emergencystretch}{3em}\sloppy
\newsavebox{\tablebox}
\begin{document}"""


def _fitted(table: str) -> str:
    """A `tabular` on a line of its own, shrunk to the width of the page where it is wider."""
    width = "\\ifdim\\wd\\tablebox>\\linewidth\\linewidth\\else\\wd\\tablebox\\fi"
    box = f"\\begin{{lrbox}}{{\\tablebox}}\n{table}\n\\end{{lrbox}}"
    return f"{box}\n\\begin{{center}}\\resizebox{{{width}}}{{!}}{{\\usebox{{\\tablebox}}}}\\end{{center}}"


def _titled(title: str, columns: str, lines: Sequence[Sequence[str]]) -> str:
    head, *body = ([tex(cell) for cell in line] for line in lines)
    return f"{tex(title)}\n\n{_fitted(tabular(columns, head, body))}"


def _judge_rows(content: Content, setting: str, found: Mapping[str, JudgeStatistics]) -> Sequence[list[str]]:
    labels = {row.name: row.label for row in content.results.rows[setting]}
    body = [[labels[row], *(_number(getattr(s, name)) for name in TITLES)] for row, s in found.items()]
    return [["", *TITLES.values()], *body]


def _markdown(block: Block) -> str:
    head, *lines = ("| " + " | ".join(cells) + " |" for cells in [["", *block.header], *block.body])
    above = [block.title, ""] if block.title else []
    return "\n".join([*above, head, "|" + " --- |" * (len(block.header) + 1), *lines])


def _number(value: float) -> str:
    return NONE if math.isnan(value) else f"{value:.4g}"


def as_summary(results: Results) -> str:
    """The table in a dozen lines of Markdown, settings side by side: values with half-widths of their 95% intervals.

    A star marks a difference to the compared row with p < .05 after Holm's correction.
    """
    if len(results.rows) > 2:
        return _differences_summary(results) if _rows(results) > FEW_ROWS else _long_summary(results)
    places = [(setting, column) for setting in results.rows for column in results.columns]
    one = len(results.rows) == 1
    titles = [column.title if one else f"{short_label(results, setting)}, {column.title}" for setting, column in places]
    by_name = {(setting, row.name): row for setting, rows in results.rows.items() for row in rows}
    labels = {row.name: row.label for rows in results.rows.values() for row in rows}
    lines = [[short_label(results, places[0][0]) if one else "", *titles], ["---"] + ["---:"] * len(places)]
    for name, label in labels.items():
        found = [by_name.get((setting, name)) for setting, _ in places]
        cells = [row.cells.get(column.name) if row else None for row, (_, column) in zip(found, places, strict=True)]
        lines.append([label, *map(_summary_cell, cells)])
    return _summary_text(lines, results)


def _findings(results: Results) -> list[str]:
    """The finding and, where there are more than a few rows, one of all."""
    first, *more = dict.fromkeys([finding(results), *([of_rows(results)] if _rows(results) > FEW_ROWS else [])])
    return [f"**{first}**", *more]


def _rows(results: Results) -> int:
    return max(map(len, results.rows.values()), default=0)


def _long_summary(results: Results) -> str:
    """The same for many settings: one line per setting and row."""
    columns = results.columns
    lines = [["", "", *(column.title for column in columns)], ["---", "---"] + ["---:"] * len(columns)]
    for setting, rows in results.rows.items():
        for row in rows:
            cells = [_summary_cell(row.cells.get(column.name)) for column in columns]
            lines.append([results.settings[setting], row.label, *cells])
    return _summary_text(lines, results)


def _differences_summary(results: Results) -> str:
    """For many settings and many rows: one table per column, of differences to the compared row."""
    by_name = {(setting, row.name): row for setting, rows in results.rows.items() for row in rows}
    labels = {row.name: row.label for rows in results.rows.values() for row in rows}
    names = [results.compare_with, *(name for name in labels if name != results.compare_with)]
    parts = []
    for column in results.columns:
        lines = [[column.title, *(short_label(results, setting) for setting in results.rows)]]
        lines.append(["---"] + ["---:"] * len(results.rows))
        for name in names:
            rows = [by_name.get((setting, name)) for setting in results.rows]
            text = _summary_cell if name == results.compare_with else _difference_cell
            cells = [row.cells.get(column.name) if row else None for row in rows]
            lines.append([labels[name], *map(text, cells)])
        parts.append(_md(lines))
    below = (
        f"{results.title}. Points minus {results.compare_label}'s; its own ± half a 95% interval. \\* differs, p < .05 "
        f"after Holm's correction for {results.compared} differences; = shown to differ by less than "
        f"{results.margin:g} points."
    )
    last = " ".join([below, *caveats(results)])
    return "\n\n".join([*_findings(results), *results.who_judged, *parts, last]) + "\n"


def _difference_cell(cell: Cell | None) -> str:
    if cell is None or cell.difference is None:
        return NONE
    star = "\\*" if cell.p_holm < LEVEL else ""
    return f"{cell.difference.value:+.1f}{star}{' =' if cell.p_equal < LEVEL else ''}"


def _md(lines: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _summary_text(lines: Sequence[Sequence[str]], results: Results) -> str:
    rule = f"; \\* differs from {results.compare_label}, p < .05 after Holm's correction" if results.compared else ""
    below = " ".join([f"{results.title}. ± half a 95% interval{rule}.", *caveats(results)])
    return "\n\n".join([*_findings(results), *results.who_judged, _md(lines), below]) + "\n"


def _summary_cell(cell: Cell | None) -> str:
    if cell is None:
        return NONE
    star = "\\*" if cell.difference is not None and cell.p_holm < LEVEL else ""
    return f"{cell.value:.1f} ±{(cell.high - cell.low) / 2:.1f}{star}"
