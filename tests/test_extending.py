"""The steps of docs/extending.md, word for word: a loss, a model, a data set, a judge, a table, a cluster."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from focalpo.config.compose import compose
from focalpo.planning.stages import in_order, pairs_stage, row_stages, train_stage
from focalpo.planning.table import planned
from focalpo.pocket.judge import complete
from focalpo.running.schedule import run_stages
from focalpo.running.submit import submit
from focalpo.running.worker import make
from focalpo.stages.folder import Folder, Stage, file_hash, read_manifest
from focalpo.stages.records import AlpacaVerdict, read_records
from tests.judge_stub import judge_stub
from tests.judged_table import seal_answers
from tests.test_submit_cluster import calls, kind_of
from tests.tiny import chatml_tokenizer, tiny_model

ROOT = Path(__file__).parent.parent
DOCS = (ROOT / "docs/extending.md").read_text()
TINY = [
    "model.phases.pretraining.count=640",
    "model.phases.pretraining.train.max_steps=2",
    "model.phases.sft.count=64",
    "data.prompts=100",
    "train.max_steps=2",
    "dynamics.train_pairs=20",
]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", DOCS, re.DOTALL | re.MULTILINE)


@pytest.fixture
def mine(tmp_path: Path) -> str:
    """The override that adds a folder with the documented files of configuration."""
    for text in blocks("yaml"):
        file = tmp_path / "mine" / re.match(r"# conf/(\S+)\n", text)[1]
        file.parent.mkdir(parents=True)
        file.write_text(text)
    return f"hydra.searchpath=['{tmp_path / 'mine'}']"


def test_every_kind_of_file_that_is_explained_is_shown(mine: str, tmp_path: Path) -> None:
    shown = {path.parent.name for path in (tmp_path / "mine").glob("*/mine.yaml")}
    assert shown == {"model", "data", "judge", "table", "cluster"} and len(blocks("python")) == 1


# ---- a loss


def train(checkout: Path, *more: str) -> tuple[str, dict, str]:
    """Run the real command in a checkout: its output, the manifest, and the hash of the weights."""
    command = [sys.executable, "-m", "recipes.train", "objective=hinge", "objective.beta=0.2", *TINY, *more]
    environment = os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True)
    assert not ended.returncode, ended.stdout + ended.stderr
    folder = checkout / ended.stdout.splitlines()[-1]
    return ended.stdout, read_manifest(folder), file_hash(folder / "model" / "model.safetensors")


@pytest.mark.slow
def test_a_loss_that_is_added_trains_and_one_that_is_edited_trains_anew(tmp_path: Path) -> None:
    for name in ("focalpo", "recipes", "conf", "eval"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    folder = tmp_path / "focalpo/training/objective"
    imports = (folder / "margins.py").read_text().partition("\n\n\n@objective")[0]
    added, losses = f"{imports}\n\n\n{blocks('python')[0]}", folder / "hinge.py"
    losses.write_text(added)
    _, first, weights = train(tmp_path)
    assert first["settings"]["objective"] == {"name": "hinge", "beta": 0.2}

    assert (edited := added.replace("torch.relu(1 - (chosen", "torch.relu(3 - 2 * (chosen")) != added
    losses.write_text(edited)
    said, second, other_weights = train(tmp_path)
    assert "1 stage is made again, because code that their keys depend on has changed: train/hinge" in said
    assert "[5/5] train/hinge" in said, "the other four are kept"
    assert second["key"] != first["key"] and second["outputs"] != first["outputs"] and other_weights != weights
    assert second["facts"]["test"]["margin"] != first["facts"]["test"]["margin"]

    losses.write_text(added)
    said, again, same_weights = train(tmp_path)
    assert again == first and same_weights == weights
    assert said == f"{json.dumps(first['facts'], indent=1)}\nruns/{first['stage']}\n", "nothing was made"


@pytest.mark.slow
def test_one_worker_and_two_make_the_same_bytes(tmp_path: Path) -> None:
    configs = [compose([f"objective={name}", *TINY]) for name in ("dpo", "ipo")]
    stages = in_order([train_stage(config, config.objective.name) for config in configs])
    assert run_stages(tmp_path / "1", stages, 1) == len(stages)
    shutil.copytree(tmp_path / "1", tmp_path / "2", ignore=shutil.ignore_patterns("train"))
    assert run_stages(tmp_path / "2", stages, 2) == 2
    for stage in stages[-1], stages[-2]:
        one, two = (read_manifest(Folder(tmp_path / workers, stage).path)["outputs"] for workers in "12")
        assert one.keys() >= {"model/model.safetensors", "metrics.jsonl", "dynamics.parquet"}
        assert one | {"model/README.md": two["model/README.md"]} == two, "only the card names its folder"


# ---- a model and a data set


def test_a_model_and_a_data_set_of_ones_own_make_pairs(mine: str, tmp_path: Path, monkeypatch) -> None:
    """The hub's model is replaced by a folder with a tokenizer and weights of its family."""
    monkeypatch.chdir(tmp_path)
    tiny_model().save_pretrained("hub")
    chatml_tokenizer().save_pretrained("hub")
    rows = [{"prompt": f"say {n}", "chosen": f"{n}, gladly", "rejected": "no"} for n in range(40)]
    Path("pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = compose([mine, "setting=files", "model=mine", "data=mine", "model.path=hub", "model.revision=null"])
    assert (config.model.name, config.data.name, config.data.source) == ("mine", "mine", "file")
    stage = pairs_stage(config, None)
    make(tmp_path / "runs", stage)
    facts = read_manifest(Folder(tmp_path / "runs", stage).path)["facts"]
    assert facts["train"] + facts["test"] == 40 and facts["test"] > 0


# ---- a judge


def judged(runs: Path, stage: Stage) -> tuple[dict, list[float]]:
    seal_answers(runs, [stage])
    make(runs, stage)
    folder = Folder(runs, stage).path
    return read_manifest(folder), [v.preference for v in read_records(folder / "alpaca_eval.parquet", AlpacaVerdict)]


def inverted(body: dict, _: int) -> dict:
    """The pocket judge with its opinion turned round."""
    reply = json.dumps(complete(body))
    turned = {'"token": "m"': '"token": "M"', '"token": "M"': '"token": "m"', "A>B": "B>A", "B>A": "A>B"}
    turned |= {"A>>B": "B>>A", "B>>A": "A>>B"}
    return json.loads(re.sub("|".join(turned), lambda found: turned[found[0]], reply))


@pytest.mark.slow
def test_a_judge_of_ones_own_judges_and_another_one_judges_anew(mine: str, tmp_path: Path) -> None:
    pocket = [f"judge.benchmarks.{name}=pocket_{name}" for name in ("alpaca_eval", "arena_hard")]

    def stage(url: str, *more: str) -> Stage:
        config = compose([mine, "judge=mine", *pocket, "judge.sentinel=null", f"judge.endpoint.base_url={url}", *more])
        return row_stages(config, "row").judge

    with judge_stub(lambda body, _: complete(body)) as one, judge_stub(inverted) as two:
        first, scores = judged(tmp_path, mine_judged := stage(one.url))
        assert first["settings"]["judge"] == "my-judge" and len(one.requests) == first["facts"]["calls"]["calls"]
        assert make(tmp_path, stage(two.url)) == 0, "a judge with a name may move"
        edited = replace(mine_judged, settings=mine_judged.settings | {"code": "of another commit"})
        again, same = judged(tmp_path, edited)
        assert same == scores and again["key"] != first["key"] and again["facts"]["records_of"] == [first["stage"]]
        assert again["facts"]["calls"]["calls"] == 0 and len(one.requests) == first["facts"]["calls"]["calls"]
        for other in (stage(two.url, "judge.name=yours"), stage(two.url, "judge.name=null")):
            manifest, others = judged(tmp_path, other)
            assert manifest["settings"]["judge"] in ("yours", two.url) and manifest["key"] != first["key"]
            assert others == pytest.approx([3 - score for score in scores], abs=1e-6)
        assert len(two.requests) == 2 * len(one.requests) and make(tmp_path, mine_judged) == 0


# ---- a table


def test_a_table_of_ones_own_has_a_row_for_each_file_of_answers(mine: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("theirs", "other"):
        Path(f"{name}.json").write_text(json.dumps([{"instruction": "do", "output": name}]))
    plan = planned([mine, "table=mine"])
    answers = {row: stages.generate for (_, row, _), stages in plan.rows.items()}
    assert [(row, stage.kind, stage.launch["files"]) for row, stage in answers.items()] == [
        ("given", "answers", {"alpaca_eval": "theirs.json"}),
        ("other", "answers", {"alpaca_eval": "other.json"}),
    ]
    assert plan.table.scale == "mine" and answers["given"].key != answers["other"].key


# ---- a cluster


def test_a_cluster_of_ones_own_gets_its_flags(mine: str, fake_slurm: Path, tmp_path: Path) -> None:
    config = compose([mine, "cluster=mine", "launch=gpus8", "generate.tensor_parallel=8", "objective=dpo"])
    submit(tmp_path / "runs", row_stages(config, "dpo").judge, config.cluster)
    flags = {kind_of(call): call for call in calls(fake_slurm)}
    assert all("--partition=gpu" in call and "--exclusive" in call for call in flags.values())
    assert {"--qos=long", "--time=1440", "--gpus-per-node=8"} <= set(flags["train"])
    assert "--time=720" in flags["judge"] and not any(word.startswith("--qos") for word in flags["judge"])
