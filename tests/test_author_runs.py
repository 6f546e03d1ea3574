"""The author's published evaluations: what follows from them about beta, gamma and the rows that they are of."""

import math

import pytest

from focalpo.config.compose import plain
from focalpo.planning.slices import split_train
from focalpo.stages.author_runs import END, author_runs
from tests.test_conf import composed

FOUND = author_runs()
LINES = [(name, each) for name, run in FOUND.runs.items() for each in run.evaluations]


def test_there_are_31_whole_evaluations_of_11_runs_and_a_part_of_one_more() -> None:
    whole = [name for name, each in LINES if each.logps_chosen is not None]
    assert (len(whole), len(set(whole))) == (31, 11)
    assert (len(LINES), len(FOUND.runs)) == (32, 12)


def references(beta: float) -> dict[str, list[tuple[float, float]]]:
    """What each evaluation says the reference's log-probs are, chosen and rejected, by anchor."""
    found: dict[str, list[tuple[float, float]]] = {}
    for name, each in LINES:
        if each.logps_chosen is not None:
            pair = each.logps_chosen - each.reward_chosen / beta, each.logps_rejected - each.reward_rejected / beta
            found.setdefault(FOUND.runs[name].anchor, []).append(pair)
    return found


def test_beta_is_a_hundredth_in_every_evaluation() -> None:
    """reward = beta (logps - reference), so with the right beta every evaluation gives the same reference.

    The card without log-probs has only a margin, which cannot contradict.
    """
    given = references(FOUND.beta)
    assert sum(map(len, given.values())) == 31
    for name, pairs in given.items():
        anchor = FOUND.anchors[name]
        for chosen, rejected in pairs:
            assert chosen == pytest.approx(anchor.chosen, abs=0.1)
            assert rejected == pytest.approx(anchor.rejected, abs=0.1)


@pytest.mark.parametrize("beta", [0.0099, 0.0101, 0.05, 0.1])
def test_another_beta_contradicts_itself(beta: float) -> None:
    spread = [max(c for c, _ in pairs) - min(c for c, _ in pairs) for pairs in references(beta).values()]
    assert max(spread) > 1


@pytest.mark.parametrize(
    ("name", "dpo"),
    [
        ("Llama0-3-8b-v0.1-p-0.025-lr5e-7-e1", "Llama0-3-8b-v0.1-dpo-lr5e-7-e1"),
        ("Llama0-3-8b-v0.1-dpo-lr1e-6-e1-first", "Llama0-3-8b-v0.1-dpo-lr1e-6-e1"),
    ],
)
def test_gamma_follows_from_the_ratio_of_the_losses(name: str, dpo: str) -> None:
    """Near p = 1/2 the loss is DPO's times 2^-gamma; a run at the same learning rate shows it.

    -0.05 is seen best at step 100, before the runs part; 0.025 is known at the end only.
    """
    run, other = FOUND.runs[name], FOUND.runs[dpo]
    assert run.learning_rate == other.learning_rate
    ours = {each.step: each.loss for each in run.evaluations}
    theirs = {each.step: each.loss for each in other.evaluations}
    step = 100 if 100 in ours else END
    assert -math.log2(ours[step] / theirs[step]) == pytest.approx(run.gamma, abs=0.001)


def test_accuracies_are_whole_numbers_of_the_rows_of_the_first_process() -> None:
    for name, each in LINES:
        rows = FOUND.anchors[FOUND.runs[name].anchor].rows
        part = sum(FOUND.in_subset(row) for row in range(rows))
        assert part == {1000: 128, 1961: 248}[rows]
        right, digits = each.reward_accuracy * part, 4 if each.logps_chosen is not None else 3
        assert right == pytest.approx(round(right), abs=part * 0.51 * 10**-digits), (name, each)


def test_margins_are_the_difference_of_the_rewards() -> None:
    for name, each in LINES:
        if each.reward_chosen is not None:
            assert each.reward_chosen - each.reward_rejected == pytest.approx(each.reward_margin, abs=2e-4), name


PRESETS = {
    ("author_mistral", "focalpo"): "zephyr0-7b-ultra-p-0.07",
    ("author_llama_uf", "dpo"): "Llama-3-8b-ultra-dpo-e3",
    ("author_llama_uf", "focalpo"): "Llama-3-8b-ultra-p-0.05-e3",
    ("author_llama_on_policy", "dpo"): "Llama0-3-8b-v0.1-dpo-lr5e-7-e1",
    ("author_llama_on_policy", "focalpo"): "Llama0-3-8b-v0.1-p-0.05-lr6e-7-e1",
}


@pytest.mark.parametrize("variant", ["", "_512"])
@pytest.mark.parametrize("setting, row", PRESETS, ids="/".join)
def test_a_preset_repeats_the_run_of_its_card(setting: str, row: str, variant: str) -> None:
    config = composed(f"experiment={setting}/{row}", f"setting={setting}{variant}")
    anchor = FOUND.anchor_of(config.model.path, config.data.path)
    settings, _ = split_train(plain(config.train))
    assert FOUND.run_of(anchor, plain(config.objective), settings) == PRESETS[setting, row]
    assert (settings["schedule"], settings["warmup_ratio"], settings["global_batch"]) == ("linear", 0.0, 128)
    assert (config.seed, config.dynamics.every) == (42, 100)
    lengths = [config.data.max_prompt_length, config.data.max_length]
    assert lengths == FOUND.anchors[anchor].lengths["trl" if variant else "simpo"]


def test_other_settings_repeat_no_run() -> None:
    settings, _ = split_train(plain(composed("experiment=author_llama_uf/focalpo").train))
    gamma = {"name": "focalpo", "beta": 0.01, "gamma": 0.05, "detach_factor": False}
    assert FOUND.run_of("llama_uf", gamma, settings)
    for other in ({"beta": 0.1}, {"gamma": 0.1}, {"detach_factor": True}, {"name": "ipo"}):
        assert FOUND.run_of("llama_uf", gamma | other, settings) is None
    others = {"epochs": 1, "schedule": "cosine", "warmup_ratio": 0.1, "global_batch": 64, "max_steps": 9}
    for name, value in others.items():
        assert FOUND.run_of("llama_uf", gamma, settings | {name: value}) is None
    unnamed = {name: value for name, value in settings.items() if name != "schedule"}
    assert FOUND.run_of("llama_uf", gamma, unnamed) is None, "a stage that names no schedule had the cosine"
    assert FOUND.anchor_of("Qwen/Qwen2.5-0.5B-Instruct", "trl-lib/ultrafeedback_binarized") is None
