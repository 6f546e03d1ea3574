"""Paper scale: every row has the recorded values with their sources; the base setting uses the Zephyr template."""

import re

import pytest
import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from focalpo.config.compose import CONF, compose_table, plain
from focalpo.config.schema import Config
from focalpo.data.tokens import pair_trees, prompt_ids
from focalpo.data.truncation import Limits
from focalpo.judging.protocol import EVAL
from focalpo.planning.stages import in_order, table_rows
from focalpo.stages.records import Pair
from focalpo.training.model import ModelSource, load_tokenizer, stop_ids
from tests.test_conf import composed

ROOT = CONF.parent
PAPER_SETTINGS = ("mistral_base", "llama3_instruct")
PAPER_ROWS = ("sft", "rrhf", "slic", "dpo", "ipo", "cpo", "kto", "orpo", "rdpo", "simpo", "focalpo")
PAPER_FILES = [CONF / "experiment" / setting / f"{row}.yaml" for setting in PAPER_SETTINGS for row in PAPER_ROWS]
PAPER_PARTS = [
    *(CONF / group / f"{setting}.yaml" for group in ("train", "generate", "setting") for setting in PAPER_SETTINGS),
    *(CONF / "model" / f"{name}.yaml" for name in ("mistral_7b_sft_beta", "llama3_8b_instruct")),
    *(CONF / "data").glob("*ultrafeedback*.yaml"),
    *(CONF / "judge" / f"{name}.yaml" for name in ("gpt4_turbo", "local")),
    CONF / "launch" / "gpus8.yaml",
    CONF / "launch" / "gpu1.yaml",
    *(CONF / "lora" / f"{name}.yaml" for name in ("rank16", "qlora")),
    CONF / "data" / "on_policy.yaml",
    *(CONF / "model" / f"qwen2_5_{size}_instruct.yaml" for size in ("0_5b", "1_5b")),
    *(CONF / group / "one_gpu.yaml" for group in ("train", "generate", "setting")),
    *(CONF / "experiment" / "one_gpu").glob("*.yaml"),
    CONF / "train" / "author.yaml",
    *CONF.glob("setting/author_*.yaml"),
    *CONF.glob("experiment/author_*/*.yaml"),
]


def paper(setting: str, row: str) -> Config:
    return composed(f"experiment={setting}/{row}", f"setting={setting}")


@pytest.mark.parametrize("setting", PAPER_SETTINGS)
def test_an_experiment_selects_its_setting(setting):
    assert plain(composed(f"experiment={setting}/dpo")) == plain(paper(setting, "dpo"))


def test_the_paper_table_has_eleven_rows_in_the_papers_order_and_two_settings():
    table = compose_table("paper")
    assert [row.label for row in table.rows.values()] == [
        *("SFT", "RRHF", "SLiC-HF", "DPO", "IPO", "CPO", "KTO", "ORPO", "R-DPO", "SimPO", "FocalPO")
    ]
    assert tuple(table.rows) == PAPER_ROWS
    assert [name for name, row in table.rows.items() if not row.trained] == ["sft"]
    assert {name: column.experiments for name, column in table.settings.items()} == {
        "base": "mistral_base",
        "instruct": "llama3_instruct",
    }
    assert (table.compare_with, table.add_new_objectives) == ("dpo", False)
    assert {"gpus", "disk", "hours", "licences", "judge key", "judge cost", "total cost"} <= table.needs.keys()
    assert all("\n" not in need for need in table.needs.values())


