"""A judge's calibration as text and as CSV: one line per model, and one over all models."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import fields
from statistics import mean

import numpy as np

from focalpo.reporting.tables import aligned
from focalpo.scoring.calibration import Calibration, Resampled, bounds, spearman, spearman_rounds
from focalpo.scoring.stats import Array

ALL = "all models"
NUMBERS = [field.name for field in fields(Calibration) if field.name not in ("model", "resampled")]
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
BOUNDED = ("agreement", "lc_shift")
"""Columns with an interval, as the rank correlations have."""
NOTES = (
    "In brackets: 95% bootstrap intervals over pairs; what other models would give is not in them.",
    "agreement: pairs with the published winner; a tie counts half. longer wins: pairs that the longer answer wins.",
    "first shown: points gained by being shown first, 0 is fair. consistent: same winner in both orders.",
    "LC shift: this judge's length-controlled win rate minus the published one. It is reported, never applied.",
)


def summary(found: Sequence[Calibration]) -> dict[str, float | None]:
    """Each column's mean over the models that have it, the sums of pairs, and the rank correlations over models."""
    rows = [values(row) for row in found]
    means = {name: _mean([row[name] for row in rows]) for name in HEADINGS}
    ranked: dict[str, float | None] = {}
    for name, columns in RANKED.items():
        published, judged = (_known([row[column] for row in rows]) for column in columns)
        ranked[name] = spearman(published, judged) if len(published) == len(judged) == len(rows) else None
    sums = {name: float(sum(getattr(row, name) for row in found)) for name in ("pairs", "missing")}
    return means | ranked | _all_bounds(found) | sums


def values(row: Calibration) -> dict[str, float | None]:
    """One model's numbers by column, with the ends of intervals as NAME_low and NAME_high."""
    numbers = {name: getattr(row, name) for name in NUMBERS} | {"lc_shift": row.lc_shift}
    return numbers | _ends({name: getattr(row.resampled, name) if row.resampled else None for name in BOUNDED})


def _all_bounds(found: Sequence[Calibration]) -> dict[str, float | None]:
    """Intervals over all models: of the means, and of the rank correlations."""
    drawn = [row.resampled for row in found if row.resampled is not None]
    if len(drawn) < len(found) or not _share_pairs(found):
        return _ends(dict.fromkeys([*BOUNDED, *RANKED]))
    means = {name: _over_models(drawn, name) for name in BOUNDED}
    ranks = {}
    for name, columns in RANKED.items():
        sides = [[getattr(each, column) for each in drawn] for column in columns]
        known = all(each is not None for side in sides for each in side)
        ranks[name] = spearman_rounds(*sides) if known else None
    return _ends(means | ranks)


def _share_pairs(found: Sequence[Calibration]) -> bool:
    """Whether a round of the bootstrap draws the same prompts for all models; what is drawn depends on their number."""
    return len({row.pairs for row in found}) == 1


def _over_models(drawn: Sequence[Resampled], name: str) -> Array | None:
    rounds = [getattr(each, name) for each in drawn]
    return None if any(each is None for each in rounds) else np.mean(rounds, axis=0)


def _ends(rounds: Mapping[str, Array | None]) -> dict[str, float | None]:
    ends = {name: bounds(each) or (None, None) for name, each in rounds.items()}
    return {f"{name}_{end}": pair[place] for name, pair in ends.items() for place, end in enumerate(("low", "high"))}


def as_text(title: str, found: Sequence[Calibration]) -> str:
    """Format the table, the rank correlations and the meaning of the columns."""
    over_all = summary(found)
    lines = [["", *HEADINGS.values()]]
    lines += [[row.model, *_formatted(values(row))] for row in found] + [[ALL, *_formatted(over_all)]]
    ranks = ", ".join(
        f"{of} {'- (too few models, or no LC)' if over_all[name] is None else _ranked(over_all, name)}"
        for name, of in (("spearman_win_rate", "WR"), ("spearman_lc", "LC"))
    )
    gone = [f"{row.model} {row.missing}" for row in found if row.missing]
    left_out = [f"No verdict, left out for both judges: {', '.join(gone)} pairs."] if gone else []
    if not _share_pairs(found):
        left_out.append(f"The models have different numbers of pairs: {ALL} have no interval.")
    said = [f"Spearman over {len(found)} models: {ranks}", *left_out, *NOTES]
    return "\n".join([title, "", aligned(lines), "", *said]) + "\n"


def as_csv(found: Sequence[Calibration]) -> str:
    """Format every number at full precision; a missing number is empty."""
    ends = [f"{name}_{end}" for name in (*BOUNDED, *RANKED) for end in ("low", "high")]
    columns = [*NUMBERS, "lc_shift", *RANKED, *ends]
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


def _ranked(over_all: Mapping[str, float | None], name: str) -> str:
    low, high = over_all[f"{name}_low"], over_all[f"{name}_high"]
    return f"{over_all[name]:.3f}" + ("" if low is None else f" [{low:.3f}, {high:.3f}]")


def _formatted(row: dict[str, float | None]) -> list[str]:
    texts = []
    for name in HEADINGS:
        number = row[name]
        text = "-" if number is None else f"{number:.0f}" if name == "pairs" else f"{number:.1f}"
        signed = f"+{text}" if name in ("lc_shift", "position_bias") and number and number > 0 else text
        low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
        texts.append(signed if low is None else f"{signed} [{low:.1f}, {high:.1f}]")
    return texts
