"""The table as Markdown, CSV and LaTeX, all from the same cells; `terminal` formats it for a terminal."""

import csv
import io
import math
from collections.abc import Sequence

from focalpo.reporting.blocks import Block, blocks, worst_text
from focalpo.reporting.cells import Cell, Results, RowResult
from focalpo.reporting.tex import tabular, tex
from focalpo.stages.metrics import NONE, Column


def as_markdown(results: Results) -> str:
    """Format the table for a README, with the paper's numbers where its protocol was followed."""
    parts = [f"**{results.title}**", *_warnings(results)]
    columns = results.columns
    for setting, rows in results.rows.items():
        header = [results.settings[setting], *(each.title for each in columns), *results.extras(setting).values()]
        lines = [_md(header), _md(["---"] + ["---:"] * (len(header) - 1))]
        for row in rows:
            cells = [_with_paper(row, each.name) for each in columns]
            lines.append(_md([row.label, *cells, *_extras(row, results, setting)]))
        parts += [*map(str, results.judges.get(setting, ())), "\n".join(lines)]
        parts += [_block_markdown(block) for block in blocks(rows, results)]
    return "\n\n".join([*parts, *results.notes]) + "\n"


JUDGED = ("judge", "protocol", "protocol_hash", "baseline")


def as_csv(results: Results) -> str:
    """Format the table as one line per setting, row and column, every number at full precision."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    fields = [
        "value",
        "low",
        "high",
        "seed_sd",
        "difference",
        "difference_low",
        "difference_high",
        "p",
        "p_holm",
        "paper",
        "se",
        "library_se",
        "detectable",
        "p_equal",
        "verdict",
        "missing",
        "worst_low",
        "worst_high",
        *JUDGED,
    ]
    writer.writerow(["setting", "row", "column", "seeds", "prompts", *fields])
    for setting, rows in results.rows.items():
        judges = {column.name: _csv_judges(results, setting, column) for column in results.columns}
        for row in rows:
            for column in results.columns:
                cell = row.cells.get(column.name)
                values = _csv_values(cell) if cell else [NONE] * 11
                paper = _or_none(row.paper.get(column.name))
                line = [*values, paper, *_csv_certainty(cell), *_csv_missing(cell), *judges[column.name]]
                writer.writerow([setting, row.name, column.name, *line])
            for name in results.extras(setting):
                if name in row.extras:
                    writer.writerow(
                        [setting, row.name, name, NONE, NONE, row.extras[name], *[NONE] * (len(fields) - 1)]
                    )
    return out.getvalue()


def as_latex(results: Results) -> str:
    """Format the table and its blocks for a paper with booktabs."""
    comments = [f"% {line}" for line in (results.title, *_warnings(results))]
    judged = [f"\\parbox{{\\linewidth}}{{\\footnotesize {tex(line)}}}\\par" for line in results.who_judged]
    main, *below = latex_tables(results)
    return "\n".join([*comments, *judged, main, *(f"\n{each}" for each in below)]) + "\n"


def latex_tables(results: Results) -> list[str]:
    """The table, each value with the half-width of its interval, and each of its blocks as a `tabular`.

    Settings stand side by side; more than two stand one below the other.
    """
    below = [
        _block_latex(block, results.settings[setting])
        for setting, rows in results.rows.items()
        for block in blocks(rows, results)
    ]
    return [_long_latex(results) if len(results.rows) > 2 else _side_by_side(results), *below]


def _side_by_side(results: Results) -> str:
    settings, shown = list(results.rows), results.columns
    top = " & ".join(f"\\multicolumn{{{len(shown)}}}{{c}}{{{tex(results.settings[each])}}}" for each in settings)
    labels = {row.name: row.label for rows in results.rows.values() for row in rows}
    by_name = {(setting, row.name): row for setting, rows in results.rows.items() for row in rows}
    body = [
        [tex(label), *(_tex_cell(by_name.get((setting, name)), each.name) for setting in settings for each in shown)]
        for name, label in labels.items()
    ]
    header = ["", *(tex(each.title) for _ in settings for each in shown)]
    return tabular("l" + "r" * (len(header) - 1), header, body, f" & {top} \\\\")


def _long_latex(results: Results) -> str:
    body = [
        [tex(results.settings[setting]), tex(row.label), *(_tex_cell(row, each.name) for each in results.columns)]
        for setting, rows in results.rows.items()
        for row in rows
    ]
    return tabular("ll" + "r" * len(results.columns), ["", "", *(tex(each.title) for each in results.columns)], body)


def _with_paper(row: RowResult, name: str) -> str:
    cell = row.cells.get(name)
    if cell is None:
        return NONE
    lacking = f" ({worst_text(cell)})" if cell.missing else ""
    paper = f" (paper {_or_none(row.paper[name])})" if name in row.paper else ""
    return f"{cell.value:.1f} [{cell.low:.1f}, {cell.high:.1f}]{lacking}{paper}"


def _extras(row: RowResult, results: Results, setting: str) -> list[str]:
    return [f"{row.extras[name]:.1f}" if name in row.extras else NONE for name in results.extras(setting)]


def _warnings(results: Results) -> list[str]:
    return [f"WARNING: {warning}" for warning in results.warnings]


def _block_markdown(block: Block) -> str:
    header = [block.title, *block.header]
    return "\n".join([_md(header), _md(["---"] + ["---:"] * len(block.header)), *map(_md, block.body)])


def _block_latex(block: Block, setting: str) -> str:
    head = [*map(tex, [f"{setting}, {block.title}", *block.header])]
    return tabular("l" + "r" * len(block.header), head, [[*map(tex, row)] for row in block.body])


def aligned(rows: list[list[str]]) -> str:
    """Align rows of text as columns, the first to the left and the others to the right."""
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            [row[0].ljust(widths[0]), *(text.rjust(width) for text, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    )


def _md(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _csv_values(cell: Cell) -> list[object]:
    found = cell.difference
    differences = [found.value, found.low, found.high, found.p, cell.p_holm] if found else [NONE] * 5
    return [cell.seeds, cell.prompts, cell.value, cell.low, cell.high, _or_none(cell.seed_sd), *differences]


def _csv_certainty(cell: Cell | None) -> list[object]:
    if cell is None:
        return [NONE] * 5
    library = None if math.isnan(cell.library_se) else cell.library_se
    compared = [cell.detectable, cell.p_equal] if cell.difference else [NONE] * 2
    return [cell.se, _or_none(library), *compared, cell.verdict or NONE]


def _csv_missing(cell: Cell | None) -> list[object]:
    return [NONE] * 3 if cell is None else [cell.missing, *(cell.worst or [NONE] * 2)]


def _csv_judges(results: Results, setting: str, column: Column) -> list[str]:
    judges = [judged for judged in results.judges.get(setting, ()) if judged.source == column.source]
    values = [[judged.by, judged.protocol, judged.hash, judged.baseline] for judged in judges]
    return [" and ".join(dict.fromkeys(each)) for each in zip(*values, strict=True)] or [NONE] * len(JUDGED)


def _or_none(value: float | None) -> object:
    return NONE if value is None else value


def _tex_cell(row: RowResult | None, column: str) -> str:
    cell = row.cells.get(column) if row else None
    return NONE if cell is None else f"${cell.value:.1f}_{{\\pm {(cell.high - cell.low) / 2:.1f}}}$"