# Learning rate and objective options, copied by hand from reference/paper.md sections 1 and 4
GOLD = {
    ("mistral_base", "dpo"): (5e-7, {"beta": 0.01}),
    ("mistral_base", "simpo"): (3e-7, {"beta": 2.0, "gamma_beta_ratio": 0.8}),
    ("mistral_base", "focalpo"): (5e-7, {"beta": 0.01, "gamma": 0.05, "detach_factor": False}),
    ("llama3_instruct", "dpo"): (3e-7, {"beta": 0.01}),
    ("llama3_instruct", "simpo"): (1e-6, {"beta": 10.0, "gamma_beta_ratio": 0.3}),
    ("llama3_instruct", "focalpo"): (3e-7, {"beta": 0.01, "gamma": 0.05, "detach_factor": False}),
}
# Search ranges (remembered) of the methods without a published best value
RANGES = {
    "rrhf": {"sft_weight": (0.1, 0.5, 1, 10)},
    "slic": {"sft_weight": (0.1, 0.5, 1, 10), "delta": (0.1, 0.5, 1, 2)},
    "ipo": {"tau": (0.01, 0.1, 0.5, 1)},
    "cpo": {"sft_weight": (1,), "beta": (0.01, 0.05, 0.1)},
    "kto": {"chosen_weight": (1,), "rejected_weight": (1,), "beta": (0.01, 0.05, 0.1)},
    "orpo": {"odds_weight": (0.1, 0.5, 1, 2)},
    "rdpo": {"alpha": (0.05, 0.1, 0.5, 1), "beta": (0.01, 0.05, 0.1)},
}


@pytest.mark.parametrize(("setting", "row"), GOLD, ids="/".join)
def test_rows_with_published_best_values_use_them(setting, row):
    config = paper(setting, row)
    rate, options = GOLD[setting, row]
    assert config.train.learning_rate == rate
    assert config.objective.name == row
    assert {name: getattr(config.objective, name) for name in options} == options


@pytest.mark.parametrize("setting", PAPER_SETTINGS)
@pytest.mark.parametrize("row", RANGES)
def test_rows_without_published_values_stay_inside_the_search_range(setting, row):
    config = paper(setting, row)
    assert config.train.learning_rate in (3e-7, 5e-7, 6e-7, 1e-6)
    assert config.objective.name == row
    for option, values in RANGES[row].items():
        assert getattr(config.objective, option) in values, option


@pytest.mark.parametrize("setting", PAPER_SETTINGS)
def test_all_rows_of_a_setting_share_the_recipe(setting):
    lengths = {"mistral_base": (1024, 512), "llama3_instruct": (2048, 1800)}[setting]
    for config in (paper(setting, row) for row in PAPER_ROWS):
        train, data = config.train, config.data
        assert (train.global_batch, train.epochs, train.max_steps, train.warmup_ratio) == (128, 1, None, 0.1)
        assert (train.dtype, train.zero_stage, train.activation_checkpointing) == ("bfloat16", 3, True)
        assert (config.reference.dtype, config.reference.micro_batch_tokens) == (train.dtype, train.micro_batch_tokens)
        assert (data.max_length, data.max_prompt_length) == lengths
        assert train.micro_batch_tokens >= 2 * data.max_length  # any pair fits
        assert (config.launch.gpus, config.launch.ranks, config.launch.workers) == (8, 8, 1)


def test_every_paper_row_uses_seed_42():
    assert {(setting, row): paper(setting, row).seed for setting in PAPER_SETTINGS for row in PAPER_ROWS} == {
        (setting, row): 42 for setting in PAPER_SETTINGS for row in PAPER_ROWS
    }


def test_models_data_and_decoding_of_the_paper_rows():
    base, instruct = (paper(setting, "focalpo") for setting in PAPER_SETTINGS)
    assert base.model.path == "HuggingFaceH4/mistral-7b-sft-beta"
    assert instruct.model.path == "meta-llama/Meta-Llama-3-8B-Instruct"
    assert base.model.stop_tokens == ["</s>"]
    assert set(instruct.model.stop_tokens) == {"<|eot_id|>", "<|end_of_text|>"}
    assert base.data.path == "trl-lib/ultrafeedback_binarized"
    assert instruct.data.path == "princeton-nlp/llama3-ultrafeedback-armorm"
    decoding = {
        (config.model.name, name): (each.temperature, each.top_p, each.max_new_tokens)
        for config in (base, instruct)
        for name, each in config.generate.sets.items()
    }
    for model in ("mistral_7b_sft_beta", "llama3_8b_instruct"):
        assert decoding.pop((model, "ifeval")) == (0.0, 1.0, 1280), "lm-eval's own, greedy"
    assert decoding == {
        ("mistral_7b_sft_beta", "alpaca_eval"): (0.7, 1.0, 2048),
        ("mistral_7b_sft_beta", "arena_hard"): (0.0, 1.0, 4096),
        ("llama3_8b_instruct", "alpaca_eval"): (0.9, 1.0, 4096),
        ("llama3_8b_instruct", "arena_hard"): (0.0, 1.0, 4096),
    }
    assert {(config.generate.backend, config.generate.dtype) for config in (base, instruct)} == {("vllm", "bfloat16")}


