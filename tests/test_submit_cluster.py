"""The settings and secrets that each job gets, submissions that fail, and which commands submit."""

import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from focalpo.data.trees import write_trees
from focalpo.planning.table import Planned, planned
from focalpo.running.command import GOALS, run_single
from focalpo.running.submit import exported, submit
from focalpo.stages.folder import Folder
from focalpo.stages.origin import ROOT
from recipes.sweep import sweep
from tests.tiny import random_trees

KEY = "THE_JUDGES_KEY"


@cache
def small() -> Planned:
    return planned(["cluster=slurm_cpu", "rows=dpo", "settings=base", "seeds=1", f"judge.endpoint.api_key_env={KEY}"])


def calls(folder: Path) -> list[list[str]]:
    return [path.read_bytes().decode().split("\0")[:-1] for path in sorted(folder.iterdir())]


def program(folder: Path, name: str, text: str) -> None:
    """Replace one of the commands of the stand-in Slurm."""
    (folder.parent / "bin" / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
    (folder.parent / "bin" / name).chmod(0o755)


def kind_of(call: list[str]) -> str:
    return next(word for word in call if word.startswith("--job-name=")).split("=")[1].split("-")[0]


# ---- flags


def test_names_and_flags_of_a_kind_go_before_those_of_the_cluster(fake_slurm: Path, tmp_path: Path) -> None:
    cluster = small().first.cluster
    train = replace(cluster.stages["train"], partition="gpu", constraint="a100&ib", sbatch=["--exclusive"])
    cluster = replace(
        cluster, partition="cpu", qos="normal", sbatch=["--comment=a b"], stages=cluster.stages | {"train": train}
    )
    submit(tmp_path, small().report, cluster)
    for call in calls(fake_slurm):
        special = kind_of(call) == "train"
        assert (f"--partition={'gpu' if special else 'cpu'}" in call) and "--qos=normal" in call
        assert ("--constraint=a100&ib" in call) == ("--exclusive" in call) == special
        assert "--comment=a b" in call
        assert call.index("--comment=a b") < next(n for n, word in enumerate(call) if word.endswith(".sbatch"))


def test_jobs_are_told_their_ranks_threads_cores_and_gpus(fake_slurm: Path, tmp_path: Path) -> None:
    plan = planned(
        ["cluster=slurm_cpu", "rows=dpo", "settings=base", "seeds=1", "launch.ranks=4", "cluster.stages.train.nodes=2"]
        + ["cluster.stages.train.cpus=7", "cluster.stages.judge.cpus=3"]
    )
    submit(tmp_path, plan.report, plan.first.cluster)
    told = {
        kind_of(call): [word for word in call[call.index("--kill-on-invalid-dep=yes") :] if word[:2] == "--"][1:]
        for call in calls(fake_slurm)
    }
    assert told["train"][:4] == ["--ranks=4", "--threads=3", "--cpus=7", "--gpus=0"], "2 ranks a node share 7 cores"
    assert told["judge"][:4] == ["--ranks=1", "--threads=3", "--cpus=3", "--gpus=0"]
    inside = replace(plan.first.cluster, container=["apptainer", "exec", "x.sif"])
    assert told["judge"][4].startswith("--path=/")
    submit(tmp_path / "other", plan.report, inside)
    assert not [word for word in calls(fake_slurm)[-1] if word.startswith("--path=")], "a container has its own Python"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["launch.ranks=4", "cluster.stages.train.nodes=3"], "train.nodes=3: launch.ranks=4 cannot be divided"),
        (["cluster.stages.train.nodes=2"], "train.nodes=2: launch.ranks=1 cannot be divided"),
        (["cluster.stages.judge.nodes=2"], "judge.nodes=2: it runs on one; set nodes=1"),
        (["cluster.stages.generate.nodes=2"], "generate.nodes=2: it runs on one; set nodes=1"),
    ],
)
def test_nodes_that_would_start_another_number_of_workers_are_refused(
    fake_slurm: Path, tmp_path: Path, changes: list[str], said: str
) -> None:
    plan = planned(["cluster=slurm_cpu", "rows=dpo", "settings=base", "seeds=1", *changes])
    with pytest.raises(ValueError, match=said):
        submit(tmp_path, plan.report, plan.first.cluster)
    assert not calls(fake_slurm)


# ---- what a job may see


ENVIRONMENT = {"PATH": "/bin", KEY: "secret"}


@pytest.mark.parametrize(
    ("flags", "site", "needed", "expected"),
    [
        ([], None, True, []),
        ([], None, False, []),
        ([], "ALL", False, []),
        ([], "NONE", True, [f"--export={KEY}"]),
        ([], "NONE", False, ["--export=NONE"]),
        ([], "NIL", False, ["--export=NIL"]),
        ([], "", False, ["--export=NONE"]),
        ([], "HOME,LANG=C", True, [f"--export=HOME,LANG=C,{KEY}"]),
        ([], f"HOME,{KEY}", False, ["--export=HOME"]),
        ([], f"{KEY}=in-the-open", False, ["--export=NONE"]),
        (["--export=NONE"], "ALL", True, [f"--export={KEY}"]),
        (["--hold", "--export=all,A=1"], "NONE", True, ["--hold", "--export=all,A=1"]),
        (["--hold", f"--export=ALL,{KEY}"], None, False, ["--hold", "--export=ALL"]),
    ],
)
def test_the_export_policy_holds_and_only_a_judge_has_the_key(
    flags: list[str], site: str | None, needed: bool, expected: list[str]
) -> None:
    environment = ENVIRONMENT | ({} if site is None else {"SBATCH_EXPORT": site})
    found, passed = exported(flags, environment, {KEY}, {KEY} if needed else set())
    assert found == expected
    assert (KEY in passed) == needed and passed["PATH"] == "/bin"


