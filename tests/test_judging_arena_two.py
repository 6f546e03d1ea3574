"""Arena-Hard v2: another judge, a baseline and a prompt for each category, the last label, style control."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from focalpo.judging.arena_hard import judge_arena, labels
from focalpo.judging.benchmarks import read_questions
from focalpo.judging.protocol import ArenaTwoProtocol, load_protocol, protocol_hash
from focalpo.judging.upstream import TEMPLATE_NAMES, with_prompt, write_prompt
from focalpo.scoring.stats import arena_score, bootstrap_error, prompt_weights, value
from focalpo.scoring.style_control import Models, NoRatingsError, Played, StyleControlled, style_difference
from focalpo.stages.records import Completion
from tests.judge_stub import completion, judge_stub, opened

EVAL = Path(__file__).parent.parent / "eval"


def protocol(prompts: int = 750) -> ArenaTwoProtocol:
    found = load_protocol(EVAL / "arena_hard_v2_0.yaml")
    assert isinstance(found, ArenaTwoProtocol)
    return replace(found, prompts=prompts)


def write_files(folder: Path, uids: dict[str, str]) -> None:
    """Questions `uid -> category`; each baseline answers with its name, in the layout of 2025."""
    rows = [{"uid": uid, "category": category, "prompt": f"ask {uid}"} for uid, category in uids.items()]
    (folder / "question.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name in ("o3-mini-2025-01-31", "gemini-2.0-flash-001"):
        texts = {uid: f"{name} on {uid}" for uid in uids}
        answers = [{"uid": u, "messages": [{"role": "assistant", "content": {"answer": t}}]} for u, t in texts.items()]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in answers))


def test_each_category_has_its_own_baseline_and_judge_prompt(tmp_path: Path) -> None:
    write_files(tmp_path, {"h": "hard_prompt", "c": "creative_writing"})
    questions = read_questions(protocol(2), tmp_path)
    assert [(q.id, q.reference) for q in questions] == [
        ("hard_prompt/h", "o3-mini-2025-01-31 on h"),
        ("creative_writing/c", "gemini-2.0-flash-001 on c"),
    ]
    answers = [Completion(q.id, q.prompt, "ours", 1, True) for q in questions]
    with judge_stub(lambda body, _: completion("[[A>B]]")) as stub, opened(stub.url, tmp_path) as endpoint:
        games = judge_arena(questions, answers, protocol(2), endpoint)
    assert [(game.id, game.game, game.result) for game in games] == [
        ("hard_prompt/h", 1, 0), ("hard_prompt/h", 2, 1), ("creative_writing/c", 1, 0), ("creative_writing/c", 2, 1),
    ]  # fmt: skip
    prompts = {name: (EVAL / f"arena_hard_{name}prompt.txt").read_text().strip() for name in ("", "creative_")}
    for body in stub.requests:
        creative = "ask c" in body["messages"][1]["content"]
        assert body["messages"][0]["content"] == prompts["creative_" if creative else ""]
        assert (body["model"], body["temperature"], body["max_tokens"]) == ("gpt-4.1", 0, 16000)


def test_an_unknown_category_is_rejected(tmp_path: Path) -> None:
    write_files(tmp_path, {"h": "hard_prompt", "c": "poetry"})
    with pytest.raises(ValueError, match=r"has categories \['hard_prompt', 'poetry'\]"):
        read_questions(protocol(2), tmp_path)


@pytest.mark.parametrize(
    ("reply", "found"),
    [
        ("first [[A>B]], no: [[B>>A]]", {"B>>A"}),
        ("lower case [[a>b]]", {"A>B"}),
        ("one bracket [A=B]", {"A=B"}),
        ("two brackets win: [[A>B]] then [B>A]", {"A>B"}),
        ("[[A==B]]", set()),
        ("none", set()),
    ],
)
def test_the_last_label_counts_in_either_brackets(reply: str, found: set[str]) -> None:
    assert labels(reply, protocol()) == found


def test_the_creative_prompt_is_part_of_the_protocol(tmp_path: Path) -> None:
    (tmp_path / "arena_hard_creative_prompt.txt").write_text("another")
    before = protocol()
    category = replace(before.categories["creative_writing"], prompt_file=tmp_path / "arena_hard_creative_prompt.txt")
    after = replace(before, categories=before.categories | {"creative_writing": category})
    assert protocol_hash(before) != protocol_hash(after)


def test_style_by_hand() -> None:
    """12 against 4 characters; one header, two list items and a bold word, those in code not counted."""
    ours = "# h\n- a\n1. b\n**x** ```\n# no\n```"
    (found,) = style_difference([ours], ["four"])
    n = len(ours)
    density = [1 / (n + 1), 2 / (n + 1), 1 / (n + 1)]
    assert found == pytest.approx([(n - 4) / (n + 4), *(d / (d + 1) for d in density)])
    assert style_difference(["", "same"], ["", "same"]).tolist() == [[0.0] * 4] * 2


def games(seed: int, length_bias: float, skill: float, prompts: int = 400) -> Played:
    draw = np.random.default_rng(seed)
    style = np.column_stack([draw.uniform(0, 0.8, prompts), draw.normal(0, 0.1, (prompts, 3))])
    chance = 1 / (1 + np.exp(-(skill + length_bias * style[:, :1])))
    results = (draw.uniform(size=(prompts, 2)) < chance).astype(float)
    results[draw.uniform(size=results.shape) < 0.1] = 0.5
    return Played(results, np.where(results == 0.5, 1.0, draw.choice([1.0, 3.0], results.shape)), style)


def official(models: dict[str, Played], use_style: bool) -> dict[str, float]:
    """As upstream: one row per battle, models one-hot with the baseline at -1, torch's LBFGS from .5 to convergence."""
    rows, outcomes, styles = [], [], []
    for place, model in enumerate(models.values()):
        for prompt, game in np.ndindex(model.results.shape):
            for _ in range(int(model.weights[prompt, game])):
                rows.append([float(place == i) for i in range(len(models))] + [-1.0])
                outcomes.append(model.results[prompt, game])
                styles.append(model.style[prompt])
    style = torch.tensor(np.array(styles))
    x = torch.cat([torch.tensor(rows, dtype=torch.float64), (style - style.mean(0)) / style.std(0)], 1)
    x = x if use_style else x[:, : len(models) + 1]
    y, b = torch.tensor(outcomes, dtype=torch.float64), torch.full((x.shape[1],), 0.5, dtype=torch.float64)
    b.requires_grad_()
    optimizer = torch.optim.LBFGS(
        [b], lr=0.1, max_iter=5000, max_eval=20000, tolerance_grad=1e-9, tolerance_change=1e-12
    )

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        found = torch.nn.functional.binary_cross_entropy_with_logits(x @ b, y, reduction="sum")
        found.backward()
        return found

    optimizer.step(loss)
    ratings = b.detach()[: len(models)] - b.detach()[len(models)]
    return dict(zip(models, (100 * torch.sigmoid(ratings)).tolist(), strict=True))


