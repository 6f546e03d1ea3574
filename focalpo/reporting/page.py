"""The report as one self-contained HTML page.

Numbers and figures are in the page; only the answers, which are many, are files beside it, loaded on demand.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from html import escape
from pathlib import Path
from string import Template

from focalpo.reporting.blocks import Block, p_text, worst_text
from focalpo.reporting.cells import Cell, Results, RowResult
from focalpo.reporting.diagnostics import NOTE
from focalpo.reporting.facts import facts
from focalpo.reporting.forest import forest
from focalpo.reporting.judges import TITLES, JudgeStatistics
from focalpo.reporting.provenance import Chain
from focalpo.stages.metrics import METRICS, NONE, column_of, set_title

WEB = Path(__file__).parent / "web"
PAGE_COLOURS = {"#000000": "ink", "#ffffff": "paper", "#b0b0b0": "line", "#cccccc": "line"}
"""Matplotlib's black, white, and greys of grids and legends, by the style sheet's names, which a dark page changes."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a row of a setting comes from: its seeds, the stages that scored it and the commands that reproduce it."""

    seeds: list[str]
    stages: list[str]
    commands: list[str]


@dataclass(frozen=True, slots=True)
class Picture:
    """A figure of the report: its file name, title, caption and the SVG itself."""

    name: str
    title: str
    caption: str
    svg: str


@dataclass(frozen=True, slots=True)
class Content:
    """Everything that a report shows; nested mappings are keyed by setting, then row.

    `finding` is one sentence, `summary` what the table is made of, `licence` what may not be shared, if anything.
    """

    results: Results
    finding: str
    summary: str
    licence: str
    origins: Mapping[str, Mapping[str, Origin]]
    curves: Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]]
    judges: Mapping[str, Mapping[str, JudgeStatistics]]
    diagnostics: Sequence[Block]  # of each setting that was trained in
    pictures: Sequence[Picture]
    stages: Chain
    anchors: Block


def page(content: Content) -> str:
    """Render the HTML page."""
    results = content.results
    options = "".join(
        f'<option value="{escape(name)}">{escape(label)}</option>' for name, label in results.settings.items()
    )
    return Template((WEB / "template.html").read_text()).substitute(
        title=escape(results.title),
        css=(WEB / "report.css").read_text(),
        js=(WEB / "report.js").read_text(),
        finding=escape(content.finding),
        summary=escape(content.summary),
        forest=forest(results),
        licence=f'<p class="warnings" role="note">{escape(content.licence)}</p>' if content.licence else "",
        warnings=_warnings(content.results.warnings),
        tables="".join(_table(results, setting, rows) for setting, rows in results.rows.items()),
        notes="".join(f'<p class="quiet">{escape(note)}</p>' for note in results.notes),
        figures="".join(map(_figure, content.pictures)),
        judges="".join(_judges(results, setting, found) for setting, found in content.judges.items() if found)
        or '<p class="quiet">Nothing was judged.</p>',
        diagnostics=_diagnostics(content.diagnostics),
        diagnostics_link=' <a href="#diagnostics">Diagnostics</a>' if content.diagnostics else "",
        anchors=_anchors(content.anchors),
        stages=_stages(content.stages),
        setting_options=options,
        benchmark_options="".join(
            f'<option value="{escape(name)}">{escape(title)}</option>' for name, title in _benchmarks(results).items()
        ),
        footer=f"{len(content.stages)} sealed stages are the source of this page.",
        data=_data(content).replace("</", "<\\/"),  # browsers end a script at this tag even inside JSON
    )


def _benchmarks(results: Results) -> dict[str, str]:
    """Titles, by name, of the sets of answers that the page shows side by side."""
    titles = {"alpaca_eval": "AlpacaEval", "arena_hard": "Arena-Hard"}
    sources = dict.fromkeys(column.source for column in results.columns if column.stage != "capability")
    return {name: titles.get(name) or set_title(name) for name in sources}


