"""More than one round: which stages a chain has, what rounds share, and that each starts from the last one's model."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from focalpo.config.compose import compose
from focalpo.planning.stages import Row, in_order, row_stages, train_stage
from focalpo.planning.table import planned
from focalpo.running.arrays import Array, arrays
from focalpo.running.schedule import run_stages
from focalpo.stages.folder import Folder, Stage, read_manifest
from focalpo.stages.records import Pair, PairState, read_records

POCKET = ("setting=pocket_instruct", "experiment=pocket/dpo")
HUB = ("setting=llama3_instruct", "data=on_policy", "experiment=llama3_instruct/dpo")
LAPTOP = ("setting=laptop", "experiment=laptop/dpo")


def trained(*overrides: str) -> Stage:
    return train_stage(compose(overrides), "row")


def rounds_of(last: Stage) -> list[Stage]:
    """The trainings of a chain, the first round's first."""
    found = [last]
    while found[0].inputs.get("model") and found[0].inputs["model"].kind == "train":
        found.insert(0, found[0].inputs["model"])
    return found


@pytest.mark.parametrize("setting", [POCKET, HUB, LAPTOP])
def test_a_round_starts_from_the_last_ones_model_which_samples_its_pairs_and_is_its_reference(setting) -> None:
    first, second, third = rounds_of(trained(*setting, "rounds=3"))
    assert [each.key for each in rounds_of(trained(*setting, "rounds=2"))] == [first.key, second.key]
    assert first.key == trained(*setting).key and first.inputs.keys() - {"model"} == {"pairs", "reference"}
    for before, now in ((first, second), (second, third)):
        reference, pairs = now.inputs["reference"], now.inputs["pairs"]
        sampled = pairs.inputs["rated"].inputs["samples"] if "rated" in pairs.inputs else pairs
        for stage in (now, reference, pairs, sampled):
            assert stage.inputs["model"] is before
            assert stage.settings["model"]["path"] is None, "not the hub's, whatever round 1 started from"
        assert reference.inputs["pairs"].key == pairs.key
        assert now.settings | {"model": None} == before.settings | {"model": None}, "rounds differ in nothing else"


def test_every_round_has_sampling_seeds_of_its_own_and_the_prompts_of_the_first() -> None:
    chain = [each.inputs["pairs"] for each in rounds_of(trained(*POCKET, "rounds=3", "data.seed=5"))]
    assert [pairs.settings["data"]["seed"] for pairs in chain] == [5, 5, 5]
    assert [pairs.settings.get("sampling_seed", 5) for pairs in chain] == [5, 1005, 2005]
    for setting in (HUB, LAPTOP):
        rated = [each.inputs["pairs"].inputs["rated"] for each in rounds_of(trained(*setting, "rounds=2"))]
        samples = [each.inputs["samples"] for each in rated]
        assert samples[0].inputs["prompts"].key == samples[1].inputs["prompts"].key
        seeds = [stage.settings["seeds"] for stage in samples]
        assert seeds == [[each.settings["seeds"] for each in rated][place] for place in (0, 1)]
        assert not {*seeds[0]} & {*seeds[1]} and [seed - 1000 for seed in seeds[1]] == seeds[0]


def test_a_loss_without_a_reference_has_none_in_any_round_and_kto_has_both() -> None:
    simpo = trained("setting=pocket_instruct", "experiment=pocket/simpo", "rounds=2")
    assert "reference" not in {stage.kind for stage in in_order([simpo])}
    kto = trained("setting=pocket_instruct", "experiment=pocket/kto", "rounds=2")
    assert kto.inputs["reference_batch"].inputs["model"] is kto.inputs["model"]
    assert kto.inputs["model"].kind == "train"


def test_rows_with_more_rounds_share_the_earlier_ones_under_the_name_of_the_first_row() -> None:
    plan = planned(["table=rounds", "rows=dpo,dpo_2,dpo_3", "seeds=1"])
    stages = in_order([plan.report])
    names = [stage.name for stage in stages if stage.kind == "train"]
    assert names == ["instruct-dpo-s1", "instruct-dpo_2-s1", "instruct-dpo_3-s1"]
    assert [stage.name for stage in stages if stage.kind == "pairs"] == [
        "pocket_instruct", "pocket_instruct-round2", "pocket_instruct-round3",
    ]  # fmt: skip
    assert len({stage.key for stage in stages}) == len(stages)
    alone = [stage.name for stage in in_order([planned(["table=rounds", "rows=dpo_3", "seeds=1"]).report])]
    assert [name for name in alone if name.startswith("instruct-dpo_3-round")] == [
        "instruct-dpo_3-round1-s1", "instruct-dpo_3-round2-s1",
    ]  # fmt: skip


def test_the_untrained_row_is_the_start_model_whatever_the_rounds() -> None:
    def key(*overrides: str) -> str:
        return row_stages(compose([*POCKET, *overrides]), "sft", trained=False).generate.key

    assert key("rounds=3") == key()


