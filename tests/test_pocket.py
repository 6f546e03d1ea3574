"""The pocket world: prompts that parse exactly, rewards by hand, reproducible seeds, pairs with adjustable noise."""

import hashlib
import json
import os
import random
import statistics
import subprocess
import sys
from collections import Counter
from dataclasses import astuple, replace
from pathlib import Path

import pytest

from focalpo.pocket import datasets, world
from focalpo.pocket.benchmarks import benchmark_prompts
from focalpo.pocket.world import CONTENT, KINDS, OPENERS, RAMBLES, draw_tasks, gold_reward, is_correct, parse
from focalpo.pocket.writers import WRITERS, write
from focalpo.stages.records import Completion

ROOT = Path(__file__).parent.parent


def naive_answer(kind: str, prompt: str) -> list[str]:
    """The true answer from the prompt's last words, computed without the templates."""
    tokens = prompt.split()
    content = [token for token in tokens if token in CONTENT]
    after_colon = tokens[tokens.index(":") + 1 :] if ":" in tokens else []
    if kind == "remove":
        gone, *rest = content
        return [word for word in rest if word != gone]
    if kind == "add":
        return [str(sum(map(int, content)))]
    if kind == "max":
        return [str(sorted(map(int, after_colon))[-1])]
    if kind in ("spell", "spellback", "letters"):
        (word,) = content
        letters = list(word)
        return {"spell": letters, "spellback": list(reversed(letters)), "letters": [str(len(letters))]}[kind]
    if kind == "longest":
        return [sorted(after_colon, key=len)[-1]]
    return {
        "sort": sorted(after_colon),
        "reverse": list(reversed(after_colon)),
        "copy": after_colon,
        "initials": [word[0] for word in after_colon],
        "first": after_colon[:1],
        "last": after_colon[-1:],
        "count": [str(len(after_colon))],
    }[kind]


def test_every_drawn_task_is_recovered_from_its_text_with_the_true_answer():
    tasks = draw_tasks(6000, 0)
    assert {task.kind for task in tasks} == set(KINDS) and len(KINDS) == 14
    for task in tasks:
        assert parse(task.prompt) == task
        assert list(task.core) == naive_answer(task.kind, task.prompt)


def test_a_text_that_is_not_a_prompt_is_rejected():
    with pytest.raises(ValueError, match="not a prompt of the pocket world: 'please sort ant bird'"):
        parse("please sort ant bird")


def test_the_longest_word_is_never_a_tie():
    for task in draw_tasks(500, 1, weights={"longest": 1}):
        lengths = sorted(len(token) for token in task.prompt.split(" : ")[1].split())
        assert lengths[-1] > lengths[-2]


def test_kinds_come_in_proportion_to_their_weights():
    counts = Counter(task.kind for task in draw_tasks(20000, 2))
    for kind in KINDS:
        share = (0.1, 0.05)[kind not in ("sort", "reverse", "copy", "initials", "remove", "longest")]
        assert abs(counts[kind] / 20000 - share) < 4 * (share * (1 - share) / 20000) ** 0.5


def test_the_lexicon_has_179_tokens_and_no_wording_holds_a_content_token():
    words = world.vocabulary()
    assert len(words) == len(set(words)) == 179
    assert len(world.WORDS) == 26 and [word[0] for word in world.WORDS] == list(world.LETTERS)
    templates = [template for kind in KINDS.values() for template in kind.templates]
    assert len(set(templates)) == 28
    for text in [*templates, *OPENERS, *RAMBLES, *world.ENDINGS]:
        assert not CONTENT.intersection(text.split())


def test_prompts_repeat_only_where_a_kind_runs_out_and_never_an_excluded_one():
    tasks = draw_tasks(3000, 3)
    repeated = {task.kind for task, times in Counter(tasks).items() if times > 1}
    assert repeated == {"spell", "spellback", "letters"}
    exclude = frozenset(task.prompt for task in tasks)
    fewer = {kind: weight for kind, weight in world.WEIGHTS.items() if kind not in repeated}
    assert not exclude.intersection(task.prompt for task in draw_tasks(3000, 3, exclude, fewer))


def test_excluding_a_whole_kind_is_an_error():
    every_spelling = frozenset(
        template.replace("*", word) for template in KINDS["spell"].templates for word in world.WORDS
    )
    with pytest.raises(ValueError, match="leave no 'spell' task"):
        draw_tasks(1, 0, every_spelling, {"spell": 1})