def test_the_closed_form_and_style_control_agree_with_the_official_bradley_terry_fit() -> None:
    models = {"a": games(1, 2.0, -0.5), "b": games(2, 2.0, 0.3)}
    closed = {name: value(arena_score(m.results[None], m.weights[None])) for name, m in models.items()}
    assert closed == pytest.approx(official(models, use_style=False), abs=0.01)
    found = StyleControlled(list(models.values()))
    theirs = list(official(models, use_style=True).values())
    assert found.at_mean_style() == pytest.approx(theirs, abs=0.01)
    assert np.abs(found.at_equal_style() - theirs).max() > 5, "length is above 0 in all games, and the judge likes it"


def test_the_score_at_equal_style_is_the_skill_of_a_model_that_wins_by_length() -> None:
    """Skills -.5 and .3 in logits, 37.8% and 57.4% between equal styles; upstream's number has the length in it."""
    found = StyleControlled([games(1, 2.0, -0.5, 4000), games(2, 2.0, 0.3, 4000)])
    skills = 100 / (1 + np.exp([0.5, -0.3]))
    assert np.abs(found.at_equal_style() - skills).max() < 4 < np.abs(found.at_mean_style() - skills).min()


def test_a_round_of_style_control_is_a_refit() -> None:
    """Of 40 rounds: one Newton step from the full fit is within a twentieth of the spread, root mean square."""
    models = [games(1, 2.0, -0.5), games(2, 2.0, 0.3)]
    found = StyleControlled(models)
    weights = prompt_weights(400)[:40]
    refits = []
    for row in weights.astype(int):
        drawn = np.repeat(np.arange(400), row)
        again = [Played(m.results[drawn], m.weights[drawn], m.style[drawn]) for m in models]
        refits.append(StyleControlled(again).at_equal_style())
    quick = found.scores(weights)
    assert np.sqrt(np.mean((quick - refits) ** 2)) < 0.05 * np.std(refits, axis=0).min()
    second = Models(found, [1])
    assert value(second) == pytest.approx(found.at_equal_style()[1]) and second.left_out().shape == (1, 400)
    assert bootstrap_error(second) == pytest.approx(np.std(refits, axis=0)[1], rel=0.4)


