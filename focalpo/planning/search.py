"""The points of a search: for each row of a table, every combination of the values that are tried, with every seed.

train -> sweep                the best point by reward accuracy, which the training measures
train -> held_out -> sweep    by the reward of the trained model's own answers to the prompts of the held-out pairs
"""

from collections.abc import Sequence
from dataclasses import dataclass

from focalpo.config.compose import compose_table, plain
from focalpo.config.mistakes import Mistake
from focalpo.config.overrides import expand
from focalpo.config.schema import SEARCH_SCORES, Config, TableConfig
from focalpo.planning.code import reward_code
from focalpo.planning.slices import backend_slice, generator_slice, model_slice, threads_slice
from focalpo.planning.table import compose_rows, only_row, split_arguments, with_rows
from focalpo.stages.folder import Stage

MOST = 100
"""Trainings that are started without being asked for by points=N."""
SEED = "seed="

Place = tuple[str, str, tuple[str, ...]]  # setting, row, overrides


@dataclass(frozen=True, slots=True)
class Training:
    """One training of a search: a point's overrides and a seed, and the `answers` of its model where they are scored.
    Both stages are None where one has failed.

    The settings that share the folder `experiments` share a row's values, so that one point is chosen for all of them.
    """

    setting: str
    experiments: str
    row: str
    overrides: list[str]
    stage: Stage | None
    answers: Stage | None = None


def search(arguments: list[str]) -> tuple[TableConfig, dict[Place, Config]]:
    """The table, and the configuration of each training of its rows' searches or of the command line's own.

    Raises:
        ValueError: when there are more trainings than `points=N` allows, or one is wrong.
    """
    limits = [each.removeprefix("points=") for each in arguments if each.startswith("points=")]
    own, overrides = split_arguments([each for each in arguments if not each.startswith("points=")])
    if len(limits) > 1 or not all(each.isdecimal() for each in limits):
        raise Mistake(f"points={','.join(limits)} must be one number, the most trainings to start")
    most = int(limits[0]) if limits else MOST
    table = with_rows(compose_table(own.get("table", "pocket"), overrides), own)
    found = places(table, overrides, [] if "settings" in own else table.search_settings)
    if len(found) > most:
        raise Mistake(
            f"{len(found)} trainings, more than {most}: choose fewer by settings=, rows= or KEY=VALUE, or allow them "
            f"by points={len(found)}"
        )
    return table, {
        (setting, row, point): config
        for setting, row, point in found
        for config in compose_rows(only_row(table, setting, row), list(point)).values()
    }


def places(table: TableConfig, overrides: Sequence[str], settings: Sequence[str]) -> list[Place]:
    """The trainings of a table's searches in these settings (none: all); overrides replace what is searched."""
    seeds = [SEED + ",".join(map(str, table.search_seeds))] if table.search_seeds else []
    tried = {
        row: expand([*table.searches.get(row, []), *seeds], overrides)
        for row, values in table.rows.items()
        if values.trained
    }
    chosen_from = {row: len({point_of(each) for each in points}) for row, points in tried.items()}
    if any(count > 1 for count in chosen_from.values()):  # a row with nothing to choose from is none to train here
        tried = {row: points for row, points in tried.items() if chosen_from[row] > 1}
    return [
        (setting, row, tuple(point))
        for setting in settings or table.settings
        for row, tried_of in tried.items()
        for point in tried_of
    ]


def point_of(overrides: Sequence[str]) -> tuple[str, ...]:
    """The overrides of a training that make its point: all but its seed."""
    return tuple(each for each in overrides if not each.startswith(SEED))


def held_out_stage(table: TableConfig, config: Config, train: Stage) -> Stage | None:
    """The answers of a trained model to the held-out prompts; None if the table does not choose by them.

    Raises:
        Mistake: when the table asks for a reward that its data do not have.
    """
    if table.search_by == SEARCH_SCORES[0]:
        return None
    code, pairs = reward_code(config), train.inputs["pairs"]
    if not code:
        wrong = f"search_by={table.search_by}: the labels of data={config.data.name} are not computed by code"
        raise Mistake(f"{wrong}; choose search_by={SEARCH_SCORES[0]}")
    checked = {"prompts": pairs.inputs["rated"].inputs["prompts"]} if "checkers" in code else {}
    decoding = plain(next(iter(config.generate.sets.values())))  # as the first benchmark is answered
    del decoding["questions"]
    return Stage(
        "held_out",
        train.name,
        settings={
            "model": model_slice(config, from_hub=False),
            "dtype": config.generate.dtype,
            "decoding": decoding,
            "seed": config.seed,
        }
        | code
        | backend_slice(config)
        | threads_slice(config),
        inputs={"model": train, "pairs": pairs} | checked,
        launch=generator_slice(config),
    )


def sweep_stage(name: str, by: str, trainings: list[Training]) -> Stage:
    """The results of a search, by the name of its table and by what it chooses."""
    shown = ("setting", "experiments", "row", "overrides")
    points = [{field: getattr(each, field) for field in shown} for each in trainings]
    inputs = {str(number): each.stage for number, each in enumerate(trainings) if each.stage}
    inputs |= {f"{number}/answers": each.answers for number, each in enumerate(trainings) if each.answers}
    return Stage("sweep", name, settings={"by": by, "points": points}, inputs=inputs)
