"""The tokens contract: one renderer produces the token ids for training, generation and judging.

    messages --rendering--> ids, with roles and texts that can be read back --> prompt | response

Checked here for every example: the ids of the prompt are an exact prefix of those of prompt + response; the response is
not empty, and one stop token ends it. The hash of the template is saved with the weights.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from transformers import PreTrainedTokenizerBase

from focalpo.data.rendering import Renderer
from focalpo.data.trees import Ids, Tree
from focalpo.data.truncation import Limits, cut
from focalpo.stages.records import Demonstration, Messages, Pair

SHOWN = 5
CHUNK = 1024  # conversations rendered at a time: their ids as Python lists are large


@dataclass(frozen=True, slots=True)
class Tokenised:
    """Trees of the examples that keep the contract, the reason by id for the others, and how many prompts and answers
    of the trees were cut."""

    trees: list[Tree]
    problems: dict[str, str]
    cut_prompts: int
    cut_answers: int

    def warnings(self, what: str, limits: Limits) -> list[str]:
        """At most one line: how many of `what` were dropped, by kind, and how much was cut."""
        parts = []
        if self.problems:
            kinds = {kind: len(names) for kind, names in by_kind(self.problems).items()}
            parts.append(f"dropped {counted(kinds)}")
        if self.cut_prompts or self.cut_answers:
            parts.append(
                f"cut {self.cut_prompts} prompts and {self.cut_answers} answers to {limits.max_length} tokens "
                f"({limits.truncation})"
            )
        total = len(self.trees) + len(self.problems)
        return [f"{total} {what}: {'; '.join(parts)}"] if parts else []


def template_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """Twelve hex digits that identify the chat template.

    Raises:
        ValueError: when the tokenizer has no chat template.
    """
    if not isinstance(tokenizer.chat_template, str):
        raise ValueError(
            f"tokenizer {tokenizer.name_or_path!r} has no chat template; set model.chat_template to a Jinja file"
        )
    return hashlib.sha256(tokenizer.chat_template.encode()).hexdigest()[:12]


def prompt_ids(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Messages]) -> list[list[int]]:
    """Ids of prompts with one leading BOS and the generation prompt, the same for training and generation.

    Raises:
        ValueError: when the chat template cannot be used, or refuses a prompt, which is named by its number. Texts that
            hold tokens of control are for `pair_trees` and `check_prompts` to find.
    """
    return _ids(tokenizer, prompts, opens=True)


def dialogue_ids(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Messages], answers: Sequence[str]
) -> list[list[int]]:
    """Ids of prompts with their answers and one leading BOS: the input of a reward model.

    Raises:
        ValueError: as for `prompt_ids`.
    """
    return _ids(tokenizer, _dialogues(prompts, answers), opens=False)


def pair_trees(
    tokenizer: PreTrainedTokenizerBase, pairs: Sequence[Pair], limits: Limits, stop_ids: Sequence[int]
) -> Tokenised:
    """The pairs as trees with the branches "chosen" and "rejected"."""
    answers = {"chosen": [pair.chosen for pair in pairs], "rejected": [pair.rejected for pair in pairs]}
    return _tokenised(tokenizer, [p.id for p in pairs], [p.prompt for p in pairs], answers, limits, stop_ids)


def answer_trees(
    tokenizer: PreTrainedTokenizerBase, pairs: Sequence[Pair], limits: Limits, stop_ids: Sequence[int]
) -> Tokenised:
    """Single answers as trees: of the branches "chosen" and "rejected" the one that an answer is not has no tokens."""
    answers = {"answer": [pair.chosen or pair.rejected for pair in pairs]}
    found = _tokenised(tokenizer, [p.id for p in pairs], [p.prompt for p in pairs], answers, limits, stop_ids)
    desirable, none = {pair.id: bool(pair.chosen) for pair in pairs}, np.empty(0, np.int32)

    def sided(tree: Tree) -> Tree:
        answer = tree.branches["answer"]
        sides = (answer, none) if desirable[tree.id] else (none, answer)
        return Tree(tree.id, tree.prompt, dict(zip(("chosen", "rejected"), sides, strict=True)))

    return replace(found, trees=[sided(tree) for tree in found.trees])


def demonstration_trees(
    tokenizer: PreTrainedTokenizerBase, examples: Sequence[Demonstration], limits: Limits, stop_ids: Sequence[int]
) -> Tokenised:
    """Trees with the single branch "chosen": supervised training is preference training without a rejected answer."""
    answers = {"chosen": [example.answer for example in examples]}
    return _tokenised(tokenizer, [e.id for e in examples], [e.prompt for e in examples], answers, limits, stop_ids)


def by_kind(problems: Mapping[str, str]) -> dict[str, list[str]]:
    """Ids by kind of problem, which is what stands before the first colon."""
    kinds: dict[str, list[str]] = {}
    for name, problem in problems.items():
        kinds.setdefault(problem.partition(": ")[0], []).append(name)
    return kinds


def counted(kinds: Mapping[str, int]) -> str:
    """The number of dropped rows and, by kind, why."""
    reasons = ", ".join(f"{count} {kind}" for kind, count in kinds.items() if count)
    return f"{sum(kinds.values())} ({reasons})"


def described(problems: Mapping[str, str]) -> str:
    """The problems in one line: each kind with its number of rows, its first ids and what was found in the first."""
    parts = []
    for kind, names in by_kind(problems).items():
        _, _, found = problems[names[0]].partition(": ")
        shown = ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
        parts.append(f"{len(names)} row{'s' * (len(names) > 1)} ({shown}): {kind}{f' ({found})' if found else ''}")
    return "; ".join(parts)


def _dialogues(prompts: Sequence[Messages], answers: Sequence[str]) -> list[Messages]:
    return [[*p, {"role": "assistant", "content": a}] for p, a in zip(prompts, answers, strict=True)]


def _ids(tokenizer: PreTrainedTokenizerBase, conversations: Sequence[Messages], opens: bool) -> list[list[int]]:
    return [row.tolist() for row in Renderer(tokenizer).ids(conversations, opens)]


def _tokenised(
    tokenizer: PreTrainedTokenizerBase,
    names: Sequence[str],
    prompts: Sequence[Messages],
    answers: dict[str, list[str]],
    limits: Limits,
    stops: Sequence[int],
) -> Tokenised:
    renderer = Renderer(tokenizer, stops)
    trees, problems, cut_prompts, cut_answers = [], {}, 0, 0
    for first in range(0, len(names), CHUNK):
        part = slice(first, first + CHUNK)
        texts = {branch: rows[part] for branch, rows in answers.items()}
        prompt_rows = renderer.rows(prompts[part], opens=True)
        dialogue_rows = [renderer.rows(_dialogues(prompts[part], rows), opens=False) for rows in texts.values()]
        for name, said, prompt, *dialogues in zip(
            names[part], zip(*texts.values(), strict=True), prompt_rows, *dialogue_rows, strict=True
        ):
            try:
                whole, responses = _parts(said, prompt, dialogues, stops)
                start, kept = cut(whole, responses, limits)
                if len(kept) == 2 and np.array_equal(kept[0], kept[1]):
                    raise ValueError(f"both answers are the same within max_length: {limits.max_length} tokens")
            except ValueError as problem:
                problems[name] = str(problem)
                continue
            trees.append(Tree(name, start, dict(zip(answers, kept, strict=True))))
            cut_prompts += len(start) < len(whole)
            cut_answers += sum(len(ours) < len(row) for ours, row in zip(kept, responses, strict=True))
    return Tokenised(trees, problems, cut_prompts, cut_answers)


def _parts(
    answers: Sequence[str], prompt: Ids | ValueError, dialogues: Sequence[Ids | ValueError], stops: Sequence[int]
) -> tuple[Ids, list[Ids]]:
    """The ids of a prompt and of its responses, whole.

    Raises:
        ValueError: when one of them breaks the contract.
    """
    if not all(answer.strip() for answer in answers):
        raise ValueError("the response is empty")
    whole = _sound(prompt)
    return whole, [_response(whole, _sound(dialogue), stops) for dialogue in dialogues]


def _sound(row: Ids | ValueError) -> Ids:
    if isinstance(row, ValueError):
        raise row.with_traceback(None)
    return row


def _response(prompt: Ids, full: Ids, stops: Sequence[int]) -> Ids:
    """Ids of the response up to its stop token; what templates write after it, a newline, is not trained on."""
    if not np.array_equal(full[: len(prompt)], prompt):
        raise ValueError("the template's prompt is not an exact token prefix of prompt + response")
    response = full[len(prompt) :]
    ends = np.flatnonzero(np.isin(response, stops))
    if not len(ends):
        raise ValueError("the template does not end the assistant's turn with a stop token (model.stop_tokens)")
    if not ends[0]:
        raise ValueError("the response is empty")
    return response[: ends[0] + 1]
