"""The tables of the paper, as LaTeX, from published tables and from the author's runs."""

from collections.abc import Sequence

from focalpo.reporting.cells import Cell
from focalpo.reporting.claims_about_pairs import of_row, row_minus
from focalpo.reporting.claims_about_scores import equal, scores_of
from focalpo.reporting.claims_about_weights import heaviest, weight_at
from focalpo.reporting.finding import LEVEL, short_label
from focalpo.reporting.published import Published
from focalpo.reporting.quoted import Sources, quote
from focalpo.reporting.tex import as_tex, tabular
from focalpo.stages.author_runs import AuthorRuns
from focalpo.stages.metrics import NONE

QUANTITIES = {
    "started_right": "right at start",
    "kept": "of these kept",
    "fixed": "wrong ones corrected",
    "ended_right": "right at end",
    "margin_right": "margin, started right",
    "margin_wrong": "margin, started wrong",
}


def score_table(table: Published) -> str:
    """Every row and score with the half-width of its interval; a star where it differs from the compared row."""
    results = table.results
    columns, settings = results.columns, list(results.rows)
    above = " & ".join(f"\\multicolumn{{{len(columns)}}}{{c}}{{{as_tex(short_label(results, s))}}}" for s in settings)
    labels = {row.name: row.label for rows in results.rows.values() for row in rows}
    cells = {(s, row.name): row.cells for s, rows in results.rows.items() for row in rows}
    body = [
        [as_tex(label), *(_score(cells.get((s, name), {}).get(c.name)) for s in settings for c in columns)]
        for name, label in labels.items()
    ]
    header = ["", *(as_tex(column.short) for _ in settings for column in columns)]
    return tabular("l" + "r" * (len(header) - 1), header, body, f" & {above} \\\\")


def difference_table(table: Published, row: str) -> str:
    """A row minus the compared one in every setting, with intervals."""
    results, scores = table.results, scores_of(table.results, row)
    columns = [column for column in results.columns if any(score.column == column.name for score in scores)]
    found = {(score.setting, score.column): score for score in scores}
    body = [
        [
            as_tex(results.settings[setting]),
            *(_difference(found[setting, c.name].cell) if (setting, c.name) in found else NONE for c in columns),
        ]
        for setting in results.rows
    ]
    return tabular("l" + "r" * len(columns), ["", *(as_tex(column.title) for column in columns)], body)


def against_table(table: Published) -> str:
    """Every row against the compared one: in how many scores it is ahead, behind and equal, and the extremes."""
    names = {row.name: row.label for rows in table.results.rows.values() for row in rows}
    body = []
    for name, label in names.items():
        if scores := scores_of(table.results, name):
            values = [score.difference.value for score in scores]
            counts = [sum(score.sign > 0 for score in scores), sum(score.sign < 0 for score in scores), equal(scores)]
            extremes = [as_tex(f"{min(values):+.1f}"), as_tex(f"{max(values):+.1f}")]
            body.append([as_tex(label), str(len(scores)), *map(str, counts), *extremes])
    header = ["", "scores", "ahead", "behind", "equal", "lowest", "highest"]
    return tabular("lrrrrrr", header, body)


def pairs_table(table: Published, row: str, other: str) -> str:
    """What both rows did to held-out pairs, means over seeds, and the difference with its interval."""
    labels = {each.name: each.label for rows in table.results.rows.values() for each in rows}
    body = []
    for setting in table.results.rows:
        for name in (other, row):
            values = [_mean(of_row(table, name, quantity), setting) for quantity in QUANTITIES]
            body.append([as_tex(f"{short_label(table.results, setting)}, {labels.get(name, name)}"), *values])
        differences = [_interval(row_minus(table, row, other, quantity), setting) for quantity in QUANTITIES]
        body.append(["\\quad difference", *differences])
    header = ["", *(f"\\parbox[b]{{1.9cm}}{{\\raggedleft {title}}}" for title in QUANTITIES.values())]
    return tabular("l" + "r" * len(QUANTITIES), header, body)


def cost_table(tables: Sequence[Published]) -> str:
    """Hours of every published table, the machine and the commit that made it."""
    body = []
    for table in tables:
        seeds = sorted(
            {cell.seeds for rows in table.results.rows.values() for row in rows for cell in row.cells.values()}
        )
        hours = NONE if table.hours is None else f"{table.hours:g}"
        counts = f"{max(map(len, table.results.rows.values()))} x {len(table.results.rows)}"
        words = [as_tex(table.name), counts.replace("x", "$\\times$"), " or ".join(map(str, seeds)), hours]
        body.append([*words, as_tex(table.machine), f"\\texttt{{{table.commit}}}"])
    return tabular("llrrll", ["Table", "rows $\\times$ settings", "seeds", "hours", "machine", "commit"], body)


def author_table(runs: AuthorRuns) -> str:
    """The last evaluation of each of the author's runs."""
    body = []
    for run in runs.runs.values():
        last = run.evaluations[-1]
        start = {"mistral_uf": "Mistral", "llama_uf": "Llama-3"}.get(run.anchor, "Llama-3, on-policy")
        rate = f"{run.learning_rate:.0e}".replace("e-0", "e-")
        numbers = [f"{last.loss:.3f}", f"{last.reward_accuracy:.3f}", f"{last.reward_margin:.2f}"]
        body.append([start, f"{run.gamma:g}", rate, str(run.epochs), *numbers])
    header = ["start, pairs", "$\\gamma$", "learning rate", "epochs", "loss", "reward accuracy", "reward margin"]
    return tabular("lrrrrrr", header, [[as_tex(each) for each in line] for line in body])


def weight_table(gammas: Sequence[float], sources: Sources) -> str:
    """What the factor does to the weight, by gamma."""
    body = []
    for gamma in gammas:
        ratios = [f"{weight_at(p, gamma) / weight_at(p, 0.0):.2f}" for p in (0.1, 0.5, 0.9)]
        flip = quote(f"theory/flip/{gamma}", sources).text
        nats = quote(f"theory/flip_nats/{gamma}/0.01", sources).text
        body.append([f"{gamma:g}", *map(as_tex, ratios), f"{heaviest(gamma):.2f}", _power(flip), as_tex(nats)])
    titles = [f"$w/w_{{\\mathrm{{DPO}}}}$ at ${p}$" for p in ("p=.1", "p=.5", "p=.9")]
    header = ["$\\gamma$", *titles, "heaviest $p$", "sign flips at $p$", "or $D$ (nats)"]
    return tabular("lrrrrrr", header, body)


def _power(text: str) -> str:
    digits, times, power = text.partition(" x 10^")
    return f"${digits} \\cdot 10^{{{power}}}$" if times else digits


def _score(cell: Cell | None) -> str:
    if cell is None:
        return NONE
    star = "^{*}" if cell.difference is not None and cell.p_holm < LEVEL else ""
    return f"${cell.value:.1f}_{{\\pm {(cell.high - cell.low) / 2:.1f}}}{star}$"


def _difference(cell: Cell) -> str:
    found = cell.difference
    if found is None:
        return NONE
    star = "$^{*}$" if cell.p_holm < LEVEL else ""
    return as_tex(f"{found.value:+.1f} [{found.low:+.1f}, {found.high:+.1f}]") + star


def _mean(found: Sequence, setting: str) -> str:
    return next((f"{each.mean.value:.1f}" for each in found if each.setting == setting), NONE)


def _interval(found: Sequence, setting: str) -> str:
    for each in found:
        if each.setting == setting:
            half = (each.mean.high - each.mean.low) / 2
            return f"${each.mean.value:+.1f}_{{\\pm {half:.1f}}}$"
    return NONE
