"""The rows of a session on a GPU, the most valuable first, and what runs each: correctness, this engine beside TRL,
what each speed-up gains, the other benches, and the repeats of what was cheap to leave out."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial

import torch

from focalpo.speed.correct import Check, checks, packed_is_padded
from focalpo.speed.measurements import KERNELS, Measurement, ablations, peers
from focalpo.speed.run import WHAT
from focalpo.speed.switches import Switches
from focalpo.speed.tables import rates
from focalpo.speed.tasks import OURS, TRL, Task

CORRECT = "correctness"
SECONDS, COMPILING = (120.0, 240.0) if torch.cuda.is_available() else (900.0, 900.0)  # a rehearsal may be slow
COMPILED = ("compiled", "flex")
"""What is compiled when it is first called, and takes longer then."""
ONE_SHAPE = ["~lengths.long_prompts", "~lengths.short_chat"]
Run = Callable[[int, dict], dict]
"""Runs a task at the place of one of its sizes, with the reference log-probs by branch; returns its figures."""
Rank = tuple[bool, bool, bool, int, int]
"""What has less value has a higher one: repeats of ablations, then other benches than the first, then ablations, then
later repeats."""


def planned(benches: Sequence[str]) -> list[tuple[Task, Run]]:
    """All tasks with what runs them; a package that is missing for the measurements is named by a task of its own.

    Raises:
        ValueError: when a configuration is wrong.
    """
    found = [*_checks()]
    try:
        measured = [each for place, bench in enumerate(benches) for each in _measurements(bench, first=not place)]
    except ModuleNotFoundError as error:
        return [*found, (Task("peers", "all", OURS, [""], [str(error.name)], None, 0.0), lambda place, logps: {})]
    ranked = sorted([*measured, *_alternatives()], key=lambda each: each[0])
    return found + [(task, run) for _, task, run in ranked]


def _checks() -> Iterator[tuple[Task, Run]]:
    for name, check in checks().items():
        needs = ["deepspeed"] if name == "training" else []
        yield Task(CORRECT, name, OURS, [""], needs, None, SECONDS), partial(_checked, check)


def _alternatives() -> Iterator[tuple[Rank, Task, Run]]:
    """The checks of the kernels of attention that only the ablation knows, before it; they need a GPU."""
    for attention in ("flash_3", "blocks", "flex") if torch.cuda.is_available() else ():
        check = partial(packed_is_padded, "llama", Switches(attention=attention))
        needs, seconds = list(KERNELS.get(attention, ())), COMPILING if attention in COMPILED else SECONDS
        task = Task(CORRECT, f"{attention} attention", OURS, [""], needs, None, seconds)
        yield (False, False, True, -1, 0), task, partial(_checked, check)


def _checked(check: Callable[[], list[Check]], place: int, logps: dict) -> dict:
    return {"checks": [asdict(each) for each in check()]}


def _measurements(bench: str, first: bool) -> Iterator[tuple[Rank, Task, Run]]:
    """The measurements of a bench with their ranks."""
    from focalpo.config.compose import compose_bench

    config = compose_bench(bench, ONE_SHAPE)
    labels = [each.label for each in config.peers.values()]
    order = ["reference", OURS, *reversed(labels)]  # TRL's defaults last, then ours in other dtypes and losses
    seen: set[str] = set()
    for part, measurements in (("peers", peers), ("ablations", ablations)):
        for place, measurement in enumerate(measurements(config, []) if part in config.parts else ()):
            if measurement.what == "exactness" or measurement.name in seen:
                continue
            seen.add(measurement.name)
            _, contender, turn = measurement.name.split("/") if measurement.reference else ("", "reference", "-1")
            again = part == "ablations" and int(turn) > 0
            place = order.index(contender) if contender in order else len(order) + place
            rank = again, not first, part != "peers", int(turn), place
            yield rank, *_task(measurement, bench, part if first else f"{part}, {bench}")


def _task(measurement: Measurement, bench: str, part: str) -> tuple[Task, Run]:
    ladder = [measurement]
    while (smaller := ladder[-1].smaller()) is not None:
        ladder.append(smaller)
    chosen = measurement.workload.train.kernels, measurement.fields.get("switches", {}).get("attention")
    task = Task(
        part,
        f"{bench}/{measurement.name}",
        TRL if measurement.what == "trl" else OURS,
        [each.size for each in ladder],
        measurement.needs,
        f"{bench}/{measurement.reference}" if measurement.reference else None,
        COMPILING if set(chosen) & set(COMPILED) else SECONDS,
    )
    return task, partial(_measured, ladder)


def _measured(ladder: Sequence[Measurement], place: int, logps: dict) -> dict:
    measurement = ladder[place]
    found = WHAT[measurement.what](measurement.workload, measurement.fields, logps)
    if measurement.what == "reference":
        return found
    figures = rates([found], measurement.workload, found["matmul_rate"])
    return figures | {"layers": measurement.workload.shape.num_hidden_layers}
