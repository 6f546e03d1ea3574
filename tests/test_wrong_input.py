"""Wrong input of every kind: one line per mistake with its remedy, exit code 2, nothing started, at once."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from focalpo.config.mistakes import Mistake
from focalpo.running.beginning import answer

ROOT = Path(__file__).parent.parent
RECIPES = ROOT / "recipes"
COMMANDS = [path.stem for path in RECIPES.glob("*.py") if "__main__" in path.read_text()]
# command and arguments --> what the one line holds
WRONG = {
    "plan setting=pocket_instruct": "choose them by settings=",
    "status experiment=pocket/dpo": "choose them by rows=",
    "doctor objective=dpo": "choose them by rows=",
    "rescore table=pocket table=paper": "table= is given twice; give it once",
    "reproduce data=pocket_instruct": "name its column by settings=base|instruct",
    "cancel table=papr": "did you mean paper? choose from answers, author, files, gamma",
    "plan rows=focal_po": "did you mean focalpo?",
    "plan settings=bas": "did you mean base?",
    "anchors settings=mistra": "did you mean mistral?",
    "plan seeds=0": "must be a number >= 1",
    "plan seeds=many": "must be a number >= 1",
    "plan rows=released": "names no released checkpoints; remove it",
    "plan train.lerning_rate=1": "did you mean learning_rate?",
    "plan objective.gama=1": "did you mean gamma?",
    "plan cluster=slrm": "did you mean slurm?",
    "calibrate rows=ddpo": "did you mean dpo?",
    "reproduce --quite": "is not read; did you mean --quiet?",
    "plan --verbose": "is not read; --help lists the flags",
    "plan -m seed=1,2": "recipes.sweep",
    "train --multirun": "recipes.sweep",
    "train --cfg hydra": "write --cfg job",
    "train --cfg": "--help lists the flags",
    "train --cfg job --package trian": "did you mean train?",
    "train --config-dir /nowhere": "/nowhere is not a folder; correct the path",
    "train --config-dir": "--help lists the flags",
    "train hydra.searchpath=[/nowhere]": "/nowhere is not a folder; correct the path",
    "train hydra.searchpath=/tmp": "write hydra.searchpath=[DIR,DIR]",
    "train hydra.run.dir=x": "is not read; an argument is KEY=VALUE",
    "train seed=1,2": "recipes.sweep",
    "train rows=dpo": "belongs to commands about a table",
    "train sed=1": "did you mean seed?",
    "train setting=pocket_bas": "did you mean pocket_base?",
    "train experiment=pocket/dppo": "did you mean pocket/dpo?",
    "train experiment=dpo": "choose from author_llama_on_policy/dpo",
    "train objective=dppo objective.tau=1": "objective=dppo: there is no objective dppo; did you mean dpo?",
    "train objective=dpo objective.gamma=1": "gamma is an option of objective focalpo, focal",
    "train objective.beta=-1": "a finite number > 0",
    "train model=poket": "did you mean pocket?",
    "train lora.rank=3": "lora=rank16",
    "train launch.workers=0": "launch.workers=0 must be >= 1",
    "train launch.ranks=0": "launch.ranks=0 must be >= 1",
    "train launch.gpus=-1": "launch.gpus=-1 must be >= 0",
    "train seed=-1": "seed=-1 must be in [0, 2^32)",
    "train seed=4294967296": "must be in [0, 2^32)",
    "generate generate.tensor_parallel=0": "generate.tensor_parallel=0 must be >= 1",
    "generate generate.data_parallel=-2": "generate.data_parallel=-2 must be >= 1",
    "generate generate.max_batch_tokens=0": "generate.max_batch_tokens=0 must be >= 1",
    "generate generate.dtype=fp8": "generate.dtype='fp8' must be float32 or bfloat16",
    "generate generate.sets.greedy.top_p=0": "generate.sets.greedy.top_p=0.0 must be in (0, 1]",
    "generate generate.sets.greedy.temperature=nan": "must be a finite number >= 0",
    "generate generate.sets.greedy.max_new_tokens=0": "must be >= 1",
    "generate generate.backend=tgi": "is not one of hf, vllm",
    "judge judge.endpoint.concurrency=0": "judge.endpoint.concurrency=0 must be >= 1",
    "judge judge.endpoint.timeout_seconds=inf": "must be a finite number > 0",
    "judge judge.endpoint.max_attempts=0": "must be >= 1",
    "judge judge.endpoint.budget_usd=-1": "must be a finite number >= 0, or null",
    "judge judge.endpoint.price.input_usd=-1": "must be a finite number >= 0",
    "pairs data.prompts=0": "data.prompts=0 must be >= 1",
    "pairs setting=pocket_instruct data.samples=1": "data.samples=1 must be >= 2",
    "pairs data.label_noise=0.9": "must be in [0, 0.5]",
    "pairs data.test_fraction=1": "must be in [0, 1)",
    "pairs setting=files data.path=x data.limit=0": "data.limit=0 must be >= 1, or null",
    "pairs setting=files": "data.path",
    "pairs setting=laptop data.file=nothing": "data.file=nothing is not a file of",
    "pairs setting=laptop data.sampling.seeds=[1,-2]": "data.sampling.seeds[1]=-2 must be in [0, 2^32)",
    "pairs setting=laptop data.sampling.seeds=[1,1]": "must be two different seeds or more",
    "train train.learning_rate=inf": "must be a finite number > 0",
    "train train.learning_rate=nan": "must be a finite number > 0",
    "train train.weight_decay=nan": "must be a finite number >= 0",
    "train train.warmup_ratio=1": "must be in [0, 1)",
    "train train.adam_beta2=1": "must be in (0, 1)",
    "train train.zero_stage=4": "must be 0, 1, 2 or 3",
    "train train.kernels=triton": "must be plain, compiled, liger",
    "train train.optimizer=lion": "must be adamw or adamw8bit",
    "train train.offload_optimizer=true": "train.offload_optimizer=true requires train.zero_stage=3",
    "train train.sequence_ranks=0": "train.sequence_ranks=0 must be >= 1",
    "train train.sequence_ranks=2": "train.sequence_ranks=2 does not divide launch.ranks=1; change one of them",
    "train model.phases.sft.train.sequence_ranks=3": "model.phases.sft.train.sequence_ranks=3 does not divide",
    "train train.dtype=float16 reference.dtype=float32": "train.dtype='float16' must be float32 or bfloat16",
    "train reference.micro_batch_tokens=0": "reference.micro_batch_tokens=0 must be >= 1",
    "train dynamics.every=-1": "dynamics.every=-1 must be >= 0",
    "train model.architecture.num_hidden_layers=0": "must be >= 1",
    "train cluster.scheduler=pbs": "cluster.scheduler='pbs' is not one of local, slurm; choose cluster=NAME",
    "train cluster=slurm cluster.stages.train.nodes=0": "cluster.stages.train.nodes=0 must be >= 1",
    "train track.wandb=on": "must be off, offline or online",
    "train runs=": "must be a text that is not empty",
    "sweep table=paper": "680 trainings, more than 100: choose fewer by settings=, rows= or KEY=VALUE, or allow them",
    "sweep rows=dpo settings=base points=5": "16 trainings, more than 5",
    "sweep points=all": "must be one number",
    "sweep objective=dpo,ipo": "choose them by rows=",
    "sweep rows=dpo settings=base train.lrr=1,2": "there is no such key",
    "dynamics table=paper data.path=x": "is not read: rows and settings are those of conf/table/files.yaml",
    "dynamics data.path=x rows=dppo": "did you mean dpo?",
    "duels pairs=dpo:fokalpo": "'fokalpo' is no row of the table; did you mean focalpo?",
    "duels table=laptop": "the laptop table asks no judge, and duels need one; take table=pocket",
    "calibrate_judge annotations=x out=x limit=0": "limit=0 must be >= 1, or null",
    "bench parts=[peer]": "did you mean peers?",
    "bench bench=gp": "bench=gp: there is no such bench; did you mean gpu?",
    "bench bench=cpu bench=gpu": "bench= is given twice; give it once",
    "bench repeats=0": "repeats=0 must be >= 1",
    "dashboard pockt": "table=pockt: there is no such table; did you mean pocket?",
    "dashboard pocket track.projct=x": "did you mean project?",
    "gpu_check twice": "twice: run python -m recipes.gpu_check",
    "publish": "its argument is missing: run python -m recipes.publish runs/report/NAME",
    "publish /nowhere": "/nowhere is not a folder; a report is one of runs/report/*",
    "publish weights now": "run python -m recipes.publish runs/report/NAME",
    "publish a b": "run python -m recipes.publish runs/report/NAME",
    "why": "its argument is missing: run python -m recipes.why ROW/SETTING/COLUMN",
    "why a/b/c --cfg job": "has no one configuration to show; leave --cfg out",
    "again": "its argument is missing: run make again STAGE=KIND/NAME-KEY",
    "again train/dpo rns=x": "rns: run make again STAGE=KIND/NAME-KEY",
    "paper claim": "claim: run python -m recipes.paper, or",
    "notebooks pocket paper": "run python -m recipes.notebooks TABLE, or runs/report/NAME",
    "annotations": "the following arguments are required: files",
    "annotations /nowhere.json": "/nowhere.json is no file or folder; correct the path",
    "annotations /dev/null --gamd x": "unrecognized arguments: --gamd x; --help lists the flags",
    "annotations /dev/null --name x": "--name names the model in the files that --out writes; leave it out, or add",
    "annotations /dev/null --out x --gamed /dev/null": "--out takes one judge stage, with its benchmark's own files",
    "reproduc": "there is no recipes.reproduc; did you mean reproduce?",
    "check chek=x": "chek=x: there is no such key; did you mean",
    "capability capabilty=laptop": "capabilty=laptop: there is no such key; did you mean",
    "start seed=1": "recipes.start is a stage and no command",
}


@pytest.mark.parametrize("line", WRONG)
def test_wrong_input_is_one_line_with_its_remedy(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a command answers before it imports its recipe; `test_wrong_commands...` runs some for real."""
    monkeypatch.setattr(sys, "argv", ["-m"])
    name, *arguments = line.split(" ")
    with pytest.raises(Mistake) as caught:
        answer(name, RECIPES / f"{name}.py", arguments)
    said = str(caught.value)
    assert WRONG[line] in said and len(said.splitlines()) == 1


