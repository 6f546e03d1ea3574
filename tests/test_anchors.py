"""The author's own runs beside ours: the log-probs of a start model and the evaluations of a training, by hand."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import recipes.anchors as recipe
from focalpo.config.compose import plain
from focalpo.judging.protocol import EVAL
from focalpo.planning.anchors import anchors_stage
from focalpo.planning.needs import Estimate
from focalpo.planning.stages import in_order
from focalpo.planning.table import Planned, planned
from focalpo.reporting.anchors import author_block, author_curves, fitting, run_lines
from focalpo.reporting.anchors_figure import anchors_figure
from focalpo.reporting.page import _anchors
from focalpo.reporting.table_run import TableRun
from focalpo.reporting.verdicts import read_rule
from focalpo.running.partial import complete
from focalpo.stages.author_runs import author_runs, must_fit
from focalpo.stages.folder import Folder, Job, read_manifest, write_json
from focalpo.stages.reading import read_json
from focalpo.stages.records import PairState, append_json, write_records
from focalpo.training.cost import Batch, forward_operations
from recipes.train import make as train
from recipes.why import _beside_author
from tests.test_conf import composed
from tests.tiny import chatml_tokenizer, tiny_model

RULE = read_rule(EVAL / "verdicts.yaml")
ROWS = 140  # the first process has rows 0 to 7, 64 to 71 and 128 to 135
PART = [*range(8), *range(64, 72), *range(128, 136)]


def row(number: int) -> dict:
    """Answers of different lengths; those of row 70 are the same."""
    question = {"role": "user", "content": f"q{number}"}
    answers = ["a" * (number % 7 + 1), "b" * (number % 5 + 2)] if number != 70 else ["c", "c"]
    chosen, rejected = ([question, {"role": "assistant", "content": text}] for text in answers)
    return {"chosen": chosen, "rejected": rejected}


def naive(model, tokenizer, dialogue: list[dict]) -> float:
    """The log-prob of the last turn up to its end of turn, token by token."""
    prompt = tokenizer.apply_chat_template(dialogue[:-1], add_generation_prompt=True, return_dict=False)
    whole = tokenizer.apply_chat_template(dialogue, return_dict=False)
    end = len(prompt) + whole[len(prompt) :].index(tokenizer.eos_token_id) + 1
    logps = model(torch.tensor([whole[:end]])).logits[0].log_softmax(-1)
    return float(sum(logps[place - 1, whole[place]] for place in range(len(prompt), end)))


@torch.no_grad()
def test_the_anchor_is_the_mean_log_prob_of_the_first_process_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = chatml_tokenizer()
    model = tiny_model(vocab_size=len(tokenizer), max_position_embeddings=512).eval()
    for each in (model, tokenizer):
        each.save_pretrained(tmp_path / "model")
    monkeypatch.setattr(recipe, "hub_rows", lambda *_: [row(number) for number in range(ROWS)])
    anchor = {
        "name": "tiny",
        "rows": 200,
        "chosen": 0.0,
        "rejected": 0.0,
        "lengths": {"all": [256, 512], "few": [8, 12]},
    }
    named = {"path": str(tmp_path / "model"), "revision": None, "chat_template": None, "stop_tokens": ["<|im_end|>"]}
    data = {"path": "x", "revision": "r", "test_split": "test", "ignore_columns": [], "truncation": "simpo"}
    settings = {"model": named, "data": data, "dtype": "float32", "anchor": anchor}
    job = Job("anchors", "tiny", "0" * 12, settings, {"micro_batch_tokens": 4096}, inputs={}, path=tmp_path)
    facts = recipe.make(job)
    used = [row(number) for number in PART if number != 70]
    for branch in ("chosen", "rejected"):
        expected = sum(naive(model, tokenizer, each[branch]) for each in used) / len(used)
        assert facts["measured"]["all"][branch] == pytest.approx(expected, rel=1e-5)
        assert facts["measured"]["few"][branch] > expected, "cut answers have fewer tokens"
    assert facts["rows"] == 24 and facts["measured"]["all"]["rows"] == 23
    assert read_json(tmp_path / "rows.json", "-")["ids"] == [f"test-{number + 1:06d}" for number in PART]
    told = "\n".join(facts["warnings"])
    assert "140 test rows, the author had 200" in told and "all: 1 of 24 rows cannot be used" in told
    assert "check model, template and data before training" in told


def test_nothing_is_trained_from_a_start_model_that_is_not_the_authors(tmp_path: Path) -> None:
    plan = planned(["table=author", "settings=mistral", "rows=focalpo", f"runs={tmp_path}"])
    (row,) = plan.rows.values()
    assert row.train is not None and row.train.before == (row.anchors,) and row.train.key not in row.train.inputs
    free = planned(["table=author", "settings=mistral", "rows=focalpo", "reference.must_fit=false"])
    (other,) = free.rows.values()
    assert other.train is not None and other.train.key == row.train.key and other.train.before == ()
    assert row.anchors is not None
    anchors, job = Folder(tmp_path, row.anchors), Folder(tmp_path, row.train).job
    with anchors.being_made():
        anchors.seal(1.0, {"misfit": "mistral_uf: the start model gives other log-probs"})
    with pytest.raises(ValueError, match="gives other log-probs; to train from it all the same: reference.must_fit"):
        train(job)
    anchors.break_seal()
    with anchors.being_made():
        anchors.seal(1.0, {"misfit": None})
    must_fit(anchors.path)


def test_the_lengths_that_fit_are_named_and_none_where_none_does() -> None:
    anchor = plain(author_runs().anchors["mistral_uf"])
    near = {"chosen": anchor["chosen"] + 0.4, "rejected": anchor["rejected"] - 0.9}
    far = {"chosen": anchor["chosen"] + 0.1, "rejected": anchor["rejected"] + 9}
    assert fitting({"simpo": far, "trl": near}, anchor, RULE) == "trl"
    assert fitting({"simpo": far}, anchor, RULE) is None


def test_the_command_names_the_lengths_that_fit_and_compares_what_is_sealed(
    run: TableRun, capsys: pytest.CaptureFixture
) -> None:
    plan = planned(["table=author", "settings=mistral", "rows=focalpo", f"runs={run.path}"])
    anchors = {"mistral": plan.rows["mistral", "focalpo", "42"].anchors}
    assert recipe.show(plan, anchors, list(anchors.values()))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 + 15 + 1 and lines[-1] == "mistral_uf: lengths as trl fit"
    assert lines[4].startswith("mistral/focalpo/42: zephyr0-7b-ultra-p-0.07") and lines[4].endswith("not evaluated")


def test_both_lengths_and_every_row_of_a_setting_share_one_anchor() -> None:
    plan = planned(["table=author"])
    stages = {stage.title for stage in in_order([plan.report]) if stage.kind == "anchors"}
    assert {title.rpartition("-")[0] for title in stages} == {
        "anchors/mistral_uf",
        "anchors/llama_uf",
        "anchors/llama_on_policy",
    }
    assert len(stages) == 3
    assert next(iter(plan.report.inputs.values())).kind == "anchors", "what comes first runs first"


def test_the_plan_counts_one_forward_pass_over_an_eighth_of_the_test_pairs_for_each_length() -> None:
    """1,000 test pairs, 2 lengths, 8 processes: 250 pairs of 160 + 2 x 260 tokens, of which 2 x 260 are predicted."""
    config = composed("experiment=author_mistral/dpo")
    estimate = Estimate(config, Path("nowhere"))
    batch = Batch(250 * (160 + 2 * 260), 250 * 2 * 260)
    assert estimate.of(anchors_stage(config)).operations == forward_operations(estimate.shape, batch, 160 + 260 / 2)


def test_the_paper_table_has_the_anchors_of_its_columns_and_other_scales_have_none() -> None:
    def anchored(*overrides: str) -> bool:
        return anchors_stage(composed(*overrides)) is not None

    assert anchored("experiment=mistral_base/dpo") and anchored("experiment=llama3_instruct/dpo")
    assert not anchored("experiment=one_gpu/dpo") and not anchored("experiment=pocket/dpo")
    assert not anchored("experiment=mistral_base/dpo", "data=h4_ultrafeedback_binarized")


# Four pairs of the part and one beside it; three of the four are right, as in the author's .75
IDS = ("a", "b", "c", "d")


def sealed(plan: Planned, runs: Path) -> dict[str, Path]:
    """A training that repeats the author's numbers at step 200, has other margins at the end and lacks step 100."""
    [line] = plan.rows.values()
    name, known = "zephyr0-7b-ultra-p-0.07", author_runs()
    with Folder(runs, line.anchors).being_made() as job:
        write_json(job.path / "rows.json", {"ids": IDS})
        measured = {each: {"chosen": -222.0, "rejected": -227.0 - (each == "trl")} for each in ("simpo", "trl")}
        Folder(runs, line.anchors).seal(1.0, {"measured": measured, "rows": 128, "warnings": []})
    anchor = known.anchors["mistral_uf"]
    points = {each.step: each for each in known.runs[name].evaluations}
    with Folder(runs, line.train).being_made() as job:
        states = [PairState(0, "test", each, anchor.chosen, anchor.rejected, 5, 5) for each in (*IDS, "other")]
        append_json(job.path / "evaluation.jsonl", {"step": 0, "loss": 0.66})
        for step, point, stretched in ((200, points[200], 1.0), (485, points[0], 2.0)):
            append_json(job.path / "evaluation.jsonl", {"step": step, "loss": point.loss + 0.007})
            # The margins of the four are 1, 1, 3 and -1 times their mean: chosen moves by it, rejected by the rest.
            for each, part in zip(IDS, (1, 1, 3, -1), strict=True):
                margin = part * stretched * point.reward_margin / known.beta
                gained = point.logps_chosen - anchor.chosen
                states.append(
                    PairState(step, "test", each, anchor.chosen + gained, anchor.rejected + gained - margin, 5, 5)
                )
            states.append(PairState(step, "test", "other", 0.0, 0.0, 5, 5))
        write_records(job.path / "dynamics.parquet", states)
        Folder(runs, line.train).seal(1.0)
    return {
        "anchors/mistral": Folder(runs, line.anchors).path,
        "mistral/focalpo/42/train": Folder(runs, line.train).path,
    }


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> TableRun:
    runs = tmp_path_factory.mktemp("runs")
    plan = planned(["table=author", "settings=mistral", "rows=focalpo", f"runs={runs}"])
    return TableRun(runs, plain(plan.table), (), sealed(plan, runs))


