"""Which pairs each method fixes and which it breaks, of those with true and with false labels, beside the compared row.

    Change (a run's pairs at start and end) --> indicator [runs, pairs] of each move --> share, interval, difference

Right is what the label says: where it is false, a pair that is fixed has been learned wrongly. Pairs and seeds are
crossed, as prompts and seeds are in the table.
"""

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from focalpo.reporting.finding import LEVEL
from focalpo.reporting.table_run import TableRun
from focalpo.scoring.differences import Difference, holm, paired_difference
from focalpo.scoring.stats import Ratio
from focalpo.stages.metrics import NONE
from focalpo.stages.rankings import Change, moves

Moved = dict[str, dict[str, float]]  # id of a pair -> how much of it made each move
SPLITS = {"test": "held-out pairs", "train": "training pairs"}
COMPARED = {"wrong_right": "fixed", "right_wrong": "broken"}
"""The moves that are compared; what stays right or wrong follows from them, as rows that are compared start alike."""
SHOWN = {**COMPARED, "right_right": "stays right", "wrong_wrong": "stays wrong"}
LEAST = 10
"""Pairs with such labels in each run, below which no share is given."""


@dataclass(frozen=True, slots=True)
class Share:
    """The per cent of a row's pairs, of a split and with true or false (or all) labels, that training moved so.

    `value` has the share and its 95% interval; `difference` is to the compared row, `p_holm` corrected for all of them.
    """

    setting: str
    row: str
    split: str
    labels: str
    move: str
    pairs: int
    runs: int
    value: Difference
    difference: Difference | None = None
    p_holm: float = math.nan


def shares(run: TableRun) -> list[Share]:
    """All shares of a table, by setting, split, labels, row and move; none where nothing was trained."""
    found = [share for setting in run.settings for split in SPLITS for share in _of_split(run, setting, split)]
    tested = {place: share.difference.p for place, share in enumerate(found) if share.difference is not None}
    for place, p in zip(tested, holm(list(tested.values())), strict=True):
        found[place] = replace(found[place], p_holm=p)
    return found


def other_pairs(run: TableRun, changes: Mapping[str, Mapping[str, Sequence[Change]]]) -> list[str]:
    """A warning where rows were trained on other pairs than the compared row; `changes` by setting and row."""
    base = run.table["compare_with"]
    others = {
        run.rows[row]
        for rows in changes.values()
        for row, found in rows.items()
        if base in rows and not _same_pairs(found, rows[base])
    }
    if not others:
        return []
    return [
        f"trained on other pairs than {run.rows[base]}: {'; '.join(sorted(others))}. Figures and tables of pairs show "
        "each row on its own, after several rounds on those of the last, from its start"
    ]


def _of_split(run: TableRun, setting: str, split: str) -> Iterator[Share]:
    seeds = {row: list(run.seeds(setting, row, "train")) for row in run.rows}
    changes = {row: found for row in run.rows if (found := run.changes(setting, row, split))}
    base = run.table["compare_with"]
    comparable = {row for row in changes if row != base and _same_pairs(changes[row], changes.get(base, ()))}
    for labels in _labels(changes):
        counted = {row: [_with(labels, change) for change in found] for row, found in changes.items()}
        ids = sorted({id_ for found in counted.values() for each in found for id_ in each})
        metrics = {row: _metrics(found, ids) for row, found in counted.items() if min(map(len, found)) >= LEAST}
        for row, of_moves in metrics.items():
            pairs, runs = len(counted[row][0]), len(counted[row])
            for move, metric in of_moves.items():
                value = paired_difference(metric, _nothing(metric), same_seeds=True)
                share = Share(setting, row, split, labels, move, pairs, runs, value)
                other = metrics[base][move] if move in COMPARED and base in metrics and row in comparable else None
                if other is not None:
                    share = replace(share, difference=paired_difference(metric, other, seeds[row] == seeds[base]))
                yield share


def _same_pairs(found: Sequence[Change], others: Sequence[Change]) -> bool:
    """Whether the seeds of two rows were trained on the same pairs; with more rounds a row makes pairs of its own."""
    return all(
        one.ids == other.ids
        and np.array_equal(one.chosen_length, other.chosen_length)
        and np.array_equal(one.rejected_length, other.rejected_length)
        for one, other in zip(found, others, strict=False)  # three seeds beside five
    )


def _labels(changes: Mapping[str, Sequence[Change]]) -> tuple[str, ...]:
    """Where it is known which labels are false, as in the pocket world, they are apart."""
    known = all(each is not None for found in changes.values() for change in found for each in change.mislabelled)
    return ("true", "false") if known else ("all",)


