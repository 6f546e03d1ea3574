"""What a search chose: its results by point, the best point of each row, and where a table trains with another one."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

from focalpo.config.compose import plain
from focalpo.config.overrides import meant
from focalpo.config.schema import SEARCH_SCORES, Config, TableConfig
from focalpo.planning.search import SEED, point_of
from focalpo.planning.table import compose_rows, only_row

FIELDS = ("setting", "row", "point", "seed", "score", "standard_error", "reward_accuracy", "margin", "best")


@dataclass(frozen=True, slots=True)
class Score:
    """What a search chooses by, in words and in the unit in which it is shown."""

    name: str
    title: str
    unit: float
    digits: int

    def shown(self, value: float) -> str:
        return f"{value / self.unit:.{self.digits}f}"

    @property
    def rule(self) -> str:
        return (
            f"Mean over seeds and settings, ± a standard error over held-out pairs. The rule: the highest {self.name}, "
            "and the first of equal ones."
        )


ACCURACY = Score("accuracy", "held-out reward accuracy %", 0.01, 1)
REWARD = Score("reward", "reward of own answers to held-out prompts", 1.0, 3)
SCORES = dict(zip(SEARCH_SCORES, (ACCURACY, REWARD), strict=True))
OF_A_ROW = ("objective.", "train.")
"""What a row's experiment declares; other overrides are of the whole search."""


@dataclass(frozen=True, slots=True)
class Result:
    """One training of a search: its score with the standard error over held-out pairs, its reward accuracy and mean
    margin, nats; None where it failed."""

    setting: str
    experiments: str
    row: str
    overrides: list[str]
    score: float | None = None
    error: float | None = None
    accuracy: float | None = None
    margin: float | None = None

    @property
    def seed(self) -> str:
        return "".join(each.removeprefix(SEED) for each in self.overrides if each.startswith(SEED))


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
        return any(each.score is None for each in self.results)

    @property
    def scores(self) -> dict[str, float]:
        """Mean score over seeds, by setting; empty where a training failed."""
        return {} if self.failed else self._by_setting("score")

    @property
    def score(self) -> float:
        """Mean over settings of the mean over seeds: what a search chooses by."""
        return _mean(self.scores.values())

    @property
    def error(self) -> float:
        """Standard error over held-out pairs, which all seeds of a setting share: that of a single seed."""
        errors = self._by_setting("error").values()
        return float(sum(error**2 for error in errors) ** 0.5 / len(errors))

    @property
    def accuracy(self) -> float:
        return _mean(self._by_setting("accuracy").values())

    @property
    def margin(self) -> float:
        return _mean(each.margin for each in self.results)

    def _by_setting(self, name: str) -> dict[str, float]:
        settings = dict.fromkeys(each.setting for each in self.results)
        return {one: _mean(getattr(each, name) for each in self.results if each.setting == one) for one in settings}


def tried(results: Sequence[Result]) -> list[Tried]:
    """The points of a search in their order; the best of a row has its highest score, the first of equal ones."""
    grouped: dict[tuple[str, str, tuple[str, ...]], list[Result]] = {}
    for each in results:
        grouped.setdefault((each.experiments, each.row, point_of(each.overrides)), []).append(each)
    points = [Tried(*place, tuple(found)) for place, found in grouped.items()]
    best: dict[tuple[str, str], Tried] = {}
    for point in points:
        row = (point.experiments, point.row)
        if not point.failed and (row not in best or point.score > best[row].score):
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
            numbers = (each.score, each.error, each.accuracy, each.margin)
            best = "best" if point.best else ""
            values = (each.setting, each.row, " ".join(point.point), each.seed, *numbers, best)
            table.writerow(dict(zip(FIELDS, values, strict=True)))
    return out.getvalue()


def search_page(points: Sequence[Tried], by: Score) -> str:
    """All points as a table for docs/; the best of a row is bold."""
    settings = list(dict.fromkeys(each.setting for point in points for each in point.results))
    several = settings if len(settings) > 1 else []
    more = [] if by is ACCURACY else [ACCURACY.title]
    titles = [*several, by.title, *more, "margin, nats"]
    lines = [["row", "point", *titles], ["---", "---", *["---:"] * len(titles)]]
    for point in points:
        shown = " ".join(point.point)
        numbers = [by.shown(point.scores[name]) if name in point.scores else "" for name in several]
        if point.failed:
            numbers += ["failed", *("" for _ in more), ""]
        else:
            numbers += [_with_error(point, by), *(ACCURACY.shown(point.accuracy) for _ in more), f"{point.margin:.1f}"]
        lines.append([point.row, f"**{shown}**" if point.best else shown, *numbers])
    return _page(lines, f"{by.rule} Bold: what was chosen.")


def chosen_page(points: Sequence[Tried], by: Score) -> str:
    """The chosen point of each row as a table for docs/, beside the next best and how many were tried."""
    lines = [["row", "chosen", by.title, "next best", "points", "seeds"], ["---", "---", "---:", "---:", "---:", "---"]]
    apart: list[str] = []
    for best in (each for each in points if each.best):
        others = [each for each in points if (each.experiments, each.row) == (best.experiments, best.row)]
        behind = max((each.score for each in others if not each.best and not each.failed), default=None)
        seeds = ", ".join(dict.fromkeys(each.seed for each in best.results if each.seed))
        numbers = [_with_error(best, by), "" if behind is None else by.shown(behind), str(len(others)), seeds]
        lines.append([best.row, " ".join(best.point), *numbers])
        if best.accuracy < max(each.accuracy for each in others if not each.failed):
            apart.append(best.row)
    below = f"{by.rule} All points: search.md beside this file."
    if by is not ACCURACY:
        below += f" Rows in which another point has a higher {ACCURACY.title[:-2]}: {len(apart)} of {len(lines) - 2}."
    return _page(lines, below)


def _with_error(point: Tried, by: Score) -> str:
    return f"{by.shown(point.score)} ±{by.shown(point.error)}"


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


def _mean(values: Iterable[float | None]) -> float:
    known = [value for value in values if value is not None]
    return sum(known) / len(known)
