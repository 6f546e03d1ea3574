"""Calibrate a judge: judge pairs whose annotations are published and report how far the two differ.

python -m recipes.calibrate_judge judge=local annotations=FOLDER gamed=df_gamed.csv
python -m recipes.calibrate_judge judge=gpt4_turbo annotations=FOLDER limit=50 judge.endpoint.budget_usd=5

Every request is recorded beside the result: the same command resumes where it stopped and pays for nothing twice.
"""

import hashlib
import json
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from focalpo.config.compose import compose_calibrate_judge, plain
from focalpo.config.mistakes import Mistake
from focalpo.judging.alpaca_eval import judge_alpaca, model_shown_first
from focalpo.judging.endpoint import Endpoint
from focalpo.judging.price import expected_of
from focalpo.judging.protocol import EVAL, AlpacaProtocol, load_protocol, protocol_hash
from focalpo.judging.requests import judged_as
from focalpo.judging.serving import endpoint_of
from focalpo.reporting.calibrations import as_csv, as_text
from focalpo.running.command import run_command
from focalpo.scoring.annotated_pairs import Annotated, read_annotations
from focalpo.scoring.calibration import (
    Calibration,
    agreement,
    consistency,
    longer_wins,
    position_bias,
    resampled,
)
from focalpo.scoring.length_control import Gamed, fit, length_controlled, read_gamed
from focalpo.scoring.stats import Array, wins_of


def calibrate(arguments: list[str]) -> None:
    """Judge every model in the folder, write calibration.txt and calibration.csv, and print the text."""
    config = compose_calibrate_judge(arguments)
    asked = {"model": config.judge.model, "request": config.judge.request}
    protocol = judged_as(load_protocol(EVAL / f"{config.judge.benchmarks.get('alpaca_eval')}.yaml"), asked)
    if not isinstance(protocol, AlpacaProtocol):
        raise Mistake(f"{protocol.name} is not an AlpacaEval protocol; set judge.benchmarks.alpaca_eval to one")
    models = read_annotations(Path(config.annotations), config.limit)
    gamed = read_gamed(Path(config.gamed)) if config.gamed else None
    endpoint_settings = plain(config.judge.endpoint)
    orders = [order for model in models for order in (model, model.turned())[: 1 + config.both_orders]]
    total = expected_of([(protocol, order.questions, order.answers) for order in orders], endpoint_settings)
    print(f"judging {len(models)} models will take {total}", flush=True)

    judged_by = json.dumps([protocol_hash(protocol), config.judge.endpoint.base_url])
    folder = Path(config.out) / f"{protocol.annotator.stem}-{hashlib.sha256(judged_by.encode()).hexdigest()[:8]}"
    folder.mkdir(parents=True, exist_ok=True)
    with endpoint_of(endpoint_settings, folder / "records.jsonl") as endpoint:
        endpoint.fill([partial(_preferences, order, protocol, endpoint) for order in orders])
        results = [_calibration(model, protocol, endpoint, gamed, config.both_orders) for model in models]
    text = as_text(f"{protocol.annotator.stem} beside the annotations of {config.annotations}", results)
    (folder / "calibration.txt").write_text(text)
    (folder / "calibration.csv").write_text(as_csv(results))
    print(f"\n{text}\n  {folder / 'calibration.txt'}\n  {folder / 'calibration.csv'}")


def _calibration(
    model: Annotated, protocol: AlpacaProtocol, endpoint: Endpoint, gamed: Gamed | None, both_orders: bool
) -> Calibration:
    judged = _preferences(model, protocol, endpoint)
    turned = _preferences(model.turned(), protocol, endpoint) if both_orders else None
    shown_first = np.array([model_shown_first(question.prompt[-1]["content"]) for question in model.questions])
    # Difficulties match prompts by position: with a row left out, they would be assigned to the wrong prompts.
    whole = gamed if gamed is not None and len(gamed.prompt_difficulty) == len(judged) else None
    print(f"judged {model.model}", flush=True)
    return Calibration(
        model.model,
        len(judged),
        agreement(model.published, judged),
        float(100 * wins_of(judged).mean()),
        float(100 * wins_of(model.published).mean()),
        longer_wins(judged, *model.lengths),
        longer_wins(model.published, *model.lengths),
        None if turned is None else position_bias(judged, turned, shown_first),
        None if turned is None else consistency(judged, turned),
        None if whole is None else length_controlled(fit(judged, *model.lengths, whole), whole),
        None if whole is None else length_controlled(fit(model.published, *model.lengths, whole), whole),
        resampled(model.published, judged, model.lengths, whole),
    )


def _preferences(pairs: Annotated, protocol: AlpacaProtocol, endpoint: Endpoint) -> Array:
    sized = replace(protocol, prompts=len(pairs.questions))
    return np.array([v.preference for v in judge_alpaca(pairs.questions, pairs.answers, sized, endpoint)])


if __name__ == "__main__":
    run_command(lambda: calibrate(sys.argv[1:]))
