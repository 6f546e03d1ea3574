"""How a table becomes arrays with dependencies, what is skipped, and arguments that a shell would mangle."""

import os
import re
import subprocess
from functools import cache
from pathlib import Path

import pytest
import yaml

from focalpo.config.compose import CONF
from focalpo.planning.needs import Estimate
from focalpo.planning.stages import in_order
from focalpo.planning.table import Planned, planned
from focalpo.running.arrays import arrays, dependency
from focalpo.running.submit import submit
from focalpo.stages.folder import Folder
from focalpo.stages.origin import ROOT
from focalpo.training.cost import Batch, Shape, forward_operations
from recipes.plan import described
from recipes.sweep import sweep

PAPER = ["table=paper", "cluster=slurm"]


@cache
def paper() -> Planned:
    """The paper's table, composed once for all tests that only read it."""
    return planned(PAPER)


def grouped(done: set[str], queued: dict[str, str]):
    stages = in_order([paper().report])
    groups = arrays(stages, done, queued)
    for number, array in enumerate(groups, 1):
        array.job = str(number)
    return stages, groups


def test_similar_rows_form_one_array_whose_tasks_depend_on_their_own_row_only() -> None:
    stages, found = grouped(set(), {})
    assert sum(len(array.stages) for array in found) == len(stages) == len({s.key for a in found for s in a.stages})
    sizes = [(array.kind, len(array.stages)) for array in found]
    assert sizes.count(("train", 10)) == sizes.count(("generate", 10)) == sizes.count(("judge", 10)) == 2
    for array in found:
        for waited in array.waits_for:
            assert found.index(waited) < found.index(array)
        if array.kind == "generate" and len(array.stages) == 10:
            (train,) = [waited for waited in array.waits_for if waited.kind == "train"]
            assert f"aftercorr:{train.job}" in dependency(array).split(",")
            assert all(a.inputs["model"].key == b.key for a, b in zip(array.stages, train.stages, strict=True))


def test_sealed_stages_are_skipped_and_queued_ones_become_dependencies() -> None:
    stages, _ = grouped(set(), {})
    pairs = [stage for stage in stages if stage.kind == "pairs"]
    _, found = grouped({pairs[0].key}, {pairs[1].key: "77_1"})
    assert not [array for array in found if array.kind == "pairs"]
    waiting = [dependency(array) for array in found if array.kind == "reference"]
    assert len(waiting) == 2 and sorted(waiting) == ["", "afterok:77_1"]


def test_one_failed_row_is_submitted_alone() -> None:
    stages, _ = grouped(set(), {})
    row = next(row for place, row in paper().rows.items() if place[:2] == ("instruct", "kto"))
    mine = {stage.key for stage in row.stages()}
    _, found = grouped({stage.key for stage in stages} - mine - {stages[-1].key}, {})
    assert [(array.kind, len(array.stages)) for array in found] == [
        ("train", 1), ("generate", 1), ("judge", 1), ("check", 1), ("report", 1),
    ]  # fmt: skip


