"""Pairs of the model's own answers: prompts, choice of the answers, reward scores and stages."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from focalpo.answering.rewarding import RewardModel
from focalpo.config.compose import compose
from focalpo.data import on_policy
from focalpo.data.on_policy import best_against_worst, hub_prompts
from focalpo.data.validate import EMPTY, IDENTICAL, validate
from focalpo.data.values import TIE
from focalpo.planning.stages import in_order, pairs_stage, reward_stage
from focalpo.running.worker import make
from focalpo.stages.folder import Folder
from focalpo.stages.records import Completion, Prompt, Rated, read_records, write_records
from rehearsal.datasets import texts
from rehearsal.models import write_model, write_reward_model

SEEDS = (13, 21, 42, 79, 100)


def rated(name: str, answers: list[tuple[str, float]], split: str = "train") -> list[Rated]:
    prompt = [{"role": "user", "content": name}]
    return [Rated(name, split, prompt, seed, text, reward) for seed, (text, reward) in zip(SEEDS, answers, strict=True)]


def test_the_highest_reward_is_chosen_and_the_lowest_rejected() -> None:
    answers = [("a", 0.2), ("b", 0.9), ("c", -1.0), ("d", 0.5), ("e", 0.1)]
    train, test = best_against_worst(rated("p", answers) + rated("q", answers[::-1], "test"), "own")
    assert [(pair.chosen, pair.rejected) for pair in train.pairs.values()] == [("b", "c")]
    assert [(pair.id, pair.chosen, pair.rejected) for pair in test.pairs.values()] == [("q", "b", "c")]


def test_of_equal_rewards_the_earlier_seed_is_taken() -> None:
    answers = [("a", 1.0), ("b", 1.0), ("c", 0.0), ("d", 0.0), ("e", 0.5)]
    train, _ = best_against_worst(rated("p", answers), "own")
    assert [(pair.chosen, pair.rejected) for pair in train.pairs.values()] == [("a", "c")]


def test_identical_and_empty_answers_are_dropped_and_counted() -> None:
    good = [("a", 1.0), ("b", 0.0), ("c", 0.5), ("d", 0.5), ("e", 0.5)]
    same = [("a", 1.0), ("a", 0.0), ("a", 0.5), ("a", 0.5), ("a", 0.5)]
    empty = [("a", 1.0), ("", 0.0), ("c", 0.5), ("d", 0.5), ("e", 0.5)]
    everything = rated("p", good) + rated("q", same) + rated("r", empty) + rated("s", good, "test")
    checked = validate(*best_against_worst(everything, "own"), "drop")
    assert checked.dropped == {IDENTICAL: 1, EMPTY: 1}
    assert [pair.id for pair in checked.train] == ["p"] and [pair.id for pair in checked.test] == ["s"]


def test_answers_that_all_score_alike_are_a_tie_which_is_dropped_and_counted() -> None:
    alike = [(text, 0.5) for text in "abcde"]
    better = [("a", 0.5), ("b", 0.5), ("c", 0.5), ("d", 0.5), ("e", 1.0)]
    everything = rated("p", alike) + rated("q", better) + rated("s", better, "test")
    checked = validate(*best_against_worst(everything, "own"), "error")
    assert checked.dropped == {TIE: 1}
    assert [(pair.id, pair.chosen, pair.rejected) for pair in checked.train] == [("q", "e", "a")]


def test_prompts_are_unique_and_sorted_and_no_test_prompt_is_a_train_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    held = {"train_prefs": ["b", "a", "b", "c"], "test_prefs": ["c", "d"]}
    monkeypatch.setattr(on_policy, "hub_rows", lambda name, revision, split: [{"prompt": text} for text in held[split]])
    found = hub_prompts("own/prompts", "0" * 40, ("train_prefs", "test_prefs"), None)
    assert [(each.prompt[0]["content"], each.split) for each in found] == [
        ("a", "train"), ("b", "train"), ("c", "test"), ("d", "test"),
    ]  # fmt: skip
    assert len(hub_prompts("own/prompts", "0" * 40, ("train_prefs", "test_prefs"), 1)) == 2


def test_prompts_that_are_not_texts_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_policy, "hub_rows", lambda name, revision, split: [{"chosen": "x"}])
    with pytest.raises(ValueError, match="own/prompts train row 1 has no text in column `prompt`"):
        hub_prompts("own/prompts", "0" * 40, ("train", "test"), None)


@pytest.mark.parametrize(
    ("row", "ignored", "message"),
    [
        ({"prompt": "a\ud800"}, [], "train row 1 has a prompt that no encoder can read"),
        ({"prompt": "a\0"}, [], "train row 1 has a prompt that no encoder can read"),
        ({"prompt": "a", "system": "Be brief."}, [], r"column system is not read .* data.ignore_columns=\[system\]"),
        ({"prompt": "a", "tools": [{"name": "find"}]}, [], r"data.ignore_columns=\[tools\]"),
        ({"prompt": "a"}, ["sytem"], "has no column or message key sytem"),
    ],
)
def test_what_a_prompt_needs_or_no_encoder_reads_is_refused(
    monkeypatch: pytest.MonkeyPatch, row: dict, ignored: list[str], message: str
) -> None:
    monkeypatch.setattr(on_policy, "hub_rows", lambda name, revision, split: [row])
    with pytest.raises(ValueError, match=message):
        hub_prompts("own/prompts", "0" * 40, ("train", "test"), None, ignored)


def test_answers_and_their_scores_beside_a_prompt_are_not_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"prompt": "a", "prompt_id": "1", "chosen": "x", "rejected": "y", "score_chosen": 1.0, "system": "Be brief."}
    monkeypatch.setattr(on_policy, "hub_rows", lambda name, revision, split: [row | {"prompt": split}])
    found = hub_prompts("own/prompts", "0" * 40, ("train", "test"), None, ["system"])
    assert [each.prompt[0]["content"] for each in found] == ["train", "test"]


@pytest.fixture(scope="module")
def rewarder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hub") / "reward"
    write_reward_model(texts(), folder)
    return folder


def test_scores_of_any_batch_size_are_those_of_one_dialogue_at_a_time(rewarder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(rewarder)
    model = AutoModelForSequenceClassification.from_pretrained(rewarder, dtype=torch.float32).eval()
    words = ["ant", "bird", "cat bird", "ant ant ant", "dog", "cat"]
    prompts = [[{"role": "user", "content": f"sort : {word}"}] for word in words]
    expected = []
    for prompt, word in zip(prompts, words, strict=True):
        turns = [*prompt, {"role": "assistant", "content": word}]
        text = tokenizer.apply_chat_template(turns, tokenize=False)
        row = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            expected.append(float(model(row).logits[0, 0]))
    own = RewardModel(str(rewarder), None, "float32", own_code=False)
    for batch_tokens in (1, 60, 4096):
        assert own.scores(prompts, words, batch_tokens) == pytest.approx(expected, abs=1e-5)
    assert len({round(score, 4) for score in expected}) > 3


def test_a_model_that_is_not_a_reward_model_is_refused_in_one_line(rewarder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot load the reward model .*nowhere"):
        RewardModel(str(tmp_path / "nowhere"), None, "float32", own_code=False)
    model = AutoModelForSequenceClassification.from_pretrained(rewarder, num_labels=3, ignore_mismatched_sizes=True)
    model.save_pretrained(tmp_path / "three")
    AutoTokenizer.from_pretrained(rewarder).save_pretrained(tmp_path / "three")
    with pytest.raises(ValueError, match="gives 3 scores per answer, not one"):
        RewardModel(str(tmp_path / "three"), None, "float32", own_code=False).scores([[
            {"role": "user", "content": "sort : ant"}]], ["ant"], 64)  # fmt: skip


def test_a_reward_that_is_not_finite_is_refused(rewarder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be the best or the worst answer, or neither, by its place in a comparison."""
    own = RewardModel(str(rewarder), None, "float32", own_code=False)
    found = iter([0.5, float("nan")])  # of the shorter dialogue first
    monkeypatch.setattr(own, "_scores", lambda rows: [next(found)])
    asked = [[{"role": "user", "content": "sort : ant"}]] * 2
    with pytest.raises(ValueError, match="gives 1 of 2 answers no finite score, first to answer 2"):
        own.scores(asked, ["ant", "ant ant ant bird cat"], 64)


