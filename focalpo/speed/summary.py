"""The rows of a session as lines and as tables."""

from collections.abc import Sequence
from statistics import median

from focalpo.speed.columns import text
from focalpo.speed.tasks import FAILED, OK, OURS, Row

FIRST = (OURS, "everything on")
"""What the others of a part are compared with; it is measured first, unless it could not be."""
SHOWN = ("pairs/s", "peak GB", "of matmul", "first loss")


def line(row: Row) -> str:
    """A row as it is printed while the session runs."""
    found = "; ".join(said for said in (_figures(row), row.why) if said)
    size = f" ({row.size})" if row.size else ""
    return f"{state(row):13} {row.part}: {row.name}{size}" + (f": {found}" if found else "")


def state(row: Row) -> str:
    """The result in a word or two; a check that is not as it should be is a failure."""
    return FAILED if not all(check["ok"] for check in row.figures.get("checks", ())) else row.result


def _figures(row: Row) -> str:
    checks = row.figures.get("checks")
    if checks is not None:
        return "; ".join((f"{c['name']}: " if len(checks) > 1 else "") + c["figures"] for c in checks)
    return ", ".join(f"{row.figures[name]:.3g} {name}" for name in SHOWN if name in row.figures)


def table(rows: Sequence[Row]) -> str:
    """Every check, every row that was measured beside ours, then every one that was not, and why."""
    checks = [check for row in rows for check in row.figures.get("checks", ())]
    timed = [row for row in rows if "pairs/s" in row.figures]
    others = [row for row in rows if row.result != OK]
    found = [
        [{"check": c["name"], "result": OK if c["ok"] else FAILED, "figures": c["figures"]} for c in checks],
        *([{"part": part} | each for each in _compared(part, timed)] for part in dict.fromkeys(r.part for r in timed)),
        [{"not measured": r.name, "size": r.size, "result": r.result, "why": r.why} for r in others],
    ]
    return "\n\n".join(text(each) for each in found if each)


def _compared(part: str, timed: Sequence[Row]) -> list[dict]:
    """The medians over the repeats of each contender at each size; and how many times as fast the first one is, which
    is ours, where both have as many layers."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in timed:
        if row.part == part:
            groups.setdefault((row.name.split("/")[-2], row.size), []).append(row)  # bench/lengths/contender/repeat
    found, (ours, *_) = [], groups.values()
    for (name, size), repeats in groups.items():
        medians = {figure: median(row.figures[figure] for row in repeats) for figure in SHOWN}
        ratio = median(row.figures["pairs/s"] for row in ours) / medians["pairs/s"]
        alike = ours[0].figures["layers"] == repeats[0].figures["layers"]
        times = f"{ratio:.2f} x" if alike and name_of(ours) in FIRST else ""
        found.append({"engine": name, "size": size, "runs": len(repeats)} | medians | {"ours is": times})
    return found


def name_of(repeats: Sequence[Row]) -> str:
    return repeats[0].name.split("/")[-2]