def test_a_training_is_compared_with_the_run_of_its_card(run: TableRun) -> None:
    [curve] = author_curves(run)
    assert curve.name == "zephyr0-7b-ultra-p-0.07" and list(curve.ours) == [0, 200, 485]
    found = {(line.step, line.quantity): (line.ours, line.author, line.verdict) for line in run_lines(curve, RULE)}
    assert len(found) == 15 and {verdict for (step, _), (*_, verdict) in found.items() if step == "100"} == {
        "not evaluated"
    }
    ours, author, verdict = found["200", "reward margin"]
    assert (ours, author, verdict) == (pytest.approx(0.7140), 0.7140, "reproduced")
    assert found["200", "reward accuracy"] == (0.75, 0.75, "reproduced")
    assert found["200", "evaluation loss"][2] == "reproduced", "within .01"
    assert found["200", "log-prob of chosen"][0] == pytest.approx(-340.2655), "the pair beside the part is not counted"
    ours, author, verdict = found["end (485)", "reward margin"]
    assert (ours, author, verdict) == (pytest.approx(2 * 0.8897), 0.8897, "differs")
    assert found["end (485)", "log-prob of chosen"][2] == "reproduced"


@pytest.mark.parametrize("change", [{"loss": 0.0}, {"accuracy": 0.0}, {"share": 0.0}, {"reference": 0.0}])
def test_each_tolerance_decides_something(run: TableRun, change: dict[str, float]) -> None:
    [curve] = author_curves(run)
    nudged = {step: {name: 1.003 * value for name, value in each.items()} for step, each in curve.ours.items()}
    near = replace(curve, ours={**nudged, 200: {**nudged[200], "reward_margin": 0.714 * 1.2 + 0.005}})
    stricter = replace(RULE, anchors=RULE.anchors | change)
    assert [each.verdict for each in run_lines(near, RULE)] != [each.verdict for each in run_lines(near, stricter)]