def told(monkeypatch: pytest.MonkeyPatch, name: str, *arguments: str) -> str:
    monkeypatch.setattr(sys, "argv", ["-m"])
    return answer(name, RECIPES / f"{name}.py", list(arguments)) or ""


@pytest.mark.parametrize("flags", [["--config-dir", "{}"], ["-cd", "{}"], ["hydra.searchpath=[{}]"]])
def test_a_folder_of_the_users_own_adds_choices_tables_and_experiments(flags, tmp_path, monkeypatch) -> None:
    for name, text in {
        "data/mine.yaml": "defaults: [pocket_base, _self_]\nname: mine\nprompts: 77\n",
        "table/mine.yaml": "defaults: [pocket, _self_]\nscale: mine\nadd_new_objectives: false\n",
        "experiment/pocket/dpo.yaml": "# @package _global_\ndefaults: [override /objective: dpo]\nseed: 5\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    given = [each.format(tmp_path) for each in flags]
    for _ in range(2):
        assert told(monkeypatch, "train", *given, "data=mine", "--cfg", "job", "-p", "data.prompts") == "77"
    words = ["table=mine", "rows=dpo", "settings=base", "--cfg", "job", "--package", "table.scale"]
    assert told(monkeypatch, "plan", *given, *words) == "mine"
    (tables,) = [line for line in told(monkeypatch, "plan", *given, "--help").splitlines() if "table=" in line][-1:]
    assert {"mine", "noise", "pocket"} <= set(tables.partition("=")[2].split(", "))
    assert f"configuration\n  {ROOT / 'conf'}\n  {tmp_path}\n" in told(monkeypatch, "plan", *given, "--info")


def test_a_printed_configuration_has_the_values_of_the_overrides(monkeypatch: pytest.MonkeyPatch) -> None:
    printed = yaml.safe_load(told(monkeypatch, "train", "objective=dpo", "objective.beta=0.25", "--cfg", "job"))
    assert printed["objective"] == {"name": "dpo", "beta": 0.25} and printed["data"]["name"] == "pocket_base"
    rows = yaml.safe_load(told(monkeypatch, "plan", "rows=dpo", "seed=7", "settings=base", "-c", "job", "-p", "rows"))
    assert rows["base/dpo"]["seed"] == 7


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "its argument is missing: run python -m recipes.why ROW/SETTING/COLUMN [REPORT]"),
        (["--cell", "a/b/c"], "run python -m recipes.why"),
        (["a/b/c", "/nowhere"], "/nowhere is not a folder; a report is one of runs/report/*"),
        (["a/b/c", "d", "e"], "run python -m recipes.why"),
    ],
)
def test_why_refuses_words_that_it_does_not_read_and_explains_missing_folders(arguments: list[str], said: str) -> None:
    from recipes.why import main

    with pytest.raises(Mistake) as caught:
        main(arguments)
    assert said in str(caught.value)


