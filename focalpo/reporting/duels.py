"""The numbers of duels: every pair's scores on every benchmark, and ratings of all rows, from sealed duel stages.

duel/<setting>-<row>-<row>-s<seed>/<benchmark>.parquet --> Games --> Line, a pair's scores
                                                                 --> Rated, a setting's rows by Bradley-Terry
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from focalpo.reporting.judged import Judged, judged_by
from focalpo.scoring.bradley_terry import Standing, standings
from focalpo.scoring.differences import holm
from focalpo.scoring.duels import Duel, Games, duel
from focalpo.scoring.stats import arena_score
from focalpo.stages.folder import Job
from focalpo.stages.metrics import Column, column_of
from focalpo.stages.records import DuelGame, read_records

Pairing = tuple[str, str]
Played = dict[str, dict[str, list[DuelGame]]]
"""A pair's games by benchmark and seed."""


@dataclass(frozen=True, slots=True)
class Line:
    """One pair's scores on one benchmark of a setting; p-values are corrected for all scores of all lines."""

    setting: str
    benchmark: str
    first: str
    second: str
    found: Duel
    p_holm: float = float("nan")
    p_holm_controlled: float = float("nan")


@dataclass(frozen=True, slots=True)
class Rated:
    """The rows of a setting by their ratings on one benchmark, from the seeds that all pairs have; or `why` not."""

    setting: str
    benchmark: str
    seeds: int
    standings: Sequence[Standing] = ()
    why: str = ""


@dataclass(frozen=True, slots=True)
class DuelResults:
    """All duels and ratings, with labels of settings and rows; `base` is the row that ratings are relative to."""

    title: str
    settings: Mapping[str, str]
    rows: Mapping[str, str]
    base: str
    lines: Sequence[Line]
    rated: Sequence[Rated]
    judges: Sequence[Judged]
    warnings: Sequence[str] = ()

    @property
    def tests(self) -> int:
        """How many scores are tested, the size of Holm's family."""
        return sum(1 + (line.found.controlled is not None) for line in self.lines)

    def pair(self, line: Line) -> str:
        return f"{self.rows[line.first]} : {self.rows[line.second]}"


def results_of(job: Job, title: str, warnings: Sequence[str] = ()) -> DuelResults:
    """The numbers of the duels that a `duels` stage reads."""
    played = _played(job.inputs)
    lines = [
        Line(setting, benchmark, *pair, duel(_games(by_seed.values())))
        for (setting, pair), found in played.items()
        for benchmark, by_seed in found.items()
    ]
    names = job.settings["rows"]
    base = job.settings["compare_with"] if job.settings["compare_with"] in names else next(iter(names))
    places = dict.fromkeys((line.setting, line.benchmark) for line in lines)
    rated = [_rated(setting, benchmark, played, base) for setting, benchmark in places]
    judges = judged_by(list(job.inputs.values()))
    return DuelResults(title, job.settings["settings"], names, base, _corrected(lines), rated, judges, warnings)


def title_of(benchmark: str) -> str:
    """A benchmark's title: that of the table's column without the kind of score."""
    return _column(benchmark).title.removesuffix(" WR")


def source_of(benchmark: str) -> str:
    """The set of completions that a benchmark, or a category of one, is judged on."""
    return _column(benchmark).source


def _column(benchmark: str) -> Column:
    return column_of({"alpaca_eval": "ae2_wr"}.get(benchmark, benchmark))


def _played(inputs: Mapping[str, Path]) -> dict[tuple[str, Pairing], Played]:
    """The games of every pair, by setting and pair, from inputs SETTING/ROW:ROW/SEED."""
    found: dict[tuple[str, Pairing], Played] = {}
    for name, folder in inputs.items():
        setting, pair, seed = name.split("/")
        first, _, second = pair.partition(":")
        mine = found.setdefault((setting, (first, second)), {})
        for file in sorted(folder.glob("*.parquet")):
            for game in read_records(file, DuelGame):
                benchmark = game.id.rpartition("/")[0] or file.stem  # a category, where prompts have one
                mine.setdefault(benchmark, {}).setdefault(seed, []).append(game)
    return found


def _games(runs: Iterable[Sequence[DuelGame]]) -> Games:
    """The games of one pair, one list per seed."""
    seeds = [list(games) for games in runs]
    ids = [[game.id for game in games] for games in seeds]
    assert all(each == ids[0] for each in ids), "the runs of a pair answer the same prompts"
    assert all(games[place].leads == (place % 2 == 0) for games in seeds for place in range(len(games)))

    def array(name: str) -> np.ndarray:
        return np.array([[getattr(game, name) for game in games] for games in seeds], dtype=float).reshape(
            len(seeds), -1, 2
        )

    same, length, other = (array(name)[..., 0] for name in ("same", "length", "other_length"))
    return Games(array("result"), array("weight"), same, length, other)


def _rated(setting: str, benchmark: str, played: Mapping[tuple[str, Pairing], Played], base: str) -> Rated:
    mine = {pair: found[benchmark] for (place, pair), found in played.items() if place == setting}
    shared = [seed for seed in next(iter(mine.values())) if all(seed in by_seed for by_seed in mine.values())]
    duels = {}
    for pair, by_seed in mine.items():
        games = _games(by_seed[seed] for seed in shared)
        duels[pair] = arena_score(games.results, games.weights)
    try:
        return Rated(setting, benchmark, len(shared), standings(duels, base))
    except ValueError as error:
        return Rated(setting, benchmark, len(shared), why=str(error))


def _corrected(lines: Sequence[Line]) -> list[Line]:
    """The lines with p-values corrected for all scores, win rates and length-controlled ones."""
    tested = [each for line in lines for each in (line.found.win_rate, line.found.controlled) if each is not None]
    corrected = iter(holm([each.p for each in tested]))
    found = []
    for line in lines:
        rate = next(corrected)
        controlled = next(corrected) if line.found.controlled is not None else float("nan")
        found.append(replace(line, p_holm=rate, p_holm_controlled=controlled))
    return found