def _data(content: Content) -> str:
    results = content.results
    rows = {
        setting: [_row(results, row, content.origins[setting].get(row.name, Origin([], [], []))) for row in found]
        for setting, found in results.rows.items()
    }
    fields = ("commit", "finished", "seconds", "inputs", "outputs", "settings")
    stages = {title: {name: manifest[name] for name in fields} for title, manifest in content.stages.items()}
    values = {
        "settings": results.settings,
        "columns": {column.name: {"title": column.title, "source": column.source} for column in results.columns},
        "compare_with": results.compare_with,
        "metrics": {name: metric.title for name, metric in METRICS.items()},
        "rows": rows,
        "curves": content.curves,
        "stages": stages,
    }
    # NaN is not valid JSON; an unknown number is null.
    return json.dumps(_without_nan(values), allow_nan=False, separators=(",", ":"))


def _row(results: Results, row: RowResult, origin: Origin) -> dict:
    cells = {name: facts(results, row, name) for name in row.cells}
    return {"name": row.name, "label": row.label, "cells": cells} | asdict(origin)


def _without_nan(value):
    if isinstance(value, Mapping):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and value != value else value


def _warnings(warnings: Sequence[str]) -> str:
    if not warnings:
        return '<p class="quiet">No stage reported a warning.</p>'
    lines = "".join(f"<li>{escape(line)}</li>" for line in warnings)
    return f'<section class="warnings" aria-label="Warnings"><h2>Warnings</h2><ul>{lines}</ul></section>'