def test_sizes_become_flags_and_names_are_not_expanded(fake_slurm: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs $(touch x) `touch y`; 'z'"
    container = "cluster.container=[apptainer,exec,'my image.sif']"
    plan = planned([*PAPER, container, "cluster.partition=gpu", "cluster.setup=site.sh"])
    plan.first.runs = str(runs)
    output = submit(plan.runs, plan.report, plan.first.cluster)
    calls = [path.read_bytes().decode().split("\0")[:-1] for path in sorted(fake_slurm.iterdir())]
    assert len(calls) == len(output.splitlines()) - 1
    train = next(call for call in calls if "slurm/train.sbatch" in call and "--array=0-9%4" in call)
    for flag in ("--nodes=1", "--gpus-per-node=8", "--cpus-per-task=64", "--mem=400G", "--time=720", "--partition=gpu"):
        assert flag in train
    assert train[-4:] == ["site.sh", "apptainer", "exec", "my image.sif"]
    folders = Path(train[-5]).read_text().splitlines()
    assert len(folders) == 10 and all(Folder.at(Path(folder)).job.kind == "train" for folder in folders)
    assert not (ROOT / "x").exists() and not (ROOT / "y").exists()


@pytest.mark.parametrize("name", ["50%off", "a%jb%A_%a", "100%", "%%", "a%3jb"])
def test_a_percent_sign_of_a_path_does_not_reach_slurms_patterns(fake_slurm: Path, tmp_path: Path, name: str) -> None:
    """In sbatch's file names %j, %A, %a and others are replaced, and %% is one percent sign."""
    plan = planned([*PAPER, "rows=dpo", "settings=base"])
    submit(tmp_path / name, plan.report, plan.first.cluster)
    for call in sorted(fake_slurm.iterdir()):
        (output,) = [word for word in call.read_bytes().decode().split("\0") if word.startswith("--output=")]
        pattern = output.removeprefix("--output=")
        log = Path(re.sub("%.", lambda sign: {"%%": "%", "%A": "7", "%a": "0"}[sign[0]], pattern))
        assert log.parent == tmp_path / name / ".slurm" and log.name.endswith("-7_0.log")


@pytest.mark.parametrize("name", ["a\\b", "a\nb"])
def test_a_path_below_which_slurm_cannot_name_a_log_is_refused(fake_slurm: Path, tmp_path: Path, name: str) -> None:
    """After a backslash, sbatch replaces no pattern at all, and all tasks would write one log."""
    plan = planned([*PAPER, "rows=dpo", "settings=base"])
    with pytest.raises(ValueError, match="Slurm writes no log below a backslash or a line break; choose another"):
        submit(tmp_path / name, plan.report, plan.first.cluster)
    assert not list(fake_slurm.iterdir())


def test_an_sbatch_that_cannot_be_started_is_one_line(fake_slurm: Path, tmp_path: Path, monkeypatch) -> None:
    (fake_slurm.parent / "bin" / "squeue").write_bytes(b"\x7fnot a program")
    monkeypatch.setenv("PATH", str(fake_slurm.parent / "bin"))
    plan = planned([*PAPER, "rows=dpo", "settings=base"])
    with pytest.raises(ValueError, match="squeue cannot be started .*; ask the cluster's operators"):
        submit(tmp_path / "runs", plan.report, plan.first.cluster)


def test_a_template_runs_the_worker_on_the_line_of_its_task(fake_slurm: Path, tmp_path: Path) -> None:
    """The bash of slurm/ with arguments that a careless template would split or execute."""
    folder = tmp_path / "a b $(touch owned) *"
    folder.mkdir()
    tasks = tmp_path / "list"
    tasks.write_text(f"/nowhere\n{folder}\n")
    setup = tmp_path / "set up.sh"
    setup.write_text("echo the site was set up\n")
    for template in ("judge", "generate", "report", "train"):
        result = subprocess.run(
            ["bash", f"slurm/{template}.sbatch", str(tasks), str(setup), "printf", "<%s>\n"],
            cwd=ROOT,
            env=os.environ | {"SLURM_ARRAY_TASK_ID": "1", "SLURM_ARRAY_JOB_ID": "5", "SLURM_JOB_ID": "6"},
            capture_output=True,
            text=True,
        )
        assert result.returncode == 0, result.stderr
        assert "the site was set up" in result.stdout
        assert result.stdout.splitlines()[-6:] == [
            *("<python>", "<-m>", "<focalpo.running.worker>", f"<{folder}>", "<--ranks=1>", "<--threads=1>")
        ]
    assert not (ROOT / "owned").exists()


def test_gpus_that_do_not_match_the_ranks_are_reported_before_submission(fake_slurm: Path, tmp_path: Path) -> None:
    plan = planned([*PAPER, "cluster.stages.train.gpus=4", f"runs={tmp_path / 'runs'}"])
    with pytest.raises(ValueError, match="cluster.stages.train: 1 nodes x 4 GPUs do not match launch.ranks=8"):
        submit(plan.runs, plan.report, plan.first.cluster)
    assert not list(fake_slurm.iterdir())


def test_the_plan_lists_every_array_and_the_judge_requests(tmp_path: Path) -> None:
    """805 prompts and 500 prompts twice, for 22 models; USD by hand, gpt-4-turbo costs 10 and 30 per million tokens."""
    output = described(planned([*PAPER, f"runs={tmp_path}"]))
    assert "0 of 98 stages of the paper table are sealed" in output and "nothing was started" in output
    total = next(line for line in output.splitlines() if line.startswith("sum"))
    assert total.split()[1] == "98" and f"{22 * (805 + 2 * 500):,}" in total
    usd = 22 * (805 * (1400 * 10 + 1 * 30) + 1000 * (2200 * 10 + 700 * 30)) / 1e6
    assert total.split()[-1] == f"{usd:,.0f}"
    assert "tokens of a judge's reply, assumed (judge.endpoint.price): alpaca_eval 1, arena_hard 700" in output
    assert not list(tmp_path.iterdir())


def test_the_plan_counts_the_thoughts_of_a_reasoning_judge(tmp_path: Path) -> None:
    """1,500 tokens for each of 805 + 1,000 replies, where a judge with log-probs gives 1 of AlpacaEval's."""
    thinking = ["judge=openai_reasoning", "judge.endpoint.price.input_usd=10", "judge.endpoint.price.output_usd=50"]
    output = described(planned(["table=paper", "settings=base", "rows=dpo", f"runs={tmp_path}", *thinking]))
    total = next(line for line in output.splitlines() if line.startswith("sum"))
    usd = (805 * (1400 * 10 + 1500 * 50) + 1000 * (2200 * 10 + 1500 * 50)) / 1e6
    assert total.split()[-2:] == [f"{805 * 2900 + 1000 * 3700:,}", f"{usd:,.0f}"]
    assert "alpaca_eval 1500, arena_hard 1500" in output


@pytest.mark.parametrize("path", sorted((CONF / "data").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_plan_knows_the_sizes_of_every_data_set(path: Path) -> None:
    sizes = yaml.safe_load((CONF / "sizes.yaml").read_text())["data"]
    assert sizes[yaml.safe_load(path.read_text())["name"]].keys() == {
        *("train", "test", "prompt", "prompt_sigma", "answer", "answer_sigma")
    }


def operations(*arguments: str) -> dict[str, float]:
    """Operations of one stage of each kind that the dpo row of the one_gpu table needs."""
    plan = planned(["table=one_gpu", "rows=dpo", *arguments])
    return {stage.kind: Estimate(plan.first, plan.runs).of(stage).operations for stage in in_order([plan.report])}


def test_sampling_and_rewarding_dominate_the_cost_of_on_policy_data() -> None:
    """10,000 prompts (and the test split's 2,000) answered with each seed, then all answers scored by an 8B model."""
    cost = operations("data=on_policy", "data.limit=10000")
    shape = Shape(**yaml.safe_load((CONF / "sizes.yaml").read_text())["models"]["RLHFlow/ArmoRM-Llama3-8B-v0.1"])
    texts = Batch(5 * 12000 * (160 + 260), 0)
    assert cost["reward"] == forward_operations(shape, texts, (160 + 260) / 2) > cost["train"]
    assert cost["sample"] > cost["reference"]


def test_adapters_need_less_memory_than_full_training() -> None:
    def memory(*arguments: str):
        plan = planned(["table=one_gpu", "rows=dpo", *arguments])
        stage = next(stage for stage in in_order([plan.report]) if stage.kind == "train")
        return Estimate(plan.first, plan.runs).of(stage).memory

    assert memory("lora=rank16").peak.optimizer < memory().peak.optimizer / 50


def test_the_plan_includes_the_ranking_dynamics() -> None:
    """Measured before step 1, after every 10th of 25 and after the last: 4 times (100 training and 400 test pairs)."""
    changed = {"train.max_steps=25", "train.global_batch=8", "dynamics.train_pairs=100"}

    def train(every: int) -> float:
        plan = planned(["rows=dpo", "runs=none", *changed, f"dynamics.every={every}"])
        stage = next(stage for stage in in_order([plan.report]) if stage.kind == "train")
        return Estimate(plan.first, plan.runs).of(stage).operations

    shape = Estimate(planned(["rows=dpo"]).first, Path("none")).shape
    twice = forward_operations(shape, Batch(2 * 500 * (11 + 2 * 9), 2 * 500 * 2 * 9), 11 + 9 / 2)
    assert train(every=10) - train(every=0) == pytest.approx(twice)


def test_the_plan_uses_the_pace_of_sealed_stages_of_a_kind(tmp_path: Path) -> None:
    """Two trainings took 1,700 and 1,900 seconds; a third started twice, so its manifest has only the last start."""
    plan = planned(["rows=dpo", "settings=base", "seeds=4", f"runs={tmp_path}"])
    trainings = [stage for stage in in_order([plan.report]) if stage.kind == "train"]
    for stage, starts, seconds in zip(trainings, (1, 1, 2), (1700, 1900, 10), strict=False):
        folder = Folder(tmp_path, stage)
        for start in range(starts):
            with folder.being_made():
                if start + 1 == starts:
                    folder.seal(seconds, {})
    lines = described(plan).splitlines()
    (train,) = (line.split() for line in lines if ". train" in line)
    assert (train[2], train[4]) == ("1", "0.50"), "one training is left, at the pace of the two that count"
    sealed = next(line for line in lines if "sealed train stages" in line)
    assert sealed.startswith("2 sealed train stages took 1.00 rank-hours, ") and sealed.endswith(" at the rate below")


def test_a_search_is_one_array_of_trainings_and_its_results_depend_on_all(fake_slurm: Path, tmp_path: Path) -> None:
    sweep(
        [
            "cluster=slurm_cpu",
            "rows=focalpo",
            "settings=base",
            "objective.gamma=0,0.1,0.25",
            "objective.beta=0.3",
            "seed=1",
            f"runs={tmp_path / 'r'}",
        ]
    )
    calls = [path.read_bytes().decode().split("\0")[:-1] for path in sorted(fake_slurm.iterdir())]
    kinds = [next(word for word in call if word.startswith("--job-name")).split("=")[1].split("-")[0] for call in calls]
    assert kinds == ["sft", "sft", "pairs", "reference", "train", "held_out", "sweep"]
    assert all("--array=0-5%2" in call for call in calls[-3:-1])
    assert any(word.startswith("--dependency=afterany:") for word in calls[-1])