@pytest.mark.parametrize("arguments", [[], ["/nowhere"], ["a", "b"]])
def test_a_worker_without_the_folder_of_a_stage_says_so(arguments: list[str]) -> None:
    out, err = (ended := command("focalpo.running.worker", *arguments)).communicate()
    assert ended.returncode == 2 and "is no folder of a stage; run python -m" in err and len(err.splitlines()) == 1


def test_hours_are_printed_for_people() -> None:
    from recipes.plan import hours_shown

    assert [hours_shown(x) for x in (0.0, 1.79e-05, 0.5, 9.994, 62.5, 12345.6)] == [
        "0.00", "<0.01", "0.50", "9.99", "62", "12,346"
    ]  # fmt: skip


def command(*arguments: str, cwd: Path = ROOT) -> subprocess.Popen:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-m", *arguments], cwd=cwd, env=environment, **pipes)


def cpu_seconds() -> float:
    times = os.times()
    return times.children_user + times.children_system


@pytest.mark.parametrize(
    "arguments",
    [
        "recipes.reproduce table=papr",
        "recipes.train objective=dppo",
        "recipes.rescore train.lrr=1",
        "recipes.bench parts=[peer]",
        "recipes.publish",
        "focalpo.running.worker recipes",
    ],
)
def test_wrong_commands_end_with_2_at_once_and_start_nothing(arguments: str, tmp_path: Path) -> None:
    before = cpu_seconds()
    out, err = (ended := command(*arguments.split(), cwd=tmp_path)).communicate()
    assert ended.returncode == 2 and not out
    assert err.startswith("error: ") and len(err.splitlines()) == 1
    assert cpu_seconds() - before < 2 and not list(tmp_path.iterdir())


