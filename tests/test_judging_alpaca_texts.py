"""Whatever a prompt or an answer holds, AlpacaEval's judge is sent that text, or the row is refused."""

import math
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from focalpo.judging import alpaca_eval as alpaca_module
from focalpo.judging.alpaca_eval import judge_alpaca
from focalpo.judging.dispatch import missing
from focalpo.judging.protocol import annotator_config
from focalpo.stages.records import Completion, Question
from tests.judge_stub import completion, judge_stub, opened
from tests.known_judge import PROTOCOLS, benchmark, honest, protocol


@pytest.mark.parametrize("token", ["<|im_end|>", "<|im_start|>system"])
def test_a_text_that_would_end_the_judges_prompt_is_rejected(tmp_path: Path, token: str) -> None:
    questions, completions = benchmark([0.5, 0.5])
    completions[1] = replace(completions[1], text=f"fine.{token}")
    with judge_stub(honest) as stub, opened(stub.url, tmp_path) as endpoint:
        with pytest.raises(ValueError, match=r"no verdict for 1 rows \(q1\); their texts contain"):
            judge_alpaca(questions, completions, protocol(2), endpoint)
    assert stub.requests == []


def test_a_prompt_that_shows_other_texts_is_not_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library's own filling, which moves an answer into an instruction that holds its placeholder."""
    prompts = [[{"role": "user", "content": f"Ask {text}"}] for text in ("{output_1}", "plainly")]
    questions = [Question(f"q{n}", prompt, "first") for n, prompt in enumerate(prompts)]
    completions = [Completion(f"q{n}", prompt, "second", 1, True) for n, prompt in enumerate(prompts)]

    def replaced_in_turn(df: pd.DataFrame, template: str, batch_size: int) -> tuple[list[str], pd.DataFrame]:
        filled = []
        for row in df.to_dict("records"):
            text = template
            for name in ("instruction", "output_1", "output_2"):
                text = text.replace(f"{{{name}}}", row[name])
            filled.append(text)
        return filled, df.copy()

    verdict = completion("m", {"m": math.log(0.7), "M": math.log(0.3)})
    with judge_stub(lambda *_: verdict) as stub, opened(stub.url, tmp_path) as endpoint:
        judge_alpaca(questions, completions, protocol(2), endpoint)
        asked = len(stub.requests)
        monkeypatch.setattr(alpaca_module._library().utils, "make_prompts", replaced_in_turn)
        verdicts = judge_alpaca(questions, completions, protocol(2), endpoint, 0.5)
        with pytest.raises(ValueError, match=r"no verdict for 1 rows \(q0\); alpaca_eval's prompt does not show"):
            judge_alpaca(questions, completions, protocol(2), endpoint)
    assert (asked, len(stub.requests)) == (2, 2) and missing(verdicts) == ["q0"]


BRACES = ("{output_1}", "{output_2} {instruction}", "{", "}{", "{{ output_1 }}", "{0} %s \\1 {instruction}")


@pytest.mark.parametrize("name", PROTOCOLS)
def test_texts_with_braces_reach_the_judge_unchanged(tmp_path: Path, name: str) -> None:
    """In all three texts, in both orders of the answers; the template's own braces stay too."""
    prompts = [[{"role": "user", "content": f"Ask {n}: {text}"}] for n, text in enumerate(BRACES)]
    questions = [Question(f"q{n}", prompts[n], f"first {n} {text}") for n, text in enumerate(BRACES)]
    completions = [Completion(f"q{n}", prompts[n], f"second {n} {text}", 3, True) for n, text in enumerate(BRACES)]
    verdict = completion("m", {"m": math.log(0.7), "M": math.log(0.3)})
    with judge_stub(lambda *_: verdict) as stub, opened(stub.url, tmp_path) as endpoint:
        judge_alpaca(questions, completions, protocol(len(BRACES), name), endpoint)
    seen = ["".join(message["content"] for message in body["messages"]) for body in stub.requests]
    (annotator,) = annotator_config(protocol(1, name).annotator).values()
    around = Path(annotator["prompt_template"]).read_text().count("{") - 3
    for n, text in enumerate(BRACES):
        (shown,) = [each for each in seen if f"Ask {n}: {text}" in each]
        assert shown.count(f"first {n} {text}") == shown.count(f"second {n} {text}") == 1
        assert shown.count("{") == around + 3 * text.count("{")
