"""What a new GPU is checked for: right kernels pass, wrong ones fail, and `make doctor` repeats the verdict."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from focalpo.config.compose import compose
from focalpo.speed import correct
from focalpo.speed.switches import Switches
from focalpo.training.layout import Layout
from recipes import doctor, gpu_check

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("family", correct.FAMILIES)
def test_the_packed_forward_is_as_near_to_fp32_as_the_padded_one(family: str) -> None:
    (found,) = correct.packed_is_padded(family, Switches())
    assert found.ok, found.figures


@pytest.mark.parametrize("switches", [Switches(packing=False), Switches(attention="blocks")], ids=str)
def test_it_is_with_a_switch_turned(switches: Switches) -> None:
    (found,) = correct.packed_is_padded("llama", switches)
    assert found.ok, found.figures


def test_a_kernel_that_hides_keys_or_shows_too_many_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def fine(family: str) -> bool:
        (found,) = correct.packed_is_padded(family, Switches())
        return found.ok

    monkeypatch.setattr(Layout, "narrowed", lambda placed, window: placed.windows.add(window) or 12)
    assert not fine("llama")
    monkeypatch.setattr(Layout, "narrowed", lambda placed, window: placed.windows.add(window))
    assert fine("llama") and not fine("mistral"), "mistral's window of 40 is not kept"


def test_training_is_checked_from_its_first_loss_to_its_export() -> None:
    found = correct.training()
    assert [check.name for check in found] == ["step 0", "20 steps", "export"]
    assert all(check.ok for check in found), found


def test_a_check_that_cannot_run_is_a_finding(capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    def raising(error: Exception):
        def check() -> list[correct.Check]:
            raise error

        return check

    made = {
        "fine": lambda: [correct.Check("fine", True, "0.1")],
        "training": raising(ModuleNotFoundError("No module named 'deepspeed'", name="deepspeed")),
        "kernel": raising(RuntimeError("FlashAttention only supports Ampere GPUs or newer.\nAt line 3")),
    }
    monkeypatch.setattr(correct, "checks", lambda: made)
    monkeypatch.setattr(correct, "quiet", lambda cores: None)  # not in the process of the tests
    with pytest.raises(SystemExit) as ended:
        gpu_check.gpu_check()
    assert ended.value.code == 1
    assert [line.split(maxsplit=2) for line in capsys.readouterr().out.splitlines()] == [
        ["ok", "fine", "0.1"],
        ["fail", "training", "deepspeed is not installed: run make setup"],
        ["fail", "kernel", "FlashAttention only supports Ampere GPUs or newer."],
    ]


@pytest.mark.parametrize(
    "run, grade, words",
    [
        (SimpleNamespace(returncode=0, stdout="ok    a   1\n", stderr=""), "ok", "training computes what it should"),
        (
            SimpleNamespace(returncode=1, stdout="ok    a   1\nfail  b   2 nats\n", stderr=""),
            "fail",
            "b   2 nats: do not train",
        ),
        (SimpleNamespace(returncode=-9, stdout="", stderr="x\nkilled\n"), "fail", "killed: do not train"),
        (subprocess.TimeoutExpired("gpu_check", 600), "fail", "no end after 600 s: run python -m recipes.gpu_check"),
    ],
)
def test_doctor_repeats_the_verdict_where_gpus_are_counted_on(monkeypatch, run: object, grade: str, words: str) -> None:
    asked = []

    def pretend(command: list[str], **_: object) -> object:
        asked.append(command)
        if isinstance(run, Exception):
            raise run
        return run

    monkeypatch.setattr(gpu_check.subprocess, "run", pretend)
    config = compose(["experiment=pocket/dpo", "launch.gpus=1"])
    assert list(doctor._gpu_check(config)) == [], "there is no GPU here"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    (finding,) = doctor._gpu_check(config)
    assert (finding.grade, finding.what) == (grade, "gpu check") and words in finding.message
    assert asked == [[sys.executable, "-m", "recipes.gpu_check"]]
    assert not list(doctor._gpu_check(compose(["experiment=pocket/dpo"]))), "the pocket scale needs none"
    assert len(asked) == 1