def test_the_section_names_the_closest_start_first_and_the_figure_is_drawn(run: TableRun, tmp_path: Path) -> None:
    curves = author_curves(run)
    block = author_block(run, curves, RULE)
    assert block.body[0] == ["mistral_uf, lengths 128/512", "start", "log-prob of chosen", "-222.0000", "-222.3700",
                             "reproduced"]  # fmt: skip
    assert len(block.body) == 4 + 15
    page = _anchors(block)
    assert page.count("<tr>") == 1 + 19 and "zephyr0-7b-ultra-p-0.07" in page
    assert _anchors(replace(block, body=[])) == ""
    anchors_figure(curves, tmp_path / "anchors")
    assert (tmp_path / "anchors.png").stat().st_size > 10_000
    lines = ["what,step,quantity,ours,author,verdict", *(",".join(f'"{text}"' for text in line) for line in block.body)]
    (run.path / "anchors.csv").write_text("\n".join(lines) + "\n")
    told = _beside_author(run, "focalpo", "mistral")
    assert len(told) == 19 and "mistral_uf, lengths 128/512, start" in told[0]


def test_a_report_of_what_succeeded_keeps_the_anchors_of_its_settings() -> None:
    inputs = {"anchors/a": True, "anchors/b": True, "a/dpo/1/train": True, "b/dpo/1/train": False}
    assert complete(inputs) == {"anchors/a", "a/dpo/1/train"}
    assert complete({"anchors/a": True, "a/dpo/1/train": False}) == set()


def test_the_manifest_of_an_anchor_says_what_it_was_compared_with(run: TableRun) -> None:
    settings = read_manifest(run.inputs["anchors/mistral"])["settings"]
    assert settings["anchor"]["chosen"] == -222.37 and settings["anchor"]["lengths"]["trl"] == [128, 512]
