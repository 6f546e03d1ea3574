"""The pocket judge: two answers to a pocket prompt in, a preference out, through the protocols of the real judges.

    text of the request -> prompt and both answers -> log-odds from the gold reward and the lengths -> reply

The judge reads text only: an answer that was cut off looks like any other, so both count as finished. It does not
import torch and starts in about 0.1 s:

    python -m focalpo.pocket.judge --port 0 --ready-file judge.url
"""

import hashlib
import math
import os
import random
import re
from argparse import ArgumentParser, ArgumentTypeError
from pathlib import Path
from typing import Any, NoReturn

from focalpo.pocket.server import Faults, Server
from focalpo.pocket.world import gold_reward

MODEL = "pocket-judge"
TEMPERATURE = 0.3
"""Gold reward per unit of log-odds."""
LENGTH_BIAS = 0.02
"""Log-odds per extra word. The gold reward allows five filler words, so padding up to five wins at no cost."""
VERDICT_NOISE = 0.5
"""Standard deviation, in log-odds, of the Arena-Hard verdicts: a prompt's two games agree nearly, but not always."""
SLIGHTLY, MUCH = 0.4, 2.0
"""Log-odds from which a verdict is `>` and `>>`: probabilities 0.60 and 0.88."""
GARBAGE = "The weather is lovely today."
BACKGROUND = {"Both": -21.0, "The": -22.0, "Neither": -23.0}
"""Log-probabilities of the tokens that fill the remaining places of `top_logprobs`."""

ALPACA_EVAL = (  # the published annotator prompt, then our own eval/pocket_alpaca_eval.txt
    re.compile(
        r'"instruction": """(?P<prompt>.*?)""".*'
        r'"model_identifier": "m",\s*"output": """(?P<first>.*?)""".*'
        r'"model_identifier": "M",\s*"output": """(?P<second>.*?)"""',
        re.DOTALL,
    ),
    re.compile(
        r"### Request\n(?P<prompt>.*?)\n\n### Answer of m\n(?P<first>.*?)\n\n### Answer of M\n(?P<second>.*?)\n\n### ",
        re.DOTALL,
    ),
)
ARENA_HARD = re.compile(
    r"<\|User Prompt\|>\n(?P<prompt>.*?)\n\n"
    r"<\|The Start of Assistant A's Answer\|>\n(?P<first>.*?)\n<\|The End of Assistant A's Answer\|>\n\n"
    r"<\|The Start of Assistant B's Answer\|>\n(?P<second>.*?)\n<\|The End of Assistant B's Answer\|>",
    re.DOTALL,
)


def log_odds(prompt: str, answer_a: str, answer_b: str, finished_a: bool = True, finished_b: bool = True) -> float:
    """Log-odds that `answer_a` is preferred: Bradley-Terry on the gold reward plus a bias for length.

    (gold_a - gold_b) / 0.3 + 0.02 (words_a - words_b); the bias is the flaw that length control corrects.

    Raises:
        ValueError: if `prompt` is not a prompt of the pocket world.
    """
    gold = gold_reward(prompt, answer_a, finished_a) - gold_reward(prompt, answer_b, finished_b)
    words = len(answer_a.split()) - len(answer_b.split())
    return gold / TEMPERATURE + LENGTH_BIAS * words


def preference(prompt: str, answer_a: str, answer_b: str, finished_a: bool = True, finished_b: bool = True) -> float:
    """Probability in (0, 1) that `answer_a` is preferred to `answer_b`: the sigmoid of `log_odds`."""
    return math.exp(_log_sigmoid(log_odds(prompt, answer_a, answer_b, finished_a, finished_b)))


def verdict(odds: float) -> str:
    """The five-way Arena-Hard label for the log-odds of assistant A."""
    if abs(odds) < SLIGHTLY:
        return "A=B"
    sign = ">>" if abs(odds) >= MUCH else ">"
    return f"A{sign}B" if odds > 0 else f"B{sign}A"