def test_help_takes_under_a_second_and_imports_no_torch(tmp_path: Path) -> None:
    before = cpu_seconds()
    out, err = (ended := command("recipes.train", "--help", cwd=tmp_path)).communicate()
    assert cpu_seconds() - before < 1 and ended.returncode == 0 and not err
    assert "python -m recipes.train objective=dpo" in out and "  objective=amapo, apo_down, apo_zero, beta_dpo," in out


def test_no_command_imports_torch_before_its_line_is_checked() -> None:
    """The first wrong line of every command, one after the other in a process of its own, and a right one."""
    first = {line.partition(" ")[0]: line for line in reversed(WRONG)}
    assert first.keys() >= set(COMMANDS), "each command has a wrong line"
    code = (
        "import sys, pathlib, focalpo.running.worker\n"
        "from focalpo.running.beginning import answer\n"
        "lines = sys.argv[1:]\n"
        "assert answer('train', pathlib.Path('recipes/train.py'), ['objective=dpo']) is None\n"
        "for name, *words in map(str.split, lines):\n"
        "    try:\n"
        "        answer(name, pathlib.Path(f'recipes/{name}.py'), words)\n"
        "    except ValueError:\n"
        "        print(name, 'torch' in sys.modules)\n"
    )
    found = subprocess.run([sys.executable, "-c", code, *first.values()], cwd=ROOT, capture_output=True, text=True)
    assert found.stdout == "".join(f"{name} False\n" for name in first), found.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_command_that_is_stopped_while_it_imports_says_so_in_one_line(number: signal.Signals) -> None:
    started = command("recipes.train", "runs=/proc/runs")  # if it were not stopped, it could not write there
    maps = Path(f"/proc/{started.pid}/maps")
    while "libtorch" not in maps.read_text():  # the recipe's own imports have begun
        time.sleep(0.01)
    started.send_signal(number)
    out, err = started.communicate()
    assert err == "stopped; sealed stages are kept, run the same command again to resume\n" and not out
    assert started.returncode == 1
