"""Everything that a report shows, from a table run and its results: figures, curves, judge statistics, stages."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from focalpo.reporting.anchors import Curve
from focalpo.reporting.anchors_figure import anchors_figure
from focalpo.reporting.argument import displacement_figure, gradient_figure, margins_figure
from focalpo.reporting.blocks import Block
from focalpo.reporting.cells import Results
from focalpo.reporting.curves import training_curves
from focalpo.reporting.diagnostics import calibration_figure, diagnostics_block, has_margins
from focalpo.reporting.figures import dynamics_figure, length_figure, table_figure
from focalpo.reporting.finding import finding
from focalpo.reporting.fixes import Share
from focalpo.reporting.judges import JudgeStatistics, judge_statistics
from focalpo.reporting.page import Content, Origin, Picture
from focalpo.reporting.provenance import Chain, commands, commits
from focalpo.reporting.studies import gamma_figure, noise_figure
from focalpo.reporting.table_run import TableRun
from focalpo.reporting.weighting import weighting_figure
from focalpo.stages.origin import commit, short
from focalpo.stages.rankings import Change, groups

Changes = Mapping[str, Mapping[str, list[Change]]]
"""What training did to the held-out pairs, by setting and row, of each seed."""


@dataclass(frozen=True, slots=True)
class Plate:
    """A figure before it is drawn; `drawn` draws it to the path that it receives."""

    name: str
    title: str
    caption: str
    drawn: Callable[[Path], None]


def held_out(run: TableRun) -> Changes:
    """The changes of the rows that were trained."""
    return {
        setting: {row: found for row in run.rows if (found := run.changes(setting, row, "test"))}
        for setting in run.settings
    }


def draw(
    run: TableRun,
    results: Results,
    changes: Changes,
    folder: Path,
    repeated: Sequence[Curve] = (),
    fixed: Sequence[Share] = (),
) -> list[Picture]:
    """Draw the figures of the run as PNG and SVG, and return them with their titles and captions.

    `repeated` are the trainings that repeat a run of the author's, `fixed` the pairs that rows fixed and broke.
    """
    pictures = []
    anchors = [Plate(*ANCHORS, lambda path: anchors_figure(repeated, path))] if repeated else []
    for plate in [*_plates(run, results, changes, fixed), *anchors]:
        plate.drawn(folder / plate.name)
        pictures.append(Picture(plate.name, plate.title, plate.caption, (folder / f"{plate.name}.svg").read_text()))
    return pictures


def content_of(
    run: TableRun,
    results: Results,
    changes: Changes,
    pictures: list[Picture],
    stages: Chain,
    anchors: Block,
    licence: str,
) -> Content:
    """Collect everything that the report shows; `anchors` compares it with the author's own runs, `licence` says which
    texts may not be shared."""
    origins: dict[str, dict[str, Origin]] = {}
    judges: dict[str, dict[str, JudgeStatistics]] = {}
    for setting in run.settings:
        seeds_of = {row: list(run.seeds(setting, row, "generate")) for row in run.rows}
        ran = {row: found for row, found in seeds_of.items() if found}
        origins[setting] = {
            row: Origin(
                found,
                [f"{path.parent.name}/{path.name}" for path in run.scored(setting, row)],
                commands(run, setting, row, commit()),
            )
            for row, found in ran.items()
        }
        statistics = {row: judge_statistics(run, setting, row) for row in ran}
        judges[setting] = {row: found for row, found in statistics.items() if found is not None}
    seeds = sorted({len(origin.seeds) for found in origins.values() for origin in found.values()})
    per_row = " to ".join(map(str, dict.fromkeys([*seeds[:1], *seeds[-1:]])))
    made_by = ", ".join(map(short, commits(stages)))
    finished = max((manifest["finished"] for manifest in stages.values()), default="never")
    summary = (
        f"Settings: {len(run.settings)}, rows: {len(run.rows)}, seeds per row: {per_row}; "
        f"{len(stages)} stages, the last finished {finished}; commits {made_by}."
    )
    curves = {
        setting: {row: curve for row in run.rows if (curve := _curves(run, setting, row))} for setting in run.settings
    }
    trained = [
        diagnostics_block(run.settings[setting], {run.rows[row]: found for row, found in rows.items()})
        for setting, rows in changes.items()
        if rows
    ]
    return Content(
        results, finding(results), summary, licence, origins, curves, judges, trained, pictures, stages, anchors
    )


def _curves(run: TableRun, setting: str, row: str) -> dict[str, list[float]]:
    return training_curves(list(run.seeds(setting, row, "train").values()))


def _plates(run: TableRun, results: Results, changes: Changes, fixed: Sequence[Share]) -> list[Plate]:
    """The figures that the run's stage folders allow; a study's own figure comes first."""
    study = run.table["study"] or ""
    if study == "noise":  # its many settings fit one figure, but are too many for those of Table 1
        own = [Plate(*NOISE, lambda path: noise_figure(run, results, path))]
        return own if {"dpo", "focalpo"} <= run.rows.keys() else []
    if study.startswith("weighting"):
        own = [Plate(*WEIGHTING, lambda path: weighting_figure(results, fixed, path))] if results.compared else []
        return [*own, _gradient()]
    own = [Plate(*GAMMA, lambda path: gamma_figure(run, results, path))] if study == "gamma" else []
    judged = {"ae2_lc", "ae2_wr"} <= {column.name for column in results.columns}
    counted = any("tokens" in row.extras for rows in results.rows.values() for row in rows)  # answers from files: not
    length = [Plate(*LENGTH, lambda path: length_figure(results, path))] if judged and counted else []
    plates = [
        *own,
        Plate(*TABLE, lambda path: table_figure(results, path)),
        *length,
        _gradient(),
    ]
    if any(changes.values()):
        plates += _dynamics(run, changes)
    return plates


def _dynamics(run: TableRun, changes: Changes) -> list[Plate]:
    shares = {
        run.settings[setting]: {row: _shares(found) for row, found in rows.items()} for setting, rows in changes.items()
    }
    curves: dict[str, dict[str, dict[str, list[float]]]] = {}
    for setting in changes:
        for row in changes[setting]:
            curves.setdefault(run.rows[row], {})[run.settings[setting]] = _curves(run, setting, row)
    plates = [Plate(*DYNAMICS, lambda path: dynamics_figure(shares, run.rows, path))]
    for setting, rows in changes.items():
        named = {run.rows[row]: found for row, found in rows.items()}
        if named:
            name, title, caption = MARGINS
            drawn = lambda path, named=named: margins_figure(named, path)  # noqa: E731  # one figure per setting
            plates.append(Plate(f"{name}_{setting}", f"{title}: {run.settings[setting]}", caption, drawn))
    plates.append(Plate(*DISPLACEMENT, lambda path: displacement_figure(curves, path)))
    calibrated: dict[str, dict[str, list[Change]]] = {}
    for setting, rows in changes.items():
        for row, found in rows.items():
            if has_margins(found):
                calibrated.setdefault(run.rows[row], {})[run.settings[setting]] = found
    return plates + ([Plate(*CALIBRATION, lambda path: calibration_figure(calibrated, path))] if calibrated else [])


def _shares(found: list[Change]) -> dict[str, float]:
    """Mean shares of the four ranking groups over a row's seeds."""
    shares = [groups(change) for change in found]
    return {name: float(np.mean([share[name] for share in shares])) for name in shares[0]}