@pytest.mark.parametrize(
    ("prompt", "answer", "finished", "gold"),
    [
        ("copy these words : ant bird", "ant bird", True, 2.0),
        ("copy these words : ant bird", "ant bird .", True, 2.15),
        ("copy these words : ant bird", "sure : ant bird !", True, 2.4),
        ("copy these words : ant bird", "sure : ant bird !", False, 1.9),
        ("copy these words : ant bird", "sure : ant bird . sure", True, 2.25),  # the mark is not final, 4 filler tokens
        ("copy these words : ant bird", "of course : ant bird , hope this helps .", True, 2.4 - 0.05 * 3),  # 8 fillers
        ("copy these words : ant bird", "bird ant", True, 0.0),  # two replacements out of two
        ("copy these words : ant bird", "ant", True, 0.5),
        ("copy these words : ant bird", "ant bird cat dog", True, 0.5),  # two of four surplus
        ("copy these words : ant bird", "", True, 0.0),
        ("copy these words : ant bird", "", False, -0.5),
        ("copy these words : ant bird", "pleasure " * 40, False, -0.5 - 0.05 * 35),
        ("sort these words : dog cat bird ant", "ant bird dog cat .", True, 0.5 + 0.15),
        ("spell sun", "happy to help : s u m !", True, 2 / 3 + 0.4),
        ("add 12 and 13", "the answer is : 25", True, 2.25),
        ("add 12 and 13", "2 5", True, 0.0),
    ],
)
def test_gold_reward_by_hand(prompt, answer, finished, gold):
    assert gold_reward(prompt, answer, finished) == pytest.approx(gold, abs=1e-12)


def test_an_answer_is_correct_if_its_content_is_right_and_it_is_finished():
    assert is_correct("add 2 and 3", "sure : 5 , hope this helps", True)
    assert not is_correct("add 2 and 3", "sure : 5 , hope this helps", False)
    assert not is_correct("add 2 and 3", "5 5", True)


def test_edit_distance_agrees_with_the_recursive_definition():
    def naive(a, b):
        if not a or not b:
            return len(a) + len(b)
        return min(naive(a[1:], b) + 1, naive(a, b[1:]) + 1, naive(a[1:], b[1:]) + (a[0] != b[0]))

    rng = random.Random(0)
    for _ in range(200):
        a, b = (tuple(rng.choices("abc", k=rng.randint(0, 5))) for _ in range(2))
        assert world._edit_distance(a, b) == naive(a, b)


@pytest.mark.parametrize(
    ("name", "wrong", "opener", "ending", "rambles"),
    [
        ("weak", 0.75, 0.25, 0.40, 0.3 + 2 * 0.25 + 3 * 0.15),
        ("mid", 0.45, 0.40, 0.60, 0.3 + 2 * 0.15 + 3 * 0.10),
        ("good", 0.20, 0.55, 0.80, 0.3 + 2 * 0.10),
        ("expert", 0.05, 0.75, 0.95, 0.15),
    ],
)
def test_writers_err_and_ramble_as_often_as_they_should(name, wrong, opener, ending, rambles):
    tasks = draw_tasks(4000, name)
    rng = random.Random(name)
    answers = [write(task, WRITERS[name], rng) for task in tasks]
    shares = {
        wrong: sum(not is_correct(task.prompt, answer, True) for task, answer in zip(tasks, answers, strict=True)),
        opener: sum(answer.startswith(OPENERS) for answer in answers),
        ending: sum(answer.endswith(world.ENDINGS) for answer in answers),
    }
    for share, count in shares.items():
        assert abs(count / 4000 - share) < 4 * (share * (1 - share) / 4000) ** 0.5
    assert statistics.fmean(answer.count(",") for answer in answers) == pytest.approx(rambles, abs=0.07)


def test_a_corrupted_answer_is_never_right_and_never_empty():
    rng = random.Random(0)
    clumsy = replace(WRITERS["weak"], corrupt=1.0)
    for task in draw_tasks(3000, 4):
        answer = write(task, clumsy, rng)
        core = [token for token in answer.split() if token in CONTENT]
        assert core and tuple(core) != task.core


def test_every_text_is_made_of_known_tokens():
    words = set(world.vocabulary())
    pairs = datasets.base_pairs(800, 0, 0.1)
    for text in [text for pair in pairs for text in (pair.prompt[0]["content"], pair.chosen, pair.rejected)]:
        assert words.issuperset(text.split(" "))