def test_a_reward_model_that_would_have_to_be_unpickled_is_refused(rewarder: Path, tmp_path: Path) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(rewarder)
    for kept in rewarder.iterdir():
        if kept.suffix == ".json":
            (tmp_path / kept.name).write_bytes(kept.read_bytes())
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="cannot load the reward model .*safetensors"):
        RewardModel(str(tmp_path), None, "float32", own_code=False)


def test_the_recipe_is_the_published_one_with_one_stage_for_all_seeds() -> None:
    config = compose(["setting=llama3_instruct", "data=on_policy"])
    made, reward = config.data.sampling, config.data.reward
    assert tuple(made.seeds) == SEEDS
    assert (made.temperature, made.top_p, made.max_new_tokens) == (0.8, 0.95, 4096)
    assert reward.path == "RLHFlow/ArmoRM-Llama3-8B-v0.1" and reward.revision
    stages = in_order([pairs_stage(config, None)])
    assert [stage.kind for stage in stages] == ["prompts", "sample", "reward", "pairs"]
    assert stages[1].settings["seeds"] == stages[2].settings["seeds"] == list(SEEDS)
    assert stages[2].inputs == {"prompts": stages[0], "samples": stages[1]}


@pytest.mark.slow
def test_two_ranks_give_the_same_rewards_as_one(rewarder: Path, tmp_path: Path) -> None:
    how = [f"data.reward.path={rewarder}", "data.reward.revision=null", "launch.ranks=2"]
    how += ["data.reward.own_code=false", "data.reward.dtype=float32", "data.sampling.seeds=[1,2]"]
    stage = reward_stage(compose(["setting=llama3_instruct", "data=on_policy", *how]), None)
    words = ["ant", "bird", "cat bird", "ant ant ant", "dog"]
    prompts = [Prompt(word, "train", [{"role": "user", "content": f"sort : {word}"}]) for word in words]
    drawn = {1: words, 2: words[::-1]}
    for name, needed in stage.inputs.items():
        folder = Folder(tmp_path, needed)
        with folder.being_made() as job:
            if name == "prompts":
                write_records(job.path / "prompts.parquet", prompts)
            else:
                pairs = [(prompt, drawn[seed][place]) for place, prompt in enumerate(prompts) for seed in (1, 2)]
                rows = [Completion(prompt.id, prompt.prompt, text, 1, True) for prompt, text in pairs]
                write_records(job.path / "samples.parquet", rows)
            folder.seal(0.0, {})
    make(tmp_path, stage)
    found = read_records(Folder(tmp_path, stage).path / "rated.parquet", Rated)
    assert [(each.id, each.seed, each.text) for each in found] == [
        (word, seed, drawn[seed][place]) for place, word in enumerate(words) for seed in (1, 2)
    ]
    alone = RewardModel(str(rewarder), None, "float32", own_code=False)
    expected = alone.scores([each.prompt for each in found], [each.text for each in found], 4096)
    assert [each.reward for each in found] == pytest.approx(expected, abs=1e-5)


