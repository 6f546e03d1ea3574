"""Which stages a configuration produces, what they share, and which changes produce a different stage."""

from pathlib import Path

import pytest

from focalpo.config.compose import compose
from focalpo.judging.identity import judge_name
from focalpo.planning.stages import in_order, row_stages, train_stage
from focalpo.planning.table import planned
from focalpo.running.worker import RANKED
from focalpo.stages.folder import Stage


def kinds(*overrides: str) -> list[str]:
    return [stage.kind for stage in in_order([train_stage(compose(overrides), "row")])]


def test_a_stage_is_ordered_after_everything_it_needs() -> None:
    row = row_stages(compose(["experiment=pocket/kto"]), "row")
    order = in_order([row.judge])
    assert len({stage.title for stage in order}) == len(order)
    for place, stage in enumerate(order):
        assert all(needed in order[:place] for needed in stage.inputs.values())


def test_only_stages_that_the_objective_needs_are_planned() -> None:
    assert kinds("experiment=pocket/dpo") == ["sft", "sft", "pairs", "reference", "train"]
    assert kinds("experiment=pocket/simpo") == ["sft", "sft", "pairs", "train"]
    assert kinds("experiment=pocket/kto") == ["sft", "sft", "pairs", "reference", "reference", "train"]


def test_objectives_and_seeds_share_one_reference() -> None:
    def reference(*overrides: str) -> str:
        return train_stage(compose(overrides), "row").inputs["reference"].title

    first = reference("experiment=pocket/dpo", "seed=1")
    assert first == reference("experiment=pocket/focalpo", "seed=2", "objective.gamma=0.2", "train.learning_rate=1e-4")
    assert first == reference("experiment=pocket/kto")
    assert first != reference("experiment=pocket/dpo", "data.label_noise=0.2")


@pytest.mark.parametrize(
    "override",
    ["launch.ranks=2", "launch.workers=1", "train.micro_batch_tokens=99", "train.zero_stage=3", "track=offline"],
)
def test_launch_settings_do_not_change_the_key(override: str) -> None:
    assert train_stage(compose([override]), "a").key == train_stage(compose([]), "a").key


@pytest.mark.parametrize(
    "override",
    ["seed=2", "objective.gamma=0.2", "train.learning_rate=1e-4", "data.seed=2", "model.seed=2", "data.max_length=80"],
)
def test_settings_that_affect_results_change_the_key(override: str) -> None:
    assert train_stage(compose([override]), "a").key != train_stage(compose([]), "a").key


@pytest.mark.parametrize(
    "overrides, ranked",
    [
        (["experiment=pocket/kto"], {"sft", "reference", "train"}),
        (["setting=llama3_instruct", "data=on_policy"], {"reward", "reference", "train"}),
    ],
)
def test_a_ranked_stage_has_the_launch_settings_that_its_ranks_read(overrides: list[str], ranked: set[str]) -> None:
    """`focalpo.running.worker` reads `ranks` and `hang_seconds`, the tracker reads `track`."""
    stages = [stage for stage in in_order([train_stage(compose(overrides), "row")]) if stage.kind in RANKED]
    assert {stage.kind for stage in stages} == ranked
    assert all({"ranks", "hang_seconds", "track"} <= stage.launch.keys() for stage in stages)


def test_the_key_depends_on_the_content_of_a_data_file_and_not_on_its_path(tmp_path: Path) -> None:
    path, copy = tmp_path / "pairs.jsonl", tmp_path / "elsewhere.jsonl"

    def stages(*overrides: str) -> dict[str, Stage]:
        train = train_stage(compose(["setting=files", *overrides]), "a")
        return {"train": train, "pairs": train.inputs["pairs"], "sft": train.inputs["model"]}

    def keys(*overrides: str) -> list[str]:
        return [stage.key for stage in stages(*overrides).values()]

    path.write_text("one")
    copy.write_text("one")
    first = keys(f"data.path={path}")
    assert keys(f"data.path={copy}") == first, "a moved file is the same data"
    for name in ("pairs", "sft"):
        stage = stages(f"data.path={copy}")[name]
        assert stage.launch["files"] == {"path": str(copy), "test_path": None}, "the stage knows the path of its file"
        assert str(tmp_path) not in str(stage.settings)
    path.write_text("two")
    assert not {*keys(f"data.path={path}")} & {*first}
    path.write_text("one")
    assert keys(f"data.path={path}") == first
    tested = keys(f"data.path={path}", f"data.test_path={copy}")
    missing = keys(f"data.path={path}", f"data.test_path={tmp_path / 'nowhere.jsonl'}")
    assert len({first[0], tested[0], missing[0]}) == 3, "a missing file of test pairs is not the same as none requested"


@pytest.mark.parametrize("kind", ["pairs", "generate"])
def test_the_key_depends_on_the_batch_size_only_with_the_hugging_face_backend(kind: str) -> None:
    """Hugging Face draws the random numbers of a whole batch at once; vLLM seeds each request separately."""

    def stage(*overrides: str) -> Stage:
        row = row_stages(compose(["experiment=pocket/dpo", "setting=pocket_instruct", *overrides]), "row")
        return {each.kind: each for each in in_order([row.judge])}[kind]

    small, large = (f"generate.max_batch_tokens={tokens}" for tokens in (1024, 4096))
    vllm = "generate.backend=vllm"
    assert stage(small).key != stage(large).key
    assert stage(small, vllm).key == stage(large, vllm).key
    assert "max_batch_tokens" not in stage(small, vllm).settings
    assert stage(small, vllm).launch["max_batch_tokens"] == stage(small).launch["max_batch_tokens"] == 1024