def _gradient() -> Plate:
    return Plate(*GRADIENT, gradient_figure)


TABLE = (
    "table1",
    "Every cell with its interval",
    "Points are scores, lines are 95% intervals; the dotted line is the row that the table compares with, crosses are "
    "the paper's numbers, only where its protocol was followed. FocalPO is red.",
)
LENGTH = (
    "length",
    "Win rate against length",
    "Raw win rate (ring) and length-controlled win rate (dot) of each row against the mean length of its answers. A "
    "long line between them shows that length influenced the judge.",
)
GRADIENT = (
    "gradient",
    "How strongly each pair is weighted",
    "Loss and gradient weight against p, the model's belief in the label. FocalPO gives less weight to pairs ranked "
    "wrong (small p), focal loss more. With the factor differentiated the weight is negative below p = e^(-1/gamma): "
    "such pairs are pushed further in the wrong direction. Computed from the formulas, without data.",
)
DYNAMICS = (
    "dynamics",
    "Pairs ranked right and wrong, before and after",
    "Held-out pairs, grouped by whether the model ranks chosen above rejected (summed log-prob) at the start and at "
    "the end, means over seeds. The paper's premise is the grey part: wrong pairs that stay wrong.",
)
MARGINS = (
    "margins",
    "Reward margins at the end",
    "Margin D of held-out pairs over all seeds, grouped by whether the SFT model ranked them right. Pairs beyond the "
    "axis are counted in its end bars.",
)
DISPLACEMENT = (
    "displacement",
    "How both likelihoods change",
    "Log-prob of chosen (solid) and rejected (dashed) answers during training as change since the first steps, batch "
    "means over all seeds. A solid curve below the line is likelihood displacement: the preferred answer became less "
    "likely.",
)
CALIBRATION = (
    "calibration",
    "Calibration of the implicit reward",
    "Held-out pairs of all seeds in ten bins of confidence: how often the answer with the higher implicit reward is "
    "the better one, by the true labels where they are known. Dots on the grey line are calibrated, below it the "
    "reward is overconfident; their area is the share of pairs.",
)
GAMMA = (
    "gamma",
    "FocalPO's gamma, its two readings, and DPO rescaled to match",
    "Above: win rate, margin, log-prob of chosen and ranking accuracy on held-out data, one tick per seed. Below: "
    "why the differentiated form collapses. Its loss goes to 0 at both ends and never exceeds 1/(gamma e), so with few "
    "wrong labels no finite margin is best and all margins diverge; triangles mark the finite minima.",
)
ANCHORS = (
    "anchors",
    "Our training over the author's own",
    "Evaluations on the test pairs during training: ours as a line, as crosses those on the cards of the author's runs "
    "with the same start, data, loss, learning rate and epochs. Losses are of all test pairs, the rest of the author's "
    "part of them.",
)
WEIGHTING = (
    "weighting",
    "Every loss minus DPO",
    "Above: differences of the scores, in points. Below: differences of the pairs, of all that have true or false "
    "labels, that training fixed (ranked wrong at the start, right at the end) and broke, right and wrong as the label "
    "says: a false label that is fixed has been learned. Bold: p < .05 after Holm's correction over the table.",
)
NOISE = (
    "noise",
    "FocalPO minus DPO against label noise",
    "Above: paired differences with 95% intervals over prompts and runs. Below: margins of training pairs with "
    "true and with false labels, and how many false labels are memorised; bars are 1.96 standard errors over runs, "
    "which share three SFT models.",
)