def test_pairs_can_be_made_for_any_model_and_only_on_request() -> None:
    own = compose(["setting=one_gpu", "data=on_policy"])
    other = compose(["setting=llama3_instruct", "data=on_policy"])
    kinds = {stage.kind: stage for stage in in_order([pairs_stage(own, None)])}
    assert kinds["sample"].settings["model"]["path"] == "Qwen/Qwen2.5-0.5B-Instruct"
    assert pairs_stage(own, None).key != pairs_stage(other, None).key
    with pytest.raises(ValueError, match="there is no such key"):
        compose(["setting=mistral_base", "data.sampling.temperature=0.8"])


@pytest.mark.vllm
def test_two_replicas_give_the_same_answers_as_one(tmp_path: Path) -> None:
    from focalpo.answering.engine import Backend, Decoding
    from focalpo.answering.generation import Generator
    from focalpo.training.model import ModelSource

    write_model("llama3", texts(), tmp_path / "model")
    prompts = [[{"role": "user", "content": f"sort : {word}"}] for word in ("ant", "cat bird", "dog", "ant ant", "cat")]
    found = []
    for replicas in (1, 2):
        with Generator(ModelSource(str(tmp_path / "model")), Backend("vllm", "bfloat16", 1, replicas, 4096)) as made:
            sets = [Decoding(0.9, 1.0, 16), Decoding(0.0, 1.0, 16)]
            found.append([made.answer(list("abcde"), prompts, decoding, seed=3) for decoding in sets])
    assert found[0] == found[1]
