"""The token contract, checked where answers are generated: a violation stops the stage before anything is judged.

before: the template is the one that the weights were trained under; roles and texts of a prompt can be read back from
        its ids, which are a prefix of those of prompt + answer; a stop token ends the answer
after:  no answer goes on after the tokenizer's EOS; vLLM and Hugging Face agree on the log-probs of 64 rows
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from focalpo.answering.engine import Tokens
from focalpo.data.tokens import demonstration_trees, described, template_hash
from focalpo.data.truncation import Limits
from focalpo.stages.reading import read_json
from focalpo.stages.records import Demonstration, Messages
from focalpo.training.model import ModelSource, load_model

# Largest accepted mean |difference| of a token's log-prob, nats. Kernels and rounding differ (single tokens by up to
# 0.3 in bfloat16, see vllm issue 18352); a second BOS, another template or another rotary base moves the mean far more.
MOST = {"float32": 0.001, "bfloat16": 0.1}
NO_LIMITS = Limits(1 << 30, 1 << 30, "keep_prompt")


@dataclass(frozen=True, slots=True)
class LogprobReport:
    """Differences between vLLM's and Hugging Face's log-probs of answer tokens, nats."""

    rows: int
    tokens: int
    mean: float
    percentile_99: float
    largest: float


def check_template(model: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Check that the tokenizer's chat template is the one that the weights were trained under.

    Raises:
        ValueError: when the templates differ.
    """
    exported = read_json(model / "focalpo.json", "train again")
    trained = exported.get("chat_template_sha256") if isinstance(exported, dict) else None
    if template_hash(tokenizer) != trained:
        raise ValueError(
            f"{model} was trained with chat template {trained}, but its tokenizer has {template_hash(tokenizer)}; "
            "restore the template or train again"
        )


def check_prompts(
    tokenizer: PreTrainedTokenizerBase, prompts: Mapping[str, Messages], stops: Sequence[int], source: str
) -> None:
    """Check the prompts as training checks its examples, each with its own first word as the response.

    Raises:
        ValueError: when prompts break the contract: benchmarks are not thinned out, so one such prompt stops the stage.
    """
    examples = [Demonstration(name, prompt, _word(prompt)) for name, prompt in prompts.items()]
    problems = demonstration_trees(tokenizer, examples, NO_LIMITS, stops).problems
    if problems:
        raise ValueError(
            f"{len(problems)} prompts break the token contract of {source} ({described(problems)}); correct "
            "model.chat_template or model.stop_tokens, or the prompts named"
        )


def _word(prompt: Messages) -> str:
    """A word that the tokenizer can write if it can write the prompt."""
    return (prompt[-1]["content"].split() or ["yes"])[0]


def check_answers(tokenizer: PreTrainedTokenizerBase, stops: Sequence[int], answers: Sequence[Tokens]) -> None:
    """Check, on their ids, that no answer goes on after the tokenizer's EOS: decoding would remove it, and glue what
    the model said next to the answer.

    Raises:
        ValueError: when the EOS is no stop token and stands in an answer.
    """
    end = tokenizer.eos_token_id
    if end is None or end in stops:
        return
    broken = sum(end in answer for answer in answers)
    if broken:
        raise ValueError(
            f"{broken} of {len(answers)} answers go on after {tokenizer.eos_token}, which ends them; add it to "
            "model.stop_tokens"
        )


def compare_logprobs(source: ModelSource, dtype: str, rows: Sequence[tuple[list[int], list[int]]], found: list) -> dict:
    """Compare vLLM's log-probs `found` of the answers in `rows` (ids of prompt and answer) with Hugging Face's.

    Raises:
        ValueError: when the mean difference over all tokens shows that the models or the tokens are not the same.
    """
    report = difference(hugging_face_logprobs(source, dtype, rows), found)
    if not report.mean <= MOST[dtype]:  # nor where it is not a number
        raise ValueError(
            f"vLLM and Hugging Face disagree on {report.tokens} answer tokens of {source.path} by {report.mean:.4f} "
            f"nats on average (at most {MOST[dtype]} in {dtype}), so nothing is judged; set generate.backend=hf"
        )
    return asdict(report)


def difference(ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]]) -> LogprobReport:
    """Summarize |ours - theirs| over all rows and all tokens that both have: vLLM cannot score the last place of the
    model's window."""
    gaps = np.abs([a - b for x, y in zip(ours, theirs, strict=True) for a, b in zip(x, y, strict=False)])
    return LogprobReport(len(ours), len(gaps), float(gaps.mean()), float(np.percentile(gaps, 99)), float(gaps.max()))


@torch.no_grad()
def hugging_face_logprobs(
    source: ModelSource, dtype: str, rows: Sequence[tuple[list[int], list[int]]]
) -> list[list[float]]:
    """Compute the log-probs of every answer token, nats, one row at a time: padding could hide an error."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = load_model(source, dtype, device).eval()
    logprobs = []
    for prompt, answer in rows:
        ids = torch.tensor([prompt + answer], device=device)
        logits = model(input_ids=ids).logits[0, len(prompt) - 1 : -1].float()
        tokens = torch.tensor(answer, device=device)[:, None]
        logprobs.append(torch.log_softmax(logits, -1).gather(1, tokens)[:, 0].tolist())
    return logprobs