def fingerprint() -> str:
    """A digest of everything that is drawn, for comparison between processes."""
    samples = [
        [Completion(str(n), [{"role": "user", "content": "spell sun"}], "s u n" + " ." * n, 3, True)] * 3
        for n in range(5)
    ]
    drawn = [
        *datasets.pretraining_demonstrations(50, 1),
        *datasets.sft_demonstrations(50, 1),
        *datasets.base_pairs(50, 1, 0.2),
        *datasets.rate_samples(samples, 1, 0.2),
    ]
    content = [astuple(record) for record in drawn] + sorted(benchmark_prompts()) + world.vocabulary()
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def test_the_same_seed_draws_the_same_data_under_other_hash_seeds():
    command = [sys.executable, "-c", "from tests.test_pocket import fingerprint; print(fingerprint())"]
    found = {
        subprocess.run(
            command, cwd=ROOT, env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert found == {fingerprint()}


def test_another_seed_and_another_stage_draw_other_prompts():
    def prompts(examples):
        return [example.prompt[0]["content"] for example in examples]

    first = prompts(datasets.sft_demonstrations(300, 1))
    for other in (datasets.sft_demonstrations(300, 2), datasets.pretraining_demonstrations(300, 1)):
        same = sum(a == b for a, b in zip(first, prompts(other), strict=True))
        assert same < 15


def test_no_training_set_holds_a_benchmark_prompt():
    held_out = benchmark_prompts()
    assert len(held_out) == 600
    for examples in (
        datasets.pretraining_demonstrations(4000, 0, held_out),
        datasets.sft_demonstrations(4000, 0, held_out),
        datasets.base_pairs(2000, 0, 0.1, held_out),
    ):
        assert held_out.isdisjoint(example.prompt[0]["content"] for example in examples)
    assert held_out.isdisjoint(task.prompt for task in datasets.preference_tasks(2000, 0, held_out))
    unguarded = {example.prompt[0]["content"] for example in datasets.pretraining_demonstrations(4000, 0)}
    assert held_out & unguarded


def test_pretraining_answers_are_bare_and_right():
    for example in datasets.pretraining_demonstrations(500, 0):
        assert example.answer.split() == list(parse(example.prompt[0]["content"]).core)


def test_demonstrations_mix_the_writers_seven_to_nine_to_four():
    demonstrations = [example for seed in range(4) for example in datasets.sft_demonstrations(6000, seed)]
    right = statistics.fmean(is_correct(d.prompt[0]["content"], d.answer, True) for d in demonstrations)
    opened = statistics.fmean(d.answer.startswith(OPENERS) for d in demonstrations)
    assert right == pytest.approx((7 * 0.25 + 9 * 0.55 + 4 * 0.80) / 20, abs=0.011)  # 0.495
    assert opened == pytest.approx((7 * 0.25 + 9 * 0.40 + 4 * 0.55) / 20, abs=0.011)  # 0.3775


def test_label_noise_flips_more_of_the_same_pairs_and_changes_nothing_else():
    clean = datasets.base_pairs(3000, 5, 0.0)
    flipped = {0.0: set()}
    for noise in (0.1, 0.2, 0.4, 1.0):
        noisy = datasets.base_pairs(3000, 5, noise)
        assert [pair.id for pair in noisy] == [pair.id for pair in clean]
        for before, after in zip(clean, noisy, strict=True):
            assert {before.chosen, before.rejected} == {after.chosen, after.rejected}
        flipped[noise] = {a.id for a, b in zip(noisy, clean, strict=True) if a.chosen != b.chosen}
        assert len(flipped[noise]) / len(clean) == pytest.approx(noise, abs=4 * (noise * (1 - noise) / 3000) ** 0.5)
    assert flipped[0.1] < flipped[0.2] < flipped[0.4] < flipped[1.0]


def test_mislabelled_marks_labels_that_contradict_the_gold_reward():
    for pair in datasets.base_pairs(1000, 6, 0.3):
        prompt = pair.prompt[0]["content"]
        assert pair.chosen != pair.rejected
        assert pair.mislabelled == (gold_reward(prompt, pair.chosen, True) < gold_reward(prompt, pair.rejected, True))


def test_the_rating_noise_alone_mislabels_a_tenth_of_the_base_pairs():
    pairs = [pair for seed in range(3) for pair in datasets.base_pairs(2000, seed, 0.0)]
    assert len(pairs) / 6000 == pytest.approx(0.986, abs=0.008)
    assert statistics.fmean(pair.mislabelled for pair in pairs) == pytest.approx(0.104, abs=0.015)


def test_a_label_noise_that_is_not_a_probability_is_rejected():
    with pytest.raises(ValueError, match="label_noise must be in"):
        datasets.base_pairs(1, 0, 1.5)


def test_world_writers_data_sets_and_judge_import_no_torch():
    names = ", ".join(f"focalpo.pocket.{name}" for name in ("world", "writers", "datasets", "benchmarks", "judge"))
    code = f"import sys, {names}; print(sorted({{'torch', 'transformers'}} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
