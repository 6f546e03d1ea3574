"""The tokens contract: one renderer produces the token ids for training, generation and judging.

    messages --rendering--> ids, with roles and texts that can be read back --> prompt | response

Checked here for every example: the ids of the prompt are an exact prefix of those of prompt + response; the response is
not empty, and one stop token ends it. The hash of the template is saved with the weights.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from transformers import PreTrainedTokenizerBase

from focalpo.data.rendering import Ids, Renderer
from focalpo.stages.records import Demonstration, Messages, Pair

SHOWN = 5
CHUNK = 1024  # conversations rendered at a time: their ids as Python lists are large


@dataclass(frozen=True, slots=True)
class Tree:
    """A prompt and its branches as token ids, the unit of packing (`branches["chosen"]`, `branches["rejected"]`)."""

    id: str
    prompt: list[int]
    branches: dict[str, list[int]]

    def __len__(self) -> int:
        return len(self.prompt) + sum(map(len, self.branches.values()))


@dataclass(frozen=True, slots=True)
class Limits:
    """Maximum lengths of prompt and of prompt + response, in tokens. A longer response is truncated at its end."""

    max_prompt_length: int
    max_length: int


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
        ValueError: when prompts break the contract; it names the first by its number.
    """
    return _ids(tokenizer, prompts, opens=True)


def dialogue_ids(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Messages], answers: Sequence[str]
) -> list[list[int]]:
    """Ids of prompts with their answers and one leading BOS: the input of a reward model.

    Raises:
        ValueError: when dialogues break the contract; it names the first by its number.
    """
    return _ids(tokenizer, _dialogues(prompts, answers), opens=False)


def pair_trees(
    tokenizer: PreTrainedTokenizerBase, pairs: Sequence[Pair], limits: Limits, stop_ids: Sequence[int]
) -> tuple[list[Tree], dict[str, str]]:
    """Trees of the pairs that satisfy the contract, and for the others the reason by pair id."""
    answers = {"chosen": [pair.chosen for pair in pairs], "rejected": [pair.rejected for pair in pairs]}
    return _trees(tokenizer, [p.id for p in pairs], [p.prompt for p in pairs], answers, limits, stop_ids)


def demonstration_trees(
    tokenizer: PreTrainedTokenizerBase, examples: Sequence[Demonstration], limits: Limits, stop_ids: Sequence[int]
) -> tuple[list[Tree], dict[str, str]]:
    """Trees with the single branch "chosen": supervised training is preference training without a rejected answer."""
    answers = {"chosen": [example.answer for example in examples]}
    return _trees(tokenizer, [e.id for e in examples], [e.prompt for e in examples], answers, limits, stop_ids)


def by_kind(problems: Mapping[str, str]) -> dict[str, list[str]]:
    """Ids by kind of problem, which is what stands before the first colon."""
    kinds: dict[str, list[str]] = {}
    for name, problem in problems.items():
        kinds.setdefault(problem.partition(": ")[0], []).append(name)
    return kinds


def described(problems: Mapping[str, str]) -> str:
    """The problems in one line: each kind with its number of rows, its first ids and what was found in the first."""
    parts = []
    for kind, names in by_kind(problems).items():
        _, _, found = problems[names[0]].partition(": ")
        shown = ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
        parts.append(f"{len(names)} row{'s' * (len(names) > 1)} ({shown}): {kind}{f' ({found})' if found else ''}")
    return "; ".join(parts)


def with_mismatched(trees: Sequence[Tree]) -> list[Tree]:
    """Trees with the single branch "mismatched", an answer to another prompt: KTO's KL sample (arXiv 2402.01306, 3.2).

    The answer is that of the next tree of the dataset, chosen and rejected in turn, so that it does not depend on the
    batch, the seed or the number of ranks, and its reference logps can be cached.
    """
    following = [*trees[1:], *trees[:1]]
    sides = ("chosen", "rejected")
    return [
        Tree(tree.id, tree.prompt, {"mismatched": other.branches[sides[place % 2]]})
        for place, (tree, other) in enumerate(zip(trees, following, strict=True))
    ]


def write_trees(path: Path, trees: Sequence[Tree]) -> None:
    """Write trees as parquet: id, prompt, and one column of ids per branch."""
    branches = list(trees[0].branches) if trees else []
    columns = {"id": pa.array([tree.id for tree in trees], pa.string())}
    columns["prompt"] = pa.array([tree.prompt for tree in trees], pa.list_(pa.int32()))
    for branch in branches:
        columns[branch] = pa.array([tree.branches[branch] for tree in trees], pa.list_(pa.int32()))
    pq.write_table(pa.table(columns), path)


def read_trees(path: Path) -> list[Tree]:
    """Read trees written by `write_trees`."""
    rows = pq.read_table(path).to_pylist()
    return [Tree(row.pop("id"), row.pop("prompt"), row) for row in rows]


def _dialogues(prompts: Sequence[Messages], answers: Sequence[str]) -> list[Messages]:
    return [[*p, {"role": "assistant", "content": a}] for p, a in zip(prompts, answers, strict=True)]


def _ids(tokenizer: PreTrainedTokenizerBase, conversations: Sequence[Messages], opens: bool) -> list[list[int]]:
    rows = Renderer(tokenizer).rows(conversations, opens)
    bad = [f"number {place}: {row}" for place, row in enumerate(rows, 1) if isinstance(row, ValueError)]
    if bad:
        raise ValueError(f"{len(bad)} of {len(rows)} conversations break the token contract ({bad[0]}); correct them")
    return [row.tolist() for row in rows if not isinstance(row, ValueError)]


def _trees(
    tokenizer: PreTrainedTokenizerBase,
    names: Sequence[str],
    prompts: Sequence[Messages],
    answers: dict[str, list[str]],
    limits: Limits,
    stops: Sequence[int],
) -> tuple[list[Tree], dict[str, str]]:
    renderer = Renderer(tokenizer, stops)
    trees, problems = [], {}
    for first in range(0, len(names), CHUNK):
        part = slice(first, first + CHUNK)
        prompt_rows = renderer.rows(prompts[part], opens=True)
        branch_rows = [renderer.rows(_dialogues(prompts[part], texts[part]), opens=False) for texts in answers.values()]
        for place, name in enumerate(names[part]):
            try:
                if not all(texts[first + place].strip() for texts in answers.values()):
                    raise ValueError("the response is empty")
                prompt = _sound(prompt_rows[place])
                dialogues = [_sound(rows[place]) for rows in branch_rows]
                if len(prompt) > limits.max_prompt_length:
                    raise ValueError(
                        f"the prompt is too long: {len(prompt)} tokens, longer than max_prompt_length="
                        f"{limits.max_prompt_length}"
                    )
                responses = [_response(prompt, full, stops)[: limits.max_length - len(prompt)] for full in dialogues]
                if not all(map(len, responses)):
                    raise ValueError(f"no response is left within max_length={limits.max_length}")
            except ValueError as problem:
                problems[name] = str(problem)
            else:
                rows = (response.tolist() for response in responses)
                trees.append(Tree(name, prompt.tolist(), dict(zip(answers, rows, strict=True))))
    return trees, problems


def _sound(row: Ids | ValueError) -> Ids:
    if isinstance(row, ValueError):
        raise row
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