def test_a_key_that_is_not_set_is_not_named() -> None:
    assert exported([], {"SBATCH_EXPORT": "NONE"}, {KEY}, {KEY})[0] == ["--export=NONE"]


def test_the_key_is_in_the_environment_of_judge_jobs_only(fake_slurm: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv(KEY, "secret")
    monkeypatch.setenv("OF_ANOTHER_JUDGE", "secret")
    program(
        fake_slurm,
        "sbatch",
        f'for word; do case $word in --job-name=*) env > "{tmp_path}/${{word#*=}}.env";; esac; done; echo 7',
    )
    submit(tmp_path / "runs", small().report, small().first.cluster, "OF_ANOTHER_JUDGE")
    seen = {path.stem.split("-")[0]: path.read_text() for path in tmp_path.glob("*.env")}
    assert {kind for kind, text in seen.items() if f"{KEY}=secret" in text} == {"judge"}
    assert not [kind for kind, text in seen.items() if "OF_ANOTHER_JUDGE" in text] and len(seen) > 5


# ---- submissions that fail


def test_what_does_not_fit_is_said_and_left_for_the_next_time(fake_slurm: Path, tmp_path: Path) -> None:
    program(fake_slurm, "sacctmgr", 'case "$*" in *=MaxSubmitJobs) echo 4;; esac')
    program(fake_slurm, "scontrol", "echo 'MaxArraySize = 1'")
    output = submit(tmp_path, small().report, small().first.cluster)
    assert [word for call in calls(fake_slurm) for word in call if word.startswith("--array=")] == ["--array=0-0%2"] * 4
    assert output.splitlines()[-1].startswith("4 of ") and "MaxSubmitJobs has no room for more" in output


def test_a_failed_submission_reports_what_was_submitted(fake_slurm: Path, tmp_path: Path) -> None:
    count = "n=$(ls {0} | wc -l); "
    program(
        fake_slurm,
        "sbatch",
        (count + '((n < 2)) || {{ echo "QOSMaxSubmit" >&2; exit 1; }}; touch {0}/$n; echo $((100 + n))').format(
            fake_slurm
        ),
    )
    with pytest.raises(ValueError) as error:
        submit(tmp_path, small().report, small().first.cluster)
    message = str(error.value)
    assert message.startswith("sbatch failed: QOSMaxSubmit; 2 of ") and "\n" not in message
    assert "cancel them by scancel 100 101, or run the same command again to submit the others" in message
    program(fake_slurm, "sbatch", "echo no >&2; exit 1")
    with pytest.raises(ValueError, match="sbatch failed: no; nothing was submitted"):
        submit(tmp_path, small().report, small().first.cluster)


# ---- commands


@pytest.mark.parametrize("goal", sorted(GOALS))
def test_a_single_stage_is_submitted_where_cluster_says_so(
    fake_slurm: Path, tmp_path: Path, monkeypatch, capsys, goal: str
) -> None:
    laptop = ["setting=laptop", "experiment=laptop/dpo"]
    chosen = {"capability": ["capability=laptop"], "check": laptop}.get(goal, [])
    monkeypatch.setattr("sys.argv", [goal, "cluster=slurm_cpu", f"runs={tmp_path / 'runs'}", *chosen])
    run_single(goal)
    assert "stages submitted; squeue --me shows them" in capsys.readouterr().out
    assert kind_of(calls(fake_slurm)[-1]) == goal
    assert not list(tmp_path.glob("runs/*/*/manifest.json"))


def test_a_search_with_a_lost_point_is_submitted_again_instead_of_run_here(
    fake_slurm: Path, tmp_path: Path, capsys
) -> None:
    """The results are sealed, and one of the points lost its manifest."""
    search = [
        "cluster=slurm_cpu",
        "rows=focalpo",
        "settings=base",
        "objective.gamma=0,0.1",
        "objective.beta=0.3",
        "seed=1",
    ]
    search.append(f"runs={tmp_path}")
    sweep(search)
    for path in sorted(tmp_path.glob("*/*/stage.json")):
        with (folder := Folder.at(path.parent)).being_made():
            if folder.job.kind == "pairs":  # the estimate reads their lengths
                write_trees(folder.path / "train_trees.parquet", random_trees(40))
            folder.seal(1.0, {"train": 40, "test": 4})
    lost, *_ = sorted(tmp_path.glob("train/*/manifest.json"))
    lost.unlink()
    before = len(calls(fake_slurm))
    sweep(search)
    assert [kind_of(call) for call in calls(fake_slurm)[before:]] == ["train"]
    assert "1 stages submitted" in capsys.readouterr().out


def test_submitting_needs_none_of_the_packages_that_stages_run_with() -> None:
    """What commands import on a login node, single stages without their recipe; tests/test_slurm_site.py runs some."""
    heavy = ("torch", "transformers", "deepspeed", "vllm", "datasets", "peft", "pyarrow", "sklearn", "numpy", "pandas")
    heavy += ("safetensors", "huggingface_hub", "httpx2", "openai", "jinja2", "tokenizers", "matplotlib")
    code = (
        "import sys, importlib\n"
        f"sys.modules.update(dict.fromkeys({heavy}))\n"
        "for name in ('focalpo.running.command', 'focalpo.running.worker', *map('recipes.{}'.format, sys.argv[1:])):\n"
        "    importlib.import_module(name)\n"
    )
    names = ("reproduce", "sweep", "status", "cancel", "doctor")
    result = subprocess.run([sys.executable, "-c", code, *names], capture_output=True, text=True, cwd=ROOT)
    assert not result.returncode, result.stderr