def test_a_model_that_wins_by_length_alone_loses_its_lead() -> None:
    """Two models of the baseline's skill, one of them long: raw scores differ widely, controlled scores do not."""
    long, short = games(3, 4.0, 0.0, 2000), games(4, 4.0, 0.0, 2000)
    style = short.style * np.array([-1.0, 1, 1, 1])
    draw = np.random.default_rng(5)
    results = (draw.uniform(size=(2000, 2)) < 1 / (1 + np.exp(-4 * style[:, :1]))).astype(float)
    models = {"long": long, "short": Played(results, np.ones_like(results), style)}
    raw = {name: value(arena_score(m.results[None], m.weights[None])) for name, m in models.items()}
    long_controlled, short_controlled = StyleControlled(list(models.values())).at_equal_style()
    assert raw["long"] - raw["short"] > 50
    assert abs(long_controlled - short_controlled) < 8


def test_without_style_differences_style_control_is_the_plain_score() -> None:
    model = games(6, 0.0, 0.2)
    plain = replace(model, style=np.zeros_like(model.style))
    (found,) = StyleControlled([plain]).at_equal_style()
    assert found == pytest.approx(value(arena_score(plain.results[None], plain.weights[None])))


def test_a_model_that_won_every_battle_has_no_finite_rating() -> None:
    model = games(7, 0.0, 0.2)
    with pytest.raises(NoRatingsError, match="style control has no finite ratings"):
        StyleControlled([replace(model, results=np.ones_like(model.results))])


AUTHORS = """
OG = "Be fair."
JUDGE_SETTINGS = {
    "hard_prompt": {"baseline": "o3-mini-2025-01-31", "system_prompt": OG},
    "creative_writing": {"baseline": "gemini-2.0-flash-001", "system_prompt": "Be kind."},
}
OTHER = open("nothing is run")
"""


def test_the_judge_gets_the_authors_prompt_of_each_category(tmp_path: Path) -> None:
    asked = protocol()
    template = asked.user_template
    for theirs, ours in TEMPLATE_NAMES.items():
        template = template.replace(ours, theirs)
    patterns = [asked.regex, asked.second_regex]
    settings = {"temperature": 0.0, "max_tokens": 16000, "regex_patterns": patterns, "prompt_template": template}
    (tmp_path / "arena-hard-v2.0.yaml").write_text(json.dumps(settings))
    (tmp_path / "judge_utils.py").write_text(AUTHORS)
    assert with_prompt(asked, tmp_path) == asked
    write_prompt(asked, tmp_path)
    shown = {name: each.prompt_file.read_text() for name, each in with_prompt(asked, tmp_path).categories.items()}
    assert shown == {"hard_prompt": "Be fair.", "creative_writing": "Be kind."}
    for ours, other, told in (("o3-mini", "o4-mini", "has baseline o3-mini"), ('"Be kind."', "3", "does not define")):
        (tmp_path / "judge_utils.py").write_text(AUTHORS.replace(ours, other))
        with pytest.raises(ValueError, match=told):
            write_prompt(asked, tmp_path)
    (tmp_path / "arena-hard-v2.0.yaml").write_text(json.dumps(settings | {"regex_patterns": patterns[:1]}))
    with pytest.raises(ValueError, match="regex is .*; fix the protocol"):
        write_prompt(asked, tmp_path)


def test_our_own_wording_is_another_protocol() -> None:
    own = load_protocol(EVAL / "arena_hard_v2_0_own.yaml")
    assert protocol_hash(own) != protocol_hash(protocol()) and "prompt" not in own.files


def test_a_question_may_hold_any_line_separator(tmp_path: Path) -> None:
    """Some of v2.0's do, unescaped: a reader that splits lines there loses them."""
    text = "one\u2028two\x85three\x0cfour"
    rows = [
        {"uid": "h", "category": "hard_prompt", "prompt": text},
        {"uid": "c", "category": "creative_writing", "prompt": "x"},
    ]
    write_files(tmp_path, {"h": "hard_prompt", "c": "creative_writing"})
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    (tmp_path / "question.jsonl").write_text("".join(lines))
    assert read_questions(protocol(2), tmp_path)[0].prompt[-1]["content"] == text
    (tmp_path / "question.jsonl").write_text("".join(lines) + '{"torn')
    with pytest.raises(ValueError, match="question.jsonl line 3 is not JSON"):
        read_questions(protocol(2), tmp_path)