def test_every_hub_dataset_and_model_is_pinned_except_the_documented_ones():
    unpinned = []
    for path in [*(CONF / "data").glob("*.yaml"), *(CONF / "model").glob("*.yaml")]:
        values = yaml.safe_load(path.read_text())
        if "revision" in values and values["path"]:
            if values["revision"] is None:
                unpinned.append(path.stem)
            else:
                assert re.fullmatch("[0-9a-f]{40}", values["revision"]), path
    assert unpinned == ["llama3_ultrafeedback", "mistral_7b_sft_beta"]
    for file in ("data/llama3_ultrafeedback.yaml", "model/mistral_7b_sft_beta.yaml"):
        assert "not established: pin before a run" in (CONF / file).read_text()
    assert "mistral_7b_sft_beta.yaml" in compose_table("paper").needs["revision"]


def test_the_rows_of_a_setting_share_pairs_reference_and_benchmarks():
    table = compose_table("paper")
    columns = zip(table.settings, PAPER_SETTINGS, strict=True)
    configs = {(name, row): paper(setting, row) for name, setting in columns for row in PAPER_ROWS}
    rows = table_rows(table, configs)
    stages = in_order([stage for row in rows.values() for stage in row.scored()])
    count = {kind: sum(stage.kind == kind for stage in stages) for kind in {stage.kind for stage in stages}}
    # reference: (chosen, rejected) and KTO's mismatched answers, for each setting; no model is trained from scratch
    made = {"benchmark": 3, "pairs": 2, "reference": 4, "train": 20, "anchors": 2}
    assert count == made | dict.fromkeys(("generate", "judge", "check"), 22)


@pytest.mark.parametrize("path", [*PAPER_FILES, *PAPER_PARTS], ids=lambda path: str(path.relative_to(CONF)))
def test_every_number_has_a_source(path):
    value = re.compile(r"\s*[\w-]+:\s*(-?\d[\d.e+-]*|true|false)\s*(#.*)?$")
    mark = re.compile(r"# \((read|remembered|derived|chosen here(, not swept|, range remembered[ .\de-]+)?)\)")
    for line in path.read_text().splitlines():
        if found := value.match(line):
            assert found[2] and mark.match(found[2]), line


@pytest.mark.parametrize("path", PAPER_FILES, ids=lambda path: "/".join(path.parts[-2:]))
def test_every_paper_row_starts_with_command_hardware_hours_and_expected_numbers(path):
    comments = [line for line in path.read_text().splitlines() if line.startswith("# ")][1:]
    row, setting = path.stem, path.parent.name
    command = f"experiment={setting}/{row}" if row != "sft" else "table=paper rows=sft"
    assert comments[0].startswith("# python -m recipes.") and comments[0].endswith(command)
    assert "8x80 GB GPUs" in comments[1] and "(estimate, not measured)" in comments[1]
    published = yaml.safe_load((EVAL / "paper_table1.yaml").read_text())["numbers"]
    cells = published["base" if setting == "mistral_base" else "instruct"][row]
    shown = " / ".join(str(cells[column] or "not published") for column in ("ae2_lc", "ae2_wr", "arena_hard"))
    assert any(line.startswith(f"# Expected LC / WR / Arena-Hard: {shown} (read: ") for line in comments)