def test_seeds_have_chains_of_their_own_and_share_the_first_pairs() -> None:
    one, two = (rounds_of(trained(*POCKET, "rounds=2", f"seed={seed}")) for seed in (1, 2))
    assert one[0].inputs["pairs"].key == two[0].inputs["pairs"].key
    assert one[1].inputs["pairs"].key != two[1].inputs["pairs"].key, "made by two models"


@pytest.mark.parametrize(
    "setting, data",
    [
        ("setting=pocket_base", "pocket_base"),
        ("setting=files data.path=pairs.jsonl", "file"),
        ("setting=mistral_base", "ultrafeedback_binarized"),
    ],
)
def test_pairs_that_the_model_does_not_write_have_one_round(setting: str, data: str) -> None:
    with pytest.raises(ValueError) as told:
        compose([*setting.split(), "rounds=2"])
    assert str(told.value) == (
        f"rounds=2: the pairs of data={data} are not the model's own answers; choose a data= whose source is one of "
        "/source/pocket_instruct, /source/on_policy, /source/instructions, or rounds=1"
    )
    with pytest.raises(ValueError, match="rounds=0"):
        compose([*POCKET, "rounds=0"])


def test_on_a_cluster_an_array_waits_for_arrays_before_it_only() -> None:
    plan = planned(["table=rounds", "rows=dpo,dpo_3,dpo_epochs", "seeds=2"])
    found = arrays(in_order([plan.report]), set(), {})
    place = {id(array): number for number, array in enumerate(found)}

    def behind(array: Array) -> set[int]:
        return {place[id(each)] for each in array.waits_for}

    assert all(max(behind(array), default=-1) < number for number, array in enumerate(found))
    needed = {stage.key: {need.key for need in stage.needed} for array in found for stage in array.stages}
    for number, array in enumerate(found):
        earlier = {stage.key for each in found[:number] for stage in each.stages}
        assert all(needed[stage.key] <= earlier for stage in array.stages)
    assert [array.kind for array in found].count("train") == 3, "one for each round; the control runs with the first"


TINY = (
    *POCKET,
    "model.phases.pretraining.count=320",
    "model.phases.pretraining.train.max_steps=10",
    "model.phases.sft.count=320",
    "model.phases.sft.train.max_steps=10",
    "data.prompts=120",
    "train.max_steps=2",
    "train.learning_rate=5e-3",
    "dynamics.train_pairs=20",
)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Row]:
    runs = tmp_path_factory.mktemp("runs")
    row = row_stages(compose([*TINY, "rounds=2", f"runs={runs}"]), "row")
    assert row.train is not None
    run_stages(runs, in_order([row.train]), workers=1, silent=True)
    return runs, row


@pytest.mark.slow
def test_the_reference_of_a_round_is_the_model_that_it_starts_from(ran: tuple[Path, Row]) -> None:
    """The policy at step 0 has the log-probs of the reference stage; after the round before it has others."""
    runs, row = ran
    first, second = rounds_of(row.train)
    ends = {}
    for stage in (first, second):
        states = read_records(Folder(runs, stage).path / "dynamics.parquet", PairState)
        start = [state for state in states if (state.split, state.step) == ("train", 0)]
        cached = pq.read_table(Folder(runs, stage.inputs["reference"]).path / "logps.parquet").to_pydict()
        assert [state.id for state in start] == cached["id"][: len(start)]
        for branch in ("chosen", "rejected"):
            found = [getattr(state, branch) for state in start]
            assert found == pytest.approx(cached[branch][: len(start)], abs=1e-3)
        ends[stage.key] = Folder(runs, stage).path / "model/model.safetensors"
    assert ends[first.key].read_bytes() != ends[second.key].read_bytes()


@pytest.mark.slow
def test_the_same_prompts_are_answered_anew_on_the_same_side(ran: tuple[Path, Row]) -> None:
    runs, row = ran
    texts, answers = [], []
    for stage in rounds_of(row.train):
        pairs = {
            split: read_records(Folder(runs, stage.inputs["pairs"]).path / f"{split}.parquet", Pair)
            for split in ("train", "test")
        }
        texts.append({split: {pair.prompt[0]["content"] for pair in found} for split, found in pairs.items()})
        answers.append({(pair.id, pair.chosen, pair.rejected) for found in pairs.values() for pair in found})
    assert len(texts[0]["train"] & texts[1]["train"]) > 40
    assert not (texts[0]["train"] & texts[1]["test"] or texts[0]["test"] & texts[1]["train"])
    assert len(answers[0] & answers[1]) < len(answers[0]) / 2


@pytest.mark.slow
def test_a_chain_goes_on_where_it_stopped_and_does_nothing_when_it_is_whole(ran: tuple[Path, Row]) -> None:
    runs, row = ran
    stages = in_order([row.train])
    assert run_stages(runs, stages, workers=1, silent=True) == 0
    last = Folder(runs, row.train).path
    outputs = read_manifest(last)["outputs"]
    (last / "manifest.json").unlink()
    assert run_stages(runs, stages, workers=1, silent=True) == 1
    assert read_manifest(last)["outputs"] == outputs