def complete(request: dict[str, Any], garbage: bool = False) -> dict[str, Any]:
    """Answer one chat-completion request; a pure function, so that equal requests get equal replies.

    With `garbage`, the reply has the right shape but no verdict.

    Raises:
        ValueError: if the request has no messages, or they hold no comparison of two answers to a pocket prompt.
    """
    text = _message_text(request)
    if found := next(filter(None, (pattern.search(text) for pattern in ALPACA_EVAL)), None):
        odds = log_odds(found["prompt"], found["first"], found["second"])
        likelihoods = {"m": _log_sigmoid(odds), "M": _log_sigmoid(-odds)}
        content = max(likelihoods, key=likelihoods.__getitem__)
    elif found := ARENA_HARD.search(text):
        odds = log_odds(found["prompt"], found["first"], found["second"])
        # Seeded by the first turn only, so that a second turn does not change the verdict.
        first_turn = _message_text({"messages": request["messages"][:2]})
        label = verdict(odds + random.Random(first_turn).gauss(0, VERDICT_NOISE))
        likelihoods = {}
        content = f"I solved the task myself and compared both answers with mine. My final verdict is: [[{label}]]"
    else:
        raise ValueError("no comparison found: send an AlpacaEval prompt (outputs named m and M) or an Arena-Hard one")
    if garbage:
        content, likelihoods = GARBAGE, {}
    return _completion(request, text, content, likelihoods)


def _message_text(request: dict[str, Any]) -> str:
    try:
        return "\n".join(message["content"] for message in request["messages"])
    except (KeyError, TypeError):
        raise ValueError("the request needs `messages`, a list of objects with a text `content`") from None


def _completion(request: dict[str, Any], text: str, content: str, likelihoods: dict[str, float]) -> dict[str, Any]:
    """The reply in OpenAI's format; `likelihoods` are the log-probabilities of `m` and `M` as first token, if any."""
    first = content.split(" ")[0]
    ranked = sorted((BACKGROUND | {first: -1e-3} | likelihoods).items(), key=lambda item: -item[1])
    tokens = [{"token": token, "bytes": list(token.encode()), "logprob": logprob} for token, logprob in ranked]
    one = next(token for token in tokens if token["token"] == first)
    logprobs = {"content": [one | {"top_logprobs": tokens[: request.get("top_logprobs") or 0]}]}
    prompt_tokens, completion_tokens = len(text.split()), len(content.split())
    return {
        "id": f"chatcmpl-{hashlib.sha256(text.encode()).hexdigest()[:24]}",
        "object": "chat.completion",
        "created": 0,  # with a clock, replies to equal requests would differ
        "model": request.get("model", MODEL),
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": content},
                "logprobs": logprobs if request.get("logprobs") else None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
        },
    }


def _log_sigmoid(x: float) -> float:
    """log(1 / (1 + exp(-x))) without overflow."""
    return min(x, 0.0) - math.log1p(math.exp(-abs(x)))


class _Parser(ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Print one line instead of the usage text."""
        self.exit(2, f"{self.prog}: {message}\n")


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise ArgumentTypeError(f"{text!r} is not a port; use 0 (any free port) to 65535")
    return int(text)


def main() -> None:
    """Serve until interrupted; the ready file receives the base URL once the server accepts requests."""
    parser = _Parser(prog="focalpo.pocket.judge", allow_abbrev=False)
    parser.add_argument("--port", type=_port, default=0, help="0 takes any free port")
    parser.add_argument("--ready-file", type=Path, help="receives the base URL once the server listens")
    parser.add_argument("--faults", default="", help="e.g. 429=0.1,500=0.1,garbage=0.1,slow=0.05")
    parser.add_argument("--fault-seed", type=int, default=0)
    chosen = parser.parse_args()
    try:
        server = Server(chosen.port, MODEL, complete, Faults.parse(chosen.faults, chosen.fault_seed))
    except ValueError as error:
        parser.error(f"--faults: {error}")
    except OSError as error:
        parser.error(f"--port {chosen.port}: {error.strerror}; stop the other server or use --port 0")
    if chosen.ready_file:
        try:
            _write_atomically(chosen.ready_file, server.url)
        except OSError as error:
            parser.error(f"--ready-file {chosen.ready_file}: {error.strerror}; use a file in an existing folder")
    print(server.url, flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        server.server_close()


def _write_atomically(path: Path, text: str) -> None:
    """Write and rename, so that a process that waits for the file never reads half of it."""
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    draft.write_text(text)
    draft.replace(path)


if __name__ == "__main__":
    main()
