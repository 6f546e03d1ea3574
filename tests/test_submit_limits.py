"""What is submitted at once: the sizes of arrays, and what the limits of a site leave room for."""

import pytest

from focalpo.running import slurm as slurm_commands
from focalpo.running.arrays import Array, arrays, dependency, fitting
from focalpo.running.slurm import Limits, limits
from focalpo.stages.folder import Stage


def test_arrays_keep_to_the_largest_size_and_rows_to_their_own_array() -> None:
    """Five rows of two stages, at most 2 to an array: 2 + 2 + 1, each second stage behind the first of its own row."""
    trained = [Stage("train", f"row-{n}", {"n": n}) for n in range(5)]
    answered = [Stage("generate", f"row-{n}", {"n": n}, {"model": stage}) for n, stage in enumerate(trained)]
    whole = Stage("report", "all", {}, {str(n): stage for n, stage in enumerate(answered)})
    found = arrays([*trained, *answered, whole], set(), {}, most=2)
    assert [(array.kind, len(array.stages)) for array in found] == [
        *(("train", 2), ("train", 2), ("train", 1)),
        *(("generate", 2), ("generate", 2), ("generate", 1), ("report", 1)),
    ]
    for number, array in enumerate(found, 1):
        array.job = str(number)
    assert [dependency(array) for array in found[3:]] == [
        *("aftercorr:1", "aftercorr:2", "afterok:3"),
        "afterany:4,afterany:5,afterany:6",
    ]
    assert [stage for array in found for stage in array.stages] == [*trained, *answered, whole]


def test_a_stage_waits_for_the_task_that_is_queued_for_it() -> None:
    """Task 3 of job 7. With aftercorr, Slurm would let the only task of the new array, number 0, wait for 7_0."""
    train = Stage("train", "row", {})
    generate = Stage("generate", "row", {}, {"model": train})
    (array,) = arrays([train, generate], set(), {train.key: "7_3"})
    assert dependency(array) == "afterok:7_3"


@pytest.mark.parametrize(
    ("room", "qos", "expected"),
    [
        *((None, {}, [3, 2, 4]), (9, {}, [3, 2, 4]), (8, {}, [3, 2, 3]), (5, {}, [3, 2]), (4, {}, [3, 1])),
        *((1, {}, [1]), (0, {}, [])),
        *((None, {"long": 2}, [3, 2, 4]), (None, {"long": 1}, [3, 1]), (None, {"long": 0}, [3])),
        *((None, {"normal": 7}, [3, 2, 4]), (None, {"normal": 6}, [3, 2, 3]), (None, {"normal": 2}, [2])),
        *((6, {"normal": 9, "long": 9}, [3, 2, 1]), (9, {"normal": 4, "long": 1}, [3, 1])),
    ],
)
def test_no_more_is_submitted_than_there_is_room_for(
    room: int | None, qos: dict[str, int], expected: list[int]
) -> None:
    """Arrays of 3, 2 and 4 tasks, the second of them in a QoS of its own."""
    kinds = ("train", "judge", "train")
    left = [
        Array(kind, (), [Stage(kind, "x", {"n": n}) for n in range(count)])
        for kind, count in zip(kinds, (3, 2, 4), strict=True)
    ]
    fit = fitting(left, Limits(None, room, qos), {"train": None, "judge": "long"})
    assert [len(array.stages) for array in fit] == expected
    assert all(part.stages == whole.stages[: len(part.stages)] for part, whole in zip(fit, left, strict=False))


@pytest.mark.parametrize(
    ("answers", "queued", "expected"),
    [
        ({}, [], Limits(1001, None)),
        ({"MaxSubmitJobs": "", "MaxSubmitJobsPerUser": ""}, ["physics|long"] * 3, Limits(1001, None)),
        ({"MaxSubmitJobs": "50\n"}, ["physics|long"] * 3, Limits(1001, 47)),
        ({"MaxSubmitJobs": "50\n\n20"}, ["physics|long"] * 3, Limits(1001, 17)),
        ({"MaxSubmitJobs": "2"}, ["physics|long"] * 3, Limits(1001, 0)),
        ({"MaxSubmitJobs": "50"}, ["physics|long", "chemistry|long"], Limits(1001, 49)),
        (
            {"MaxSubmitJobs": "50", "MaxSubmitJobsPerUser": "10", "DefaultQOS": "calm"},
            ["physics|long", "physics|calm", "physics|calm", "physics|other"],
            Limits(1001, 46, {"long": 9, "calm": 8}, "calm"),
        ),
    ],
)
def test_limits_are_those_of_the_site_less_what_is_queued_there(
    monkeypatch, answers: dict[str, str], queued: list[str], expected: Limits
) -> None:
    def answer(command: list[str]) -> str:
        if command[0] == "sacctmgr":
            column = command[-1].removeprefix("format=")
            if not answers:
                raise ValueError("sacctmgr failed: there is no accounting")
            assert "associations" not in command or {"account=physics", "cluster=blue"} < set(command)
            return "physics" if column == "DefaultAccount" else answers.get(column, "")
        if command[0] == "squeue":
            return "\n".join(queued)
        return "ClusterName = blue\nMaxArraySize            = 1001\nMaxJobCount = 10000"

    monkeypatch.setattr(slurm_commands, "slurm", answer)
    assert limits(None, {"long", None}) == expected
