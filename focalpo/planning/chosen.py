"""What a search chose: its results by point, the best point of each row, and where a table trains with another one."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

from focalpo.config.compose import plain
from focalpo.config.overrides import meant
from focalpo.config.schema import Config, TableConfig
from focalpo.planning.search import SEED, point_of
from focalpo.planning.table import compose_rows, only_row

FIELDS = ("setting", "row", "point", "seed", "reward_accuracy", "standard_error", "margin", "best")

ACCURACY = "held-out reward accuracy %"
RULE = (
    "Mean over seeds and settings, ± a standard error over held-out pairs. The rule: the highest accuracy, and the "
    "first of equal ones."
)
OF_A_ROW = ("objective.", "train.")
"""What a row's experiment declares; other overrides are of the whole search."""


@dataclass(frozen=True, slots=True)
class Result:
    """One training of a search: its accuracy and mean margin, nats, on so many held-out pairs; None where it failed."""

    setting: str
    experiments: str
    row: str
    overrides: list[str]
    accuracy: float | None = None
    margin: float | None = None
    pairs: int = 0

    @property
    def seed(self) -> str:
        return "".join(each.removeprefix(SEED) for each in self.overrides if each.startswith(SEED))

    @property
    def error(self) -> float | None:
        """Standard error of the accuracy over held-out pairs."""
        return None if self.accuracy is None else _error(self.accuracy, self.pairs)


@dataclass(frozen=True, slots=True)
class Tried:
    """One point of a row's search: its trainings in the settings that share the row's values, with every seed."""

    experiments: str
    row: str
    point: tuple[str, ...]
    results: tuple[Result, ...]
    best: bool = False

    @property
    def failed(self) -> bool:
        return any(each.accuracy is None for each in self.results)

    @property
    def accuracies(self) -> dict[str, float]:
        """Mean accuracy over seeds, by setting; empty where a training failed."""
        if self.failed:
            return {}
        settings = dict.fromkeys(each.setting for each in self.results)
        return {name: _mean(each.accuracy for each in self.results if each.setting == name) for name in settings}

    @property
    def accuracy(self) -> float:
        """Mean over settings of the mean over seeds: what a search chooses by."""
        return _mean(self.accuracies.values())

    @property
    def error(self) -> float:
        """Standard error over held-out pairs, which all seeds of a setting share."""
        pairs = {each.setting: each.pairs for each in self.results}
        found = self.accuracies
        return float(sum(_error(value, pairs[name]) ** 2 for name, value in found.items()) ** 0.5 / len(found))

    @property
    def margin(self) -> float:
        return _mean(each.margin for each in self.results)


def tried(results: Sequence[Result]) -> list[Tried]:
    """The points of a search in their order; the most accurate of a row is best, and of equal ones the first."""
    grouped: dict[tuple[str, str, tuple[str, ...]], list[Result]] = {}
    for each in results:
        grouped.setdefault((each.experiments, each.row, point_of(each.overrides)), []).append(each)
    points = [Tried(*place, tuple(found)) for place, found in grouped.items()]
    best: dict[tuple[str, str], Tried] = {}
    for point in points:
        row = (point.experiments, point.row)
        if not point.failed and (row not in best or point.accuracy > best[row].accuracy):
            best[row] = point
    return [
        Tried(each.experiments, each.row, each.point, each.results, best.get((each.experiments, each.row)) is each)
        for each in points
    ]


def as_csv(points: Sequence[Tried]) -> str:
    """Every training of a search, one line each."""
    out = io.StringIO()
    table = csv.DictWriter(out, FIELDS, lineterminator="\n")
    table.writeheader()
    for point in points:
        for each in point.results:
            numbers = (each.accuracy, each.error, each.margin)
            best = "best" if point.best else ""
            values = (each.setting, each.row, " ".join(point.point), each.seed, *numbers, best)
            table.writerow(dict(zip(FIELDS, values, strict=True)))
    return out.getvalue()


def search_page(points: Sequence[Tried]) -> str:
    """All points as a table for docs/; the best of a row is bold."""
    settings = list(dict.fromkeys(each.setting for point in points for each in point.results))
    several = settings if len(settings) > 1 else []
    lines = [["row", "point", *several, ACCURACY, "margin, nats"], ["---", "---", *["---:"] * (len(several) + 2)]]
    for point in points:
        shown = " ".join(point.point)
        numbers = [f"{100 * point.accuracies[name]:.1f}" if name in point.accuracies else "" for name in several]
        numbers += ["failed", ""] if point.failed else [_percent(point), f"{point.margin:.1f}"]
        lines.append([point.row, f"**{shown}**" if point.best else shown, *numbers])
    return _page(lines, f"{RULE} Bold: what was chosen.")


def chosen_page(points: Sequence[Tried]) -> str:
    """The chosen point of each row as a table for docs/, beside the next best and how many were tried."""
    lines = [["row", "chosen", ACCURACY, "next best", "points", "seeds"], ["---", "---", "---:", "---:", "---:", "---"]]
    for best in (each for each in points if each.best):
        others = [each for each in points if (each.experiments, each.row) == (best.experiments, best.row)]
        behind = max((each.accuracy for each in others if not each.best and not each.failed), default=None)
        seeds = ", ".join(dict.fromkeys(each.seed for each in best.results if each.seed))
        numbers = [_percent(best), f"{100 * behind:.1f}" if behind else "", str(len(others)), seeds]
        lines.append([best.row, " ".join(best.point), *numbers])
    return _page(lines, f"{RULE} All points: search.md beside this file.")


def _percent(point: Tried) -> str:
    return f"{100 * point.accuracy:.1f} ±{100 * point.error:.1f}"


def _page(lines: Sequence[Sequence[str]], below: str) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + f"\n\n{below}\n"


def chosen(text: str) -> dict[tuple[str, str], list[str]]:
    """The best point by setting and row, from the text of `as_csv`."""
    lines = csv.DictReader(io.StringIO(text))
    return {(line["setting"], line["row"]): line["point"].split() for line in lines if line["best"]}


def undeclared(table: TableConfig, found: Mapping[tuple[str, str], Sequence[str]]) -> list[str]:
    """One line for each value that a row trains with while its search chose another."""
    lines = []
    for (setting, row), point in found.items():
        place = only_row(table, setting, row)
        (now,), (then,) = (compose_rows(place, given).values() for given in ([], list(point)))
        name = f"{table.settings[setting].experiments}/{table.rows[row].experiment or row}"
        for key in (key for key, _ in map(meant, point) if key.startswith(OF_A_ROW)):
            declared, better = _at(now, key), _at(then, key)
            if declared != better:
                lines.append(f"{name} trains with {key}={declared}, its search chose {better}")
    return [f"{line}: correct conf/experiment/{line.split()[0]}.yaml" for line in dict.fromkeys(lines)]


def _at(config: Config, key: str) -> Any:
    return reduce(lambda values, part: values[part], key.split("."), plain(config))


def _error(share: float, pairs: int) -> float:
    return float((share * (1 - share) / pairs) ** 0.5)


def _mean(values: Iterable[float | None]) -> float:
    known = [value for value in values if value is not None]
    return sum(known) / len(known)
