"""What a table's trainings cost as it grows: linear in pairs and trainings, more than linear in tokens."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from focalpo.planning import growth
from focalpo.planning.growth import Cost, costs
from focalpo.planning.needs import Estimate
from focalpo.planning.table import Planned, planned
from focalpo.stages.folder import Stage


@pytest.fixture(scope="module")
def laptop(tmp_path_factory: pytest.TempPathFactory) -> Planned:
    runs = tmp_path_factory.mktemp("runs")
    return planned(["table=laptop", "rows=dpo,focalpo", f"runs={runs}"])


def by_axis(found: list[Cost]) -> dict[str, dict[float, Cost]]:
    axes: dict[str, dict[float, Cost]] = {}
    for cost in found:
        axes.setdefault(cost.axis, {})[cost.times] = cost
    return axes


def trainings(plan: Planned) -> list[Stage]:
    return [row.train for row in plan.rows.values() if row.train is not None]


def test_each_axis_grows_as_the_work_does(laptop: Planned) -> None:
    axes = by_axis(costs(laptop))
    one = axes["pairs"][1.0]
    operations = sum(Estimate(laptop.first, laptop.runs).training(stage) for stage in trainings(laptop))
    assert one.hours == pytest.approx(operations / 1.9e11 / 3600) and one.rate == "estimate"  # conf/sizes.yaml
    assert {axis[1.0].hours for axis in axes.values()} == {one.hours}
    assert (one.value, axes["trainings"][1.0].value) == (312, len(trainings(laptop)))
    assert axes["tokens of a pair"][1.0].value == 58 + 2 * 60
    for axis in ("pairs", "trainings"):
        assert [axes[axis][times].hours / times for times in growth.TIMES] == pytest.approx([one.hours] * 5)
    each = [axes["tokens of a pair"][times].hours / times for times in growth.TIMES]
    assert each == sorted(set(each)), "attention sees more keys"


def test_ranks_share_the_work_but_wait_for_each_other_and_need_pairs(laptop: Planned) -> None:
    ranks = by_axis(costs(laptop))["ranks"]
    assert list(ranks) == [1.0, 2.0, 4.0], "a half rank does not exist"
    assert 0.5 < ranks[2.0].hours / ranks[1.0].hours < 0.6
    assert 0.25 < ranks[4.0].hours / ranks[1.0].hours < 0.5


def test_the_rate_is_that_of_sealed_trainings_that_were_never_restarted(
    laptop: Planned, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two sealed trainings one was restarted: its manifest has the seconds of its last start only."""
    first, second, *_ = [stage.key for stage in trainings(laptop)]
    manifests = {first: {"starts": 1, "seconds": 100.0}, second: {"starts": 2, "seconds": 1.0}}

    def folder(runs: Path, stage: Stage) -> SimpleNamespace:
        return SimpleNamespace(sealed=stage.key in manifests, path=stage.key)

    monkeypatch.setattr(growth, "Folder", folder)
    monkeypatch.setattr(growth, "read_manifest", manifests.__getitem__)
    one = by_axis(costs(laptop))["pairs"][1.0]
    assert one.rate == "at the pace of 1 sealed ones"
    assert one.hours == pytest.approx(100.0 * len(trainings(laptop)) / 3600, rel=1e-3)  # all train on as many pairs


def test_a_table_that_trains_nothing_is_one_line_of_error() -> None:
    with pytest.raises(ValueError, match="the paper table trains nothing; choose another one"):
        costs(planned(["table=paper", "rows=released"]))
