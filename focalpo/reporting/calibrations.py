"""A judge's calibration as text and as CSV: one line per model, and one over all models."""

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, fields
from statistics import mean

from focalpo.reporting.tables import aligned
from focalpo.scoring.calibration import Calibration, spearman

ALL = "all models"
HEADINGS = {
    "pairs": "pairs",
    "agreement": "agreement %",
    "win_rate": "WR",
    "win_rate_published": "published",
    "lc": "LC",
    "lc_published": "published",
    "lc_shift": "LC shift",
    "longer": "longer wins %",
    "longer_published": "published",
    "position_bias": "first shown, points",
    "consistency": "consistent %",
}
RANKED = {"spearman_win_rate": ("win_rate_published", "win_rate"), "spearman_lc": ("lc_published", "lc")}
NOTES = (
    "agreement: pairs with the published winner; a tie counts half. longer wins: pairs that the longer answer wins.",
    "first shown: points gained by being shown first, 0 is fair. consistent: same winner in both orders.",
    "LC shift: this judge's length-controlled win rate minus the published one. It is reported, never applied.",
)


def summary(found: Sequence[Calibration]) -> dict[str, float | None]:
    """Each column's mean over the models that have it, the total of pairs, and the rank correlations over models."""
    rows = [values(row) for row in found]
    means = {name: _mean([row[name] for row in rows]) for name in HEADINGS}
    ranked: dict[str, float | None] = {}
    for name, columns in RANKED.items():
        published, judged = (_known([row[column] for row in rows]) for column in columns)
        ranked[name] = spearman(published, judged) if len(published) == len(judged) == len(rows) else None
    return means | ranked | {"pairs": float(sum(row.pairs for row in found))}


def values(row: Calibration) -> dict[str, float | None]:
    """One model's numbers by column."""
    return {name: value for name, value in asdict(row).items() if name != "model"} | {"lc_shift": row.lc_shift}


def as_text(title: str, found: Sequence[Calibration]) -> str:
    """Format the table, the rank correlations and the meaning of the columns."""
    over_all = summary(found)
    lines = [["", *HEADINGS.values()]]
    lines += [[row.model, *_formatted(values(row))] for row in found] + [[ALL, *_formatted(over_all)]]
    ranks = ", ".join(
        f"{of} {'- (too few models, or no LC)' if over_all[name] is None else format(over_all[name], '.3f')}"
        for name, of in (("spearman_win_rate", "WR"), ("spearman_lc", "LC"))
    )
    return "\n".join([title, "", aligned(lines), "", f"Spearman over {len(found)} models: {ranks}", *NOTES]) + "\n"


def as_csv(found: Sequence[Calibration]) -> str:
    """Format every number at full precision; a missing number is empty."""
    names = [field.name for field in fields(Calibration) if field.name != "model"]
    columns = [*names, "lc_shift", *RANKED]
    out = io.StringIO()
    writer = csv.DictWriter(out, ["model", *columns], lineterminator="\n", restval="")
    writer.writeheader()
    for row in found:
        writer.writerow({"model": row.model} | values(row))
    writer.writerow({"model": ALL} | summary(found))
    return out.getvalue()


def _mean(numbers: Sequence[float | None]) -> float | None:
    known = _known(numbers)
    return mean(known) if known else None


def _known(numbers: Sequence[float | None]) -> list[float]:
    return [number for number in numbers if number is not None]


def _formatted(row: dict[str, float | None]) -> list[str]:
    texts = []
    for name in HEADINGS:
        number = row[name]
        text = "-" if number is None else f"{number:.0f}" if name == "pairs" else f"{number:.1f}"
        texts.append(f"+{text}" if name in ("lc_shift", "position_bias") and number and number > 0 else text)
    return texts