def _table(results: Results, setting: str, rows: Sequence[RowResult]) -> str:
    extras = results.extras(setting)
    head = "".join(f'<th scope="col" aria-sort="none"><button type="button">{escape(name)}</button></th>'
                   for name in ["Method", *(column.title for column in results.columns), *extras.values()])  # fmt: skip
    body = "".join(
        f"<tr{' class=focus' if row.name == 'focalpo' else ''}>"
        f'<th scope="row" data-value="{escape(row.label)}">{escape(row.label)}</th>'
        + "".join(_cell(results, setting, row, column.name) for column in results.columns)
        + "".join(_number(row.extras.get(name)) for name in extras)
        + "</tr>"
        for row in rows
    )
    judged = "".join(f'<p class="quiet">{escape(str(each))}</p>' for each in results.judges.get(setting, ()))
    return (
        f'{judged}<div class="scroll" tabindex="0" role="region" '
        f'aria-label="Table, {escape(results.settings[setting])}">'
        f'<table class="sortable"><caption>{escape(results.settings[setting])}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _cell(results: Results, setting: str, row: RowResult, column: str) -> str:
    cell = row.cells.get(column)
    paper = row.paper.get(column)
    known = f"<small>paper {paper:.1f}</small>" if paper is not None else ""
    if cell is None:
        return f"<td>{NONE}</td>"
    lacking = f"<small>{worst_text(cell)}</small>" if cell.missing else ""
    place = f"{setting}/{row.name}/{column}"
    tooltip = f"Where {cell.value:.1f} comes from: {row.label}, {column_of(column).title}"
    return (
        f'<td data-value="{cell.value}"><button type="button" class="cell" data-cell="{escape(place)}" '
        f'title="{escape(tooltip)}">{cell.value:.1f}</button> <small>[{cell.low:.1f}, {cell.high:.1f}]</small>'
        f"{lacking}{_compared(cell, results)}{known}{_verdict(cell)}</td>"
    )


def _compared(cell: Cell, results: Results) -> str:
    if cell.difference is None:
        return ""
    lines = [f"{cell.difference.value:+.1f} vs {results.compare_label}, p={p_text(cell.p_holm)}"]
    if not math.isnan(cell.p_equal):
        lines.append(f"within ±{results.margin:g}: p={p_text(cell.p_equal)}")
    return "".join(f"<small>{escape(line)}</small>" for line in lines)


def _verdict(cell: Cell) -> str:
    return f"<small>{escape(cell.verdict)}</small>" if cell.verdict else ""


def _number(value: float | None) -> str:
    return f"<td>{NONE}</td>" if value is None else f'<td data-value="{value}">{value:.1f}</td>'


def _figure(picture: Picture) -> str:
    return (
        f'<figure id="figure-{picture.name}"><h3>{escape(picture.title)}</h3>'
        f'<div class="figure" tabindex="0" role="img" aria-label="{escape(picture.title)}. {escape(picture.caption)}">'
        f"{_inline(picture)}</div><figcaption>{escape(picture.caption)}</figcaption></figure>"
    )


def _inline(picture: Picture) -> str:
    """The SVG without its XML header, in the page's colours; its ids get the figure's name as prefix, since several
    figures share one page.

    Matplotlib writes no fill where it is black: such shapes and texts inherit the page's ink from the style sheet.
    """
    svg = picture.svg[picture.svg.index("<svg") :]
    for mark in ('id="', 'href="#', "url(#"):
        svg = svg.replace(mark, f"{mark}{picture.name}-")
    for colour, name in PAGE_COLOURS.items():
        svg = re.sub(f"{colour}\\b", f"var(--{name})", svg)
    return svg


def _judges(results: Results, setting: str, found: Mapping[str, JudgeStatistics]) -> str:
    head = "".join(f'<th scope="col">{escape(title)}</th>' for title in ["Method", *TITLES.values()])
    labels = {row.name: row.label for row in results.rows[setting]}
    body = "".join(
        f'<tr><th scope="row">{escape(labels[row])}</th>'
        + "".join(f"<td>{_short(getattr(statistics, name))}</td>" for name in TITLES)
        + "</tr>"
        for row, statistics in found.items()
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="Judge, {escape(results.settings[setting])}">'
        f"<table><caption>{escape(results.settings[setting])}</caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _diagnostics(blocks: Sequence[Block]) -> str:
    """The section on what training did to the held-out pairs; none where nothing was trained."""
    return _section("diagnostics", "Diagnostics of training", NOTE, blocks) if blocks else ""


def _anchors(block: Block) -> str:
    """The section against the author's own runs; none where the author had none of these."""
    return _section("anchors", block.title.capitalize(), "", [replace(block, title="")]) if block.body else ""


def _section(name: str, title: str, note: str, blocks: Sequence[Block]) -> str:
    said = f'<p class="quiet">{escape(note)}</p>' if note else ""
    return (
        f'<section id="{name}" aria-labelledby="{name}-title"><h2 id="{name}-title">{escape(title)}</h2>{said}'
        + "".join(_block(block, f"{title}, {block.title}" if block.title else title) for block in blocks)
        + "</section>"
    )


def _block(block: Block, label: str) -> str:
    head = "<td></td>" + "".join(f'<th scope="col">{escape(title)}</th>' for title in block.header)
    body = "".join("<tr>" + "".join(f"<td>{escape(text)}</td>" for text in line) + "</tr>" for line in block.body)
    caption = f"<caption>{escape(block.title)}</caption>" if block.title else ""
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(label)}">'
        f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _short(value: float) -> str:
    if isinstance(value, int):
        return str(value)
    return NONE if math.isnan(value) else f"{value:.1f}"


def _stages(stages: Chain) -> str:
    """Table of the number of stages of each kind and their time; of a resumed one only its last start's is known."""
    kinds: dict[str, list[dict]] = {}
    for title, manifest in stages.items():
        kinds.setdefault(title.partition("/")[0], []).append(manifest)
    body = "".join(
        f'<tr><th scope="row">{kind}</th><td>{len(made)}</td><td>{"≥ " * any(each["starts"] > 1 for each in made)}'
        f"{sum(each['seconds'] for each in made) / 60:.1f}</td></tr>"
        for kind, made in kinds.items()
    )
    return (
        '<table><thead><tr><th scope="col">Kind</th><th scope="col">stages</th>'
        f'<th scope="col">total minutes</th></tr></thead><tbody>{body}</tbody></table>'
    )
