"""Tables of the results: medians of the repeats, and every factor against a row of the same run."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from statistics import median

from focalpo.speed.columns import Row
from focalpo.speed.flops import useful_flops
from focalpo.speed.measurements import OURS, Measurement
from focalpo.speed.planner import Dealt
from focalpo.speed.workload import Workload, trees_of

Results = Mapping[str, dict]


def rates(measured: Sequence[dict], workload: Workload, ceiling: float) -> Row:
    """Medians over repeats: pairs and response tokens per second, peak memory, and useful operations as a share of the
    rate of a matrix product."""
    train = trees_of(workload)[workload.train.global_batch :]
    seconds = median(sum(each["seconds"]) for each in measured)
    return {
        "pairs/s": len(train) / seconds,
        "response tokens/s": sum(len(r) for tree in train for r in tree.branches.values()) / seconds,
        "peak GB": median(each["peak_bytes"] for each in measured) / 1e9,
        "of matmul": useful_flops(workload.shape.dimensions, train) / seconds / ceiling,
        "first loss": measured[0]["first_loss"],
    }


def ceiling_of(results: Results, dtype: str, plan: Sequence[Measurement]) -> float:
    """The best rate of a matrix product in `dtype` over all processes of this run."""
    return max(results[m.name]["matmul_rate"] for m in plan if m.workload.train.dtype == dtype and _timed(m))


def grouped(plan: Sequence[Measurement]) -> dict[tuple[str, str], list[Measurement]]:
    """Group the repeats of one contender on one distribution of lengths; points of growth are not grouped."""
    found: dict[tuple[str, str], list[Measurement]] = {}
    for m in filter(_timed, plan):
        first, second, *_ = m.name.split("/")
        if first != "growth":
            found.setdefault((first, second), []).append(m)
    return found


def comparison(plan: Sequence[Measurement], results: Results) -> list[Row]:
    """One row per contender and distribution of lengths: its speed relative to this engine's first row, and how much
    faster this engine is in the same dtype with the same loss."""
    rows, firsts, own = [], {}, []
    for (lengths, contender), repeats in grouped(plan).items():
        if lengths == "ablation":
            continue
        workload = repeats[0].workload
        row = rates([results[m.name] for m in repeats], workload, ceiling_of(results, workload.train.dtype, plan))
        if repeats[0].what == OURS:
            own.append((workload, row))
        first = firsts.setdefault(lengths, row)
        ours = next(each for load, each in own if load == workload)
        rows.append({"lengths": lengths, "engine": contender} | row | _factors(first, ours, row))
    return rows


def _factors(first: Row, ours: Row, row: Row) -> Row:
    return {"speed": _times(row, first), "ours is": _times(ours, row), "ours needs": _memory(ours, row)}


def _times(one: Row, other: Row) -> str:
    return f"{_number(one['pairs/s']) / _number(other['pairs/s']):.2f} x"


def _memory(ours: Row, row: Row) -> str:
    return f"{_number(ours['peak GB']) / _number(row['peak GB']):.2f} x GB"


def ablation(plan: Sequence[Measurement], results: Results) -> list[Row]:
    """One row per speed-up switched off: speed, memory, and the largest change of a loss and of a gradient."""
    rows: list[Row] = []
    for (lengths, variant), repeats in grouped(plan).items():
        if lengths != "ablation":
            continue
        workload = repeats[0].workload
        row = rates([results[m.name] for m in repeats], workload, ceiling_of(results, workload.train.dtype, plan))
        base = rows[0] if rows else row
        apart = results["exactness"].get(variant, {})
        changes = {f"largest {what} change": f"{apart[what]:.1e}" if apart else "" for what in ("loss", "gradient")}
        rows.append({"engine": variant} | row | {"speed": _times(row, base)} | changes)
    return rows


def growth(plan: Sequence[Measurement], results: Results, objectives: Sequence[int]) -> list[Row]:
    """One row per point of each axis; several objectives share one reference, and both times are measured."""
    rows: list[Row] = []
    points = [m for m in plan if m.name.startswith("growth/") and _timed(m)]
    for m in points:
        _, axis, value = m.name.split("/")
        states = 16 * m.workload.shape.dimensions.parameters  # fp32 weights, gradients and two moments
        row = rates([results[m.name]], m.workload, ceiling_of(results, m.workload.train.dtype, plan))
        above = _number(row["peak GB"]) - states / 1e9
        rows.append({"axis": axis, "value": int(value), "GB above model states": above} | row)
    shared = next((m for m in points if m.name.startswith("growth/pairs per batch/")), None)
    if shared is not None:
        reference = (
            results[f"{shared.name}/reference"]["seconds"] * shared.workload.train.global_batch / shared.workload.pairs
        )
        step = median(results[shared.name]["seconds"])
        for count in objectives:
            rate = count * shared.workload.train.global_batch / (reference + count * step)
            rows.append({"axis": "objectives on one reference", "value": count, "pairs/s": rate})
    return rows


def planner(plans: Sequence[Dealt]) -> list[Row]:
    """One row per plan: how evenly global batches are dealt."""
    return [asdict(plan) for plan in plans]


def _number(value: object) -> float:
    assert isinstance(value, float)
    return value


def _timed(measurement: Measurement) -> bool:
    return measurement.what in (OURS, "trl")