def _with(labels: str, change: Change) -> Moved:
    """The moves of those pairs of a run that have such labels, by id."""
    chosen = [labels == "all" or bool(wrong) == (labels == "false") for wrong in change.mislabelled]
    found = moves(change)
    return {id_: {m: float(found[m][n]) for m in found} for n, id_ in enumerate(change.ids) if chosen[n]}


def _metrics(found: Sequence[Moved], ids: Sequence[str]) -> dict[str, Ratio]:
    """The share of each move over runs and pairs, [runs, ids]; a pair that a run does not have does not count there."""
    battles = np.array([[float(id_ in each) for id_ in ids] for each in found])
    return {
        move: Ratio(np.array([[each.get(id_, {}).get(move, 0.0) for id_ in ids] for each in found]), battles)
        for move in SHOWN
    }


def _nothing(metric: Ratio) -> Ratio:
    return Ratio(np.zeros_like(metric.wins), metric.battles)


def as_csv(found: Sequence[Share]) -> str:
    """One line per share, every number at full precision, in per cent."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    names = ["setting", "row", "split", "labels", "move", "pairs", "runs", "value", "low", "high"]
    writer.writerow([*names, "difference", "difference_low", "difference_high", "p", "p_holm"])
    for share in found:
        place = [share.setting, share.row, share.split, share.labels, share.move, share.pairs, share.runs]
        value, difference = share.value, share.difference
        compared: list[object] = [NONE] * 5
        if difference is not None:
            compared = [difference.value, difference.low, difference.high, difference.p, share.p_holm]
        writer.writerow([*place, value.value, value.low, value.high, *compared])
    return out.getvalue()


def as_markdown(run: TableRun, found: Sequence[Share]) -> str:
    """What each row fixed and broke, one table per setting and split."""
    by_place = {(s.setting, s.row, s.split, s.labels, s.move): s for s in found}
    compared = sum(share.difference is not None for share in found)
    note = (
        "Per cent of the pairs with such labels. Fixed: ranked wrong at the start and right at the end, broken: the "
        "reverse; right is what the label says, so that a false label that is fixed has been learned. ± half a 95% "
        "interval over pairs and seeds"
    )
    if compared:
        base = run.rows[run.table["compare_with"]]
        note += f"; in brackets: minus {base}, \\* where p < .05 after Holm's correction for all {compared} differences"
    if any(_on_other_pairs(share, by_place, run.table["compare_with"]) for share in found):
        note += ". Rows without a difference have other pairs: after several rounds those of the last, from its start"
    parts = [f"{note}."]
    for setting, title in run.settings.items():
        for split, words in SPLITS.items():
            mine = [share for share in found if (share.setting, share.split) == (setting, split)]
            names = {share.labels: _named(share.labels, _pairs(share.labels, mine)) for share in mine}
            if not mine:
                continue
            columns = [(labels, move) for labels in names for move in COMPARED]
            head = [f"{title}, {words}", *(f"{names[labels]}: {COMPARED[move]}" for labels, move in columns)]
            lines = [head, ["---", *["---:"] * len(columns)]]
            for row, label in run.rows.items():
                cells = [by_place.get((setting, row, split, *column)) for column in columns]
                if any(cells):
                    lines.append([label, *map(_cell, cells)])
            parts.append("\n".join("| " + " | ".join(line) + " |" for line in lines))
    return "\n\n".join(parts) + "\n"


def _on_other_pairs(share: Share, by_place: Mapping[tuple, Share], base: str) -> bool:
    beside = by_place.get((share.setting, base, share.split, share.labels, share.move))
    return share.move in COMPARED and share.difference is None and beside not in (None, share)


def _pairs(labels: str, found: Sequence[Share]) -> list[int]:
    """The numbers of pairs with such labels that rows have, ascending."""
    return sorted({share.pairs for share in found if share.labels == labels})


def _named(labels: str, pairs: Sequence[int]) -> str:
    number = f"{pairs[0]}" if len(pairs) == 1 else f"{pairs[0]} to {pairs[-1]}"
    return f"{labels} labels ({number})" if labels != "all" else f"all pairs ({number})"


def _cell(share: Share | None) -> str:
    if share is None:
        return NONE
    text = f"{share.value.value:.1f} ±{_half(share.value):.1f}"
    if share.difference is None:
        return text
    star = "\\*" if share.p_holm < LEVEL else ""
    return f"{text} ({share.difference.value:+.1f} ±{_half(share.difference):.1f}{star})"


def _half(difference: Difference) -> float:
    return (difference.high - difference.low) / 2
