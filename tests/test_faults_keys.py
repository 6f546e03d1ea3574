"""A message about a setting names the key that the stage which failed has read."""

from dataclasses import replace
from pathlib import Path

import pytest

from focalpo.config.compose import compose
from focalpo.planning.stages import sft_stage
from focalpo.running.out_of_memory import explaining_out_of_memory
from focalpo.running.worker import naming_own_keys
from focalpo.stages.folder import Folder, Job
from focalpo.training.steps import steps_of
from tests.tiny import SETTINGS


def job(kind: str, **launch: object) -> Job:
    return Job(kind, "n", "0" * 12, {}, launch, Path(), {})


def message(of: Job, call) -> str:
    with pytest.raises(ValueError) as caught, naming_own_keys(of), explaining_out_of_memory(of):
        call()
    return str(caught.value)


def no_memory() -> None:
    raise MemoryError


def test_a_phase_that_does_not_fill_its_global_batch_names_its_own() -> None:
    phase = job("sft", train={"micro_batch_tokens": 8}, phase="sft")
    few = lambda: steps_of(3, SETTINGS)  # noqa: E731
    assert "one model.phases.sft.train.global_batch of 4" in message(phase, few)
    assert "one train.global_batch of 4" in message(job("train", train={}), few)


def test_only_keys_are_renamed() -> None:
    phase = job("sft", phase="two")

    def fails() -> None:
        raise ValueError("they train. train.epochs, model.phases.one.train.epochs and /a/train.jsonl; retrain.it")

    assert message(phase, fails) == (
        "they train. model.phases.two.train.epochs, model.phases.one.train.epochs and /a/train.jsonl; retrain.it"
    )


def test_what_to_lower_when_memory_is_out_is_the_stages_own_key() -> None:
    sft = job("sft", train={"micro_batch_tokens": 8}, phase="sft")
    assert "lower model.phases.sft.train.micro_batch_tokens=8" in message(sft, no_memory)
    assert "lower train.micro_batch_tokens=8" in message(job("train", train={"micro_batch_tokens": 8}), no_memory)
    assert "lower reference.micro_batch_tokens=8" in message(job("reference", micro_batch_tokens=8), no_memory)
    assert "lower reference.micro_batch_tokens=9" in message(job("reward", batch_tokens=9), no_memory)


def test_the_phase_of_a_stage_is_in_its_description_and_not_in_its_key(tmp_path: Path) -> None:
    stage = sft_stage(compose(["setting=files", "data.path=x"]))
    assert stage is not None and Folder(tmp_path, stage).job.launch["phase"] == "sft"
    assert replace(stage, launch={}).key == stage.key