@pytest.mark.parametrize(
    "name, other, needed", [("schedule", "linear", []), ("optimizer", "adamw8bit", ["train.zero_stage=3"])]
)
def test_what_has_a_second_value_is_named_in_the_key_only_where_it_has_that(
    name: str, other: str, needed: list[str]
) -> None:
    """Stages of before there were two keep their keys."""
    first, second = (train_stage(compose([*needed, *each]), "a") for each in ([], [f"train.{name}={other}"]))
    assert name not in first.settings["train"] and second.settings["train"][name] == other
    assert first.key != second.key


def test_the_batch_size_does_not_change_pairs_that_are_not_sampled() -> None:
    keys = {train_stage(compose([f"generate.max_batch_tokens={tokens}"]), "a").key for tokens in (1024, 4096)}
    assert len(keys) == 1


def test_threads_are_part_of_the_key_where_cpus_compute_and_only_there() -> None:
    def keys(*overrides: str) -> dict[str, str]:
        stages = in_order([row_stages(compose(["experiment=pocket/dpo", *overrides]), "row").judge])
        return {stage.kind + stage.name: stage.key for stage in stages}

    one, two = keys(), keys("launch.threads=2")
    assert {name for name in one if one[name] == two[name]} == {"benchmarkalpaca_eval", "benchmarkarena_hard"} | {
        name for name in one if name.startswith("pairs") and one[name] == two[name]
    }
    assert keys("launch=gpu1") == keys("launch=gpu1", "launch.threads=2")


ADDRESS = "judge.endpoint.base_url"


@pytest.mark.parametrize(
    "one, other, same",
    [
        (f"{ADDRESS}=http://a:1/v1", f"{ADDRESS}=http://b:1/v1", False),
        (f"{ADDRESS}=http://a:1/v1", f"{ADDRESS}=http://a:2/v1", False),
        (f"{ADDRESS}=http://a:1/v1", f"{ADDRESS}=http://a:1/v2", False),
        (f"{ADDRESS}='vllm one/model'", f"{ADDRESS}='vllm another/model'", False),
        (f"{ADDRESS}=http://a:1/v1", f"{ADDRESS}=null", False),
        (f"{ADDRESS}=pocket", f"{ADDRESS}=http://a:1/v1", False),
        ("judge.name=one", "judge.name=other", False),
        (f"{ADDRESS}=http://a:1/v1", f"{ADDRESS}=http://A:1/v1/", True),
        (f"{ADDRESS}=pocket", f"{ADDRESS}='pocket --faults 429=0.1 --fault-seed=3'", True),
        (f"{ADDRESS}=http://a:1/v1", "judge.endpoint.concurrency=9", None),
    ],
)
def test_another_judge_is_another_stage(one: str, other: str, same: bool | None) -> None:
    def key(*overrides: str) -> str:
        return row_stages(compose(["experiment=pocket/dpo", *overrides]), "row").judge.key

    if same is None:
        assert key(one) == key(one, other)
        return
    assert (key(one) == key(other)) == same
    if not one.startswith("judge.name"):
        assert key(one, "judge.name=mine") == key(other, "judge.name=mine") or "pocket" in one + other, "it moved"


def test_no_secret_of_an_address_is_in_the_key() -> None:
    name = judge_name(None, "https://me:secret@host:1/v1?api_key=secret#secret")
    assert name == "https://host:1/v1"


def test_an_edited_chat_template_changes_the_key(tmp_path: Path) -> None:
    (tmp_path / "chat.jinja").write_text("one")
    config = compose([])
    config.model.chat_template = str(tmp_path / "chat.jinja")
    first = train_stage(config, "a").key
    (tmp_path / "chat.jinja").write_text("two")
    assert train_stage(config, "a").key != first
    with pytest.raises(ValueError, match=r"model.chat_template=nowhere.jinja is not a file of .*; correct the path"):
        compose(["model.chat_template=nowhere.jinja"])


KEYS = {
    "table=pocket": (
        "sft/pocket-sft-582dcc3fe23f",
        "pairs/pocket_instruct-9fed85257c24",
        "reference/pocket_base-mismatched-f49f8b39ece5",
        "train/base-focalpo-s5-45f1a1f84c85",
        "generate/base-focalpo-s5-db4c46c01dd3",
        "judge/base-focalpo-s5-30384ed097ae",
    ),
    "table=paper": (
        "pairs/ultrafeedback_binarized-9b48e5f18eeb",
        "reference/llama3_ultrafeedback_armorm-chosen-rejected-97719ee17d84",
        "train/base-dpo-s42-e6a70676d13c",
        "judge/base-focalpo-s42-20ad0a52a5f2",
    ),
    "table=one_gpu lora=rank16 data=on_policy": (
        "sample/qwen2_5_0_5b_instruct-on_policy-226e1414c0e3",
        "reward/qwen2_5_0_5b_instruct-on_policy-75cfcef9597e",
        "pairs/on_policy-79bc7d1acd5e",
    ),
    "table=one_gpu rows=dpo lora=rank16": (
        "reference/ultrafeedback_binarized-chosen-rejected-6d1a20901bf6",
        "train/one_gpu-dpo-s42-1e66eef5d8e9",
    ),
    "table=one_gpu rows=sft,dpo capability=leaderboard": (
        "capability/sft-3cadab6eb8fd",
        "capability/one_gpu-dpo-s42-21ddca3fdf14",
    ),
}


@pytest.mark.parametrize("command", KEYS)
def test_known_stages_keep_their_keys(command: str) -> None:
    """Change these only when the outcome of a stage has changed: a new key makes every existing run start over."""
    titles = {stage.title for stage in in_order([planned(command.split()).report])}
    assert not set(KEYS[command]) - titles
