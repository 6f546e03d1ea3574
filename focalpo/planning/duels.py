"""Duels of a table's rows: which pairs, the stage in which a judge compares two rows' answers, and their tables.

    pairs=dpo:focalpo,... --> a duel per setting, pair and seed, of two generate stages --> duels: the tables of all

Seed i of one row meets seed i of the other: they share data order and sampling, and so many of their answers are equal.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations

from focalpo.config.compose import plain
from focalpo.config.mistakes import Mistake, choose
from focalpo.config.schema import Config, TableConfig
from focalpo.judging.earlier import OPPONENT
from focalpo.planning.code import duel_code, duels_code
from focalpo.planning.needs import Estimate
from focalpo.planning.scored import judge_stage
from focalpo.planning.stages import Place, Row, table_rows
from focalpo.planning.table import Planned, composed_table
from focalpo.stages.folder import Folder, Stage

PAIRS, ALL = "pairs=", "all"
Pairing = tuple[str, str]
"""Two rows of a table; scores are the first one's."""


def planned_duels(arguments: list[str]) -> Planned:
    """As `planned`, with the duels of the table's rows in the place of its report; start nothing."""
    table, configs = composed_duels(arguments)
    rows = table_rows(table, configs)
    goal = duels_stage(table, configs, rows, pairings(table, _asked(arguments)), arguments)
    return Planned(table, configs, rows, goal)


def composed_duels(arguments: list[str]) -> tuple[TableConfig, dict[tuple[str, str], Config]]:
    """As `composed_table`, after a check that its rows can meet and have a judge.

    Raises:
        ValueError: when the command line is wrong, or the table asks no judge.
    """
    table, configs = composed_table([each for each in arguments if not each.startswith(PAIRS)])
    if not all(config.judge.benchmarks for config in configs.values()):
        raise Mistake(f"the {table.scale} table asks no judge, and duels need one; take table=pocket, one_gpu or paper")
    pairings(table, _asked(arguments))
    return table, configs


def pairings(table: TableConfig, asked: str | None) -> list[Pairing]:
    """The pairs that a command line names; by default every row against the one that the table compares with.

    Raises:
        ValueError: when a pair is none of two different rows of the table, or is named twice.
    """
    base = table.compare_with
    if asked in (None, ALL):
        found = [(two, one) if one == base else (one, two) for one, two in combinations(table.rows, 2)]
        if asked is None:
            found = [pair for pair in found if base in pair]
        if not found:
            raise Mistake(f"no row meets {base} among {', '.join(table.rows)}; add rows by rows=, or name {PAIRS}A:B")
        return found
    found = [_pairing(text, table, asked) for text in asked.split(",")]
    if len({frozenset(pair) for pair in found}) < len(found):
        raise Mistake(f"{PAIRS}{asked} names a pair twice; name each once")
    return found


def duel_stage(config: Config, label: str, first: Stage, second: Stage) -> Stage:
    """The judge's verdicts on the completions of two generate stages, against each other and in both orders."""
    judged = judge_stage(config, label, first)
    settings = judged.settings | {"code": duel_code(config)}
    return replace(judged, kind="duel", settings=settings, inputs=judged.inputs | {OPPONENT: second})


def duels_stage(
    table: TableConfig,
    configs: dict[tuple[str, str], Config],
    rows: dict[Place, Row],
    pairs: Sequence[Pairing],
    command: Sequence[str] = (),
) -> Stage:
    """The tables of all duels; `command` holds the arguments of `recipes.duels` that requested them."""
    inputs = {
        f"{setting}/{first}:{second}/{seed}": duel_stage(
            configs[setting, first],
            f"{setting}-{first}-{second}-s{seed}",
            *(rows[setting, row, seed].generate for row in (first, second)),
        )
        for setting in table.settings
        for first, second in pairs
        for seed in _seeds(rows, setting, (first, second))
    }
    settings = {
        "table": table.study or table.scale,
        "settings": {name: each.label for name, each in table.settings.items()},
        "rows": {name: row.label for name, row in table.rows.items() if any(name in pair for pair in pairs)},
        "compare_with": table.compare_with,
        "code": duels_code(),
    }
    launch = {"command": list(command), "track": plain(next(iter(configs.values())).track)}
    return Stage("duels", table.study or table.scale, settings, inputs, launch)


def expected(plan: Planned) -> str:
    """The duels of a plan that are left, and what the judge would take for them at most."""
    left = [stage for stage in plan.report.inputs.values() if not Folder(plan.runs, stage).sealed]
    needs = [Estimate(plan.first, plan.runs).of(stage) for stage in left]
    requests, tokens, usd = (sum(getattr(need, name) for need in needs) for name in ("requests", "tokens", "usd"))
    cost = f", {tokens:,} tokens, USD {usd:,.2f}" if tokens else ""
    return f"{len(left)} of {len(plan.report.inputs)} duels are left: at most {requests:,} requests{cost}"


def _seeds(rows: dict[Place, Row], setting: str, pair: Pairing) -> Iterator[str]:
    """The seeds that both rows have."""
    places = [place for place in rows if place[:2] == (setting, pair[0])]
    return (seed for _, _, seed in places if (setting, pair[1], seed) in rows)


def _pairing(text: str, table: TableConfig, asked: str) -> Pairing:
    first, _, second = text.partition(":")
    for name in (first, second):
        if name not in table.rows:
            known = choose(name, table.rows)
            raise Mistake(f"{PAIRS}{asked}: {name!r} is no row of the table; {known}; a pair is ROW:ROW")
    if first == second:
        raise Mistake(f"{PAIRS}{asked}: {first} cannot meet itself; a pair is two rows, ROW:ROW")
    return first, second


def _asked(arguments: Sequence[str]) -> str | None:
    found = [each.removeprefix(PAIRS) for each in arguments if each.startswith(PAIRS)]
    if len(found) > 1:
        raise Mistake(f"{PAIRS} is given twice; give it once")
    return found[0] if found else None
