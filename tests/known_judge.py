"""A judge of known preferences: each answer states the probability with which it is preferred."""

import math
import re
from dataclasses import replace
from pathlib import Path

from focalpo.judging.protocol import AlpacaProtocol, load_protocol
from focalpo.stages.records import Completion, Question
from tests.judge_stub import completion

EVAL = Path(__file__).parent.parent / "eval"
PROTOCOLS = ("alpaca_eval_2", "alpaca_eval_2_local", "pocket_alpaca_eval")
CHANCES = [0.9, 0.2, 0.75, 0.4, 0.6, 0.05, 0.55, 0.97]


def protocol(prompts: int, name: str = "alpaca_eval_2") -> AlpacaProtocol:
    return replace(load_protocol(EVAL / f"{name}.yaml"), prompts=prompts)


def benchmark(chances: list[float]) -> tuple[list[Question], list[Completion]]:
    """Rows whose model answer states the probability that the judge prefers it to the reference."""
    prompts = [[{"role": "user", "content": f"question {row}"}] for row in range(len(chances))]
    questions = [Question(f"q{row}", prompt, f"reference {row}") for row, prompt in enumerate(prompts)]
    completions = [
        Completion(f"q{row}", prompt, f"answer that wins {chance}", 3, True)
        for row, (prompt, chance) in enumerate(zip(prompts, chances, strict=True))
    ]
    return questions, completions


def model_is_first(body: dict) -> bool:
    text = body["messages"][-1]["content"]
    return text.index("answer that wins") < text.index("reference ")


def honest(body: dict, _: int = 0) -> dict:
    """Prefers the model's answer with the probability that it states, in either position."""
    chance = float(re.search(r"answer that wins ([\d.]+)", body["messages"][-1]["content"]).group(1))
    m = chance if model_is_first(body) else 1 - chance
    logprobs = {"m": math.log(m), "M": math.log(1 - m), "Both": -14.0, "The": -15.0, "M ": -16.0}
    return completion("m" if m > 0.5 else "M", logprobs)