# LC, WR, Arena-Hard in tenths of a percent, copied by hand from reference/paper.md sections 3 and 5 (README tables)
PUBLISHED = {
    "base": "84 62 13, 116 102 69, 109 89 73, 151 125 104, 118 94 75, 98 89 69, 131 91 56, 147 122 70, 174 128 99, "
    "214 208 166, 239 - 171",
    "instruct": "260 253 223, 379 316 288, 339 325 293, 482 475 352, 468 424 366, 341 364 309, 341 321 273, "
    "381 338 282, 480 458 351, 537 475 365, 547 - 346",
}


@pytest.mark.parametrize("setting", PUBLISHED)
def test_published_numbers_match_the_two_readmes(setting):
    numbers = yaml.safe_load((EVAL / "paper_table1.yaml").read_text())["numbers"][setting]
    assert tuple(numbers) == PAPER_ROWS
    for (row, cells), copied in zip(numbers.items(), PUBLISHED[setting].split(", "), strict=True):
        expected = [None if digits == "-" else int(digits) / 10 for digits in copied.split()]
        assert [cells[column] for column in ("ae2_lc", "ae2_wr", "arena_hard")] == expected, row
        assert cells["source"] == ("focalpo" if row == "focalpo" else "simpo")


INST = "{% for m in messages %}{{ '[INST] ' + m.content + ' [/INST]' }}{% endfor %}"


@pytest.fixture
def zephyr(tmp_path, monkeypatch) -> tuple[PreTrainedTokenizerFast, list[int]]:
    """The base setting's template on a byte tokenizer in a folder mistral-7b-instruct with its own [INST] template."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: place for place, token in enumerate(["<unk>", "<s>", "</s>", *alphabet])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>", chat_template=INST
    )
    folder = tmp_path / "mistral-7b-instruct"
    tokenizer.save_pretrained(folder)
    monkeypatch.chdir(ROOT)  # the template's path is relative to the root of the repository
    model = paper("mistral_base", "dpo").model
    template = (CONF.parent / model.chat_template).read_text()
    source = ModelSource(str(folder), None, template, tuple(model.stop_tokens))
    assert load_tokenizer(ModelSource(str(folder))).chat_template == INST
    loaded = load_tokenizer(source)
    return loaded, stop_ids(source, loaded)


def test_the_zephyr_template_is_selected_by_the_config_not_by_the_path(zephyr):
    tokenizer, _ = zephyr
    (ids,) = prompt_ids(tokenizer, [[{"role": "user", "content": "Name a bird."}]])
    text = tokenizer.decode(ids)
    assert text == "<s><|system|>\n</s>\n<|user|>\nName a bird.</s>\n<|assistant|>\n"
    assert "[INST]" not in text


def test_a_system_turn_of_the_data_replaces_the_empty_one(zephyr):
    tokenizer, _ = zephyr
    turns = [("system", "Be brief."), ("user", "Hello"), ("assistant", "Hi."), ("user", "Bye")]
    (ids,) = prompt_ids(tokenizer, [[{"role": role, "content": content} for role, content in turns]])
    assert tokenizer.decode(ids) == (
        "<s><|system|>\nBe brief.</s>\n<|user|>\nHello</s>\n<|assistant|>\nHi.</s>\n<|user|>\nBye</s>\n<|assistant|>\n"
    )


def test_zephyr_pairs_satisfy_the_tokens_contract(zephyr):
    tokenizer, stops = zephyr
    pair = Pair("p", [{"role": "user", "content": "Name a bird."}], "A wren.", "\n Nothing\n")
    found = pair_trees(tokenizer, [pair], Limits(200, 300, "simpo"), stops)
    trees, problems = found.trees, found.problems
    assert problems == {}
    assert trees[0].prompt.tolist() == prompt_ids(tokenizer, [pair.prompt])[0]
    assert trees[0].prompt.tolist().count(tokenizer.bos_token_id) == 1
    answers = {branch: tokenizer.decode(ids) for branch, ids in trees[0].branches.items()}
    assert answers == {"chosen": "A wren.</s>", "rejected": "\n Nothing\n</s>"}


def test_the_zephyr_template_rejects_an_unknown_role(zephyr):
    tokenizer, _ = zephyr
    with pytest.raises(Exception, match="roles system, user and assistant"):
        prompt_ids(tokenizer, [[{"role": "tool", "content": "42"}]])
