"""How prompts and answers that are too long are cut, by name (`data.truncation`).

simpo        the recipe's: the prompt's start goes first, then the ends of both answers; no pair is dropped for it
keep_prompt  a prompt is whole or its row is bad; answers fill the rest and lose their ends
"""

from collections.abc import Sequence
from dataclasses import dataclass

from focalpo.data.trees import Ids


@dataclass(frozen=True, slots=True)
class Limits:
    """Maximum lengths of prompt and of prompt + response, in tokens, and the name of the rule that keeps them."""

    max_prompt_length: int
    max_length: int
    truncation: str

    def __post_init__(self) -> None:
        if self.truncation not in RULES:
            raise ValueError(f"data.truncation={self.truncation!r} is not one of {', '.join(RULES)}")


def cut(prompt: Ids, answers: Sequence[Ids], limits: Limits) -> tuple[Ids, list[Ids]]:
    """A prompt and its answers within the limits, by the rule of the limits.

    Raises:
        ValueError: when the rule does not cut such a prompt, or leaves nothing of an answer.
    """
    prompt, kept = RULES[limits.truncation](prompt, answers, limits)
    if not all(map(len, kept)):
        raise ValueError(f"no response is left within max_length: {len(prompt)} of {limits.max_length} are the prompt")
    return prompt, kept


def simpo(prompt: Ids, answers: Sequence[Ids], limits: Limits) -> tuple[Ids, list[Ids]]:
    """Cut as SimPO's recipe and TRL 0.9 do (`tokenize_row`, truncation_mode keep_end).

    The longer answer decides for both. If it does not fit behind the prompt, the prompt keeps its last
    `max_prompt_length` tokens: a longer one loses its BOS and its first turns. If it still does not fit, every answer
    keeps its first `max_length - max_prompt_length` tokens, however short the prompt: longer ones lose their end of
    turn.
    """
    longer = max(map(len, answers))
    if len(prompt) + longer > limits.max_length:
        prompt = prompt[-limits.max_prompt_length :]
    if len(prompt) + longer > limits.max_length:
        answers = [answer[: limits.max_length - limits.max_prompt_length] for answer in answers]
    return prompt, list(answers)


def keep_prompt(prompt: Ids, answers: Sequence[Ids], limits: Limits) -> tuple[Ids, list[Ids]]:
    """Keep the prompt, and of every answer what fits behind it: an answer that is cut loses its end of turn.

    Raises:
        ValueError: when the prompt is longer than `max_prompt_length`.
    """
    if len(prompt) > limits.max_prompt_length:
        raise ValueError(
            f"the prompt is too long: {len(prompt)} tokens, longer than max_prompt_length={limits.max_prompt_length}"
        )
    return prompt, [answer[: limits.max_length - len(prompt)] for answer in answers]


RULES = {"simpo": simpo, "keep_prompt": keep_prompt}
