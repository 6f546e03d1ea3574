"""Group stages into Slurm job arrays: similar stages become one array, and their inputs become its dependencies.

stages that are neither sealed nor queued -> groups (kind, size, dependencies), in the order of submission
"""

import math
from dataclasses import dataclass, field

from focalpo.running.partial import PARTIAL
from focalpo.running.slurm import Limits
from focalpo.stages.folder import Stage


@dataclass(slots=True)
class Array:
    """Stages of one kind that wait for the same arrays; `job` is the Slurm job id, once submitted."""

    kind: str
    waits_for: tuple["Array", ...]
    stages: list[Stage] = field(default_factory=list)
    job: str = ""

    def mirrors(self, other: "Array") -> bool:
        """Whether task n of this array needs task n of the other array and no other task of it."""
        other_keys = [stage.key for stage in other.stages]
        needed = [{need.key for need in stage.needed} & set(other_keys) for stage in self.stages]
        return needed == [{key} for key in other_keys]


def arrays(stages: list[Stage], done: set[str], queued: dict[str, str], most: int | None = None) -> list[Array]:
    """Group the stages left to submit, in order, into arrays of at most `most` stages.

    `done` holds keys, `queued` maps keys to job ids. Where rows are more than an array may have, their next stages are
    cut at the same places, so that a row still waits only for its own array.
    """
    place: dict[str, Array] = {}
    open_arrays: dict[tuple, Array] = {}
    found: list[Array] = []
    for stage in stages:
        if stage.key in done:
            continue
        if stage.key in queued:
            place[stage.key] = Array(stage.kind, (), [stage], queued[stage.key])
            continue
        needed = [place[need.key] for need in stage.needed if need.key in place]
        waits_for = tuple({id(array): array for array in needed}.values())
        key = (stage.kind, stage.launch.get("ranks", 1), tuple(sorted(id(array) for array in waits_for)))
        array = open_arrays.get(key)
        if array is None or len(array.stages) == most:
            array = open_arrays[key] = Array(stage.kind, waits_for)
            found.append(array)
        array.stages.append(stage)
        place[stage.key] = array
    return found


def fitting(left: list[Array], most: Limits, qos: dict[str, str | None]) -> list[Array]:
    """The first arrays, in order, that the limits have room for; the last of them may be cut. `qos` is that of each
    kind of stage."""
    fit: list[Array] = []
    room: dict[str | None, float] = {name: tasks for name, tasks in most.qos.items()}  # noqa: C416 (other keys)
    room[None] = math.inf if most.tasks is None else most.tasks
    for array in left:
        limited = (None, qos[array.kind] or most.default)
        tasks = min(room.get(name, math.inf) for name in limited)
        if len(array.stages) > tasks:
            return [*fit, Array(array.kind, array.waits_for, array.stages[: int(tasks)])] if tasks else fit
        room |= {name: room.get(name, math.inf) - len(array.stages) for name in limited}
        fit.append(array)
    return fit


def dependency(array: Array) -> str:
    """The array's `--dependency`: task by task where the tasks correspond, so that a failed row stops only itself, and
    any end for a report, which is made of the rows that succeeded."""
    kinds = [(_kind(array, other), other.job) for other in array.waits_for]
    return ",".join(f"{kind}:{job}" for kind, job in kinds)


def _kind(array: Array, other: Array) -> str:
    if array.kind in PARTIAL:
        return "afterany"
    # Only between arrays: of a single task that is queued, 7_3, aftercorr would wait for this task's number, 7_0.
    return "aftercorr" if len(other.stages) > 1 and array.mirrors(other) else "afterok"
