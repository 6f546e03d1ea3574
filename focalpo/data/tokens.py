"""The tokens contract: one renderer produces the token ids for training, generation and judging.

    messages --chat template--> text --tokenizer, no special tokens added--> ids, one BOS, prompt | response

Checked for every example: exactly one BOS (if the tokenizer has one), the ids of the prompt are an exact prefix of
those of prompt + response, the response is not empty and ends its turn. The hash of the template is saved with the
weights.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from transformers import PreTrainedTokenizerBase

from focalpo.stages.records import Demonstration, Messages, Pair


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
    """Ids of prompts with one leading BOS and the generation prompt, the same for training and generation."""
    return _ids(tokenizer, [_text(tokenizer, prompt, add_generation_prompt=True) for prompt in prompts])


def dialogue_ids(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Messages], answers: Sequence[str]
) -> list[list[int]]:
    """Ids of prompts with their answers and one leading BOS: the input of a reward model."""
    turns = [[*p, {"role": "assistant", "content": a}] for p, a in zip(prompts, answers, strict=True)]
    return _ids(tokenizer, [_text(tokenizer, turn, add_generation_prompt=False) for turn in turns])


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


def _text(tokenizer: PreTrainedTokenizerBase, messages: Messages, add_generation_prompt: bool) -> str:
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=add_generation_prompt)


def _ids(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Ids of rendered texts with one leading BOS, not added by the tokenizer because templates may include it."""
    if not texts:
        return []
    rows = tokenizer(list(texts), add_special_tokens=False, return_attention_mask=False)["input_ids"]
    bos = tokenizer.bos_token_id
    return rows if bos is None else [row if row[:1] == [bos] else [bos, *row] for row in rows]


def _trees(
    tokenizer: PreTrainedTokenizerBase,
    names: Sequence[str],
    prompts: Sequence[Messages],
    answers: dict[str, list[str]],
    limits: Limits,
    stop_ids: Sequence[int],
) -> tuple[list[Tree], dict[str, str]]:
    prompt_rows = prompt_ids(tokenizer, prompts)
    branch_rows = {branch: dialogue_ids(tokenizer, prompts, texts) for branch, texts in answers.items()}
    trees, problems = [], {}
    for place, (name, prompt) in enumerate(zip(names, prompt_rows, strict=True)):
        try:
            branches = {
                branch: _response(tokenizer, prompt, rows[place], limits, stop_ids)
                for branch, rows in branch_rows.items()
            }
        except ValueError as problem:
            problems[name] = str(problem)
        else:
            trees.append(Tree(name, prompt, branches))
    return trees, problems


def _response(
    tokenizer: PreTrainedTokenizerBase, prompt: list[int], full: list[int], limits: Limits, stop_ids: Sequence[int]
) -> list[int]:
    """Ids of the response up to its last stop token (templates may add a newline), truncated at the length limit."""
    if len(prompt) > limits.max_prompt_length:
        raise ValueError(f"prompt of {len(prompt)} tokens is longer than max_prompt_length={limits.max_prompt_length}")
    if full[: len(prompt)] != prompt:
        raise ValueError("the template's prompt is not an exact token prefix of prompt + response")
    if tokenizer.bos_token_id is not None and prompt.count(tokenizer.bos_token_id) != 1:
        raise ValueError(f"prompt has {prompt.count(tokenizer.bos_token_id)} BOS tokens, expected exactly one")
    response = full[len(prompt) :]
    ends = [place for place, token in enumerate(response) if token in stop_ids]
    if not ends:
        raise ValueError("the template does not end the assistant's turn with a stop token (model.stop_tokens)")
    if ends[-1] == 0:
        raise ValueError("the response is empty")
    response = response[: ends[-1] + 1][: limits.max_length - len(prompt)]
    if not response:
        raise ValueError(f"no response is left within max_length={limits.max_length}")
    return response
