"""Is the judge still the one that it was? A fixed set of pairs, judged at the start of each run, against its record.

    pairs of eval/ --the benchmark's own protocol--> results in [0, 1] --first run of this judge--> record
                                                                       --every later run-----> Drift from the record

A protocol names its judge, a server decides what answers to that name: a model swapped behind an address, an alias that
moved, another quantisation. None of that changes a protocol hash; all of it changes the verdicts on pairs that stay.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from focalpo.judging.dispatch import judge
from focalpo.judging.endpoint import Endpoint
from focalpo.judging.protocol import ArenaTwoProtocol, Protocol
from focalpo.stages.folder import write_json
from focalpo.stages.records import AlpacaVerdict, Completion, Question


@dataclass(frozen=True, slots=True)
class Sentinel:
    """The pairs, the first answer as reference, and the share of changed verdicts from which a run is warned of."""

    questions: tuple[Question, ...]
    answers: tuple[Completion, ...]
    most_changed: float

    @property
    def hash(self) -> str:
        """Eight hex digits: equal exactly when the pairs are."""
        text = json.dumps([(pair.prompt, pair.reference, answer.text) for pair, answer in self._pairs()])
        return hashlib.sha256(text.encode()).hexdigest()[:8]

    def _pairs(self) -> Iterator[tuple[Question, Completion]]:
        return zip(self.questions, self.answers, strict=True)


@dataclass(frozen=True, slots=True)
class Drift:
    """How far a run's verdicts are from the recorded ones.

    `changed`: share whose winner is another (a draw is one too); `moved`: mean absolute change of the result, 0 to 1.
    """

    verdicts: int
    changed: float
    moved: float


def read_sentinel(path: Path) -> Sentinel:
    """The sentinel that a yaml of eval/ defines.

    Raises:
        ValueError: when it does not exist or a pair lacks a key.
    """
    if not path.is_file():
        raise ValueError(f"there is no sentinel {path}; judge.sentinel is null or a file of eval/ without its .yaml")
    values = yaml.safe_load(path.read_text())
    try:
        rows = [(str(row["prompt"]), str(row["first"]), str(row["second"])) for row in values["pairs"]]
        most = float(values["most_changed"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path}: a sentinel has most_changed and pairs, each with prompt, first, second ({error})"
        ) from None
    asked = [[{"role": "user", "content": prompt}] for prompt, _, _ in rows]
    questions = [Question(f"pair {n}", asked[n], first) for n, (_, first, _) in enumerate(rows)]
    answers = [Completion(f"pair {n}", asked[n], second, 0, True) for n, (_, _, second) in enumerate(rows)]
    return Sentinel(tuple(questions), tuple(answers), most)


def judged(sentinel: Sentinel, protocol: Protocol, endpoint: Endpoint) -> dict[str, float]:
    """The second answer's result in every pair, 0 to 1, by pair (AlpacaEval) or by pair and game (Arena-Hard)."""
    # Arena-Hard v2 knows a question's prompt by its category: any of them will do here.
    place = f"{next(iter(protocol.categories))}/" if isinstance(protocol, ArenaTwoProtocol) else ""
    questions = [replace(question, id=place + question.id) for question in sentinel.questions]
    answers = [replace(answer, id=place + answer.id) for answer in sentinel.answers]
    verdicts = judge(questions, answers, replace(protocol, prompts=len(questions)), endpoint)
    return dict(
        (verdict.id, verdict.preference - 1)
        if isinstance(verdict, AlpacaVerdict)
        else (f"{verdict.id} game {verdict.game}", verdict.result)
        for verdict in verdicts
    )


def drift(recorded: Mapping[str, float], found: Mapping[str, float]) -> Drift:
    """The distance of a run's results from the recorded ones; both hold the same pairs."""
    assert recorded.keys() == found.keys()
    changed = sum(_winner(recorded[name]) != _winner(found[name]) for name in recorded)
    moved = sum(abs(recorded[name] - found[name]) for name in recorded)
    return Drift(len(recorded), changed / len(recorded), moved / len(recorded))


def recorded_or(path: Path, found: dict[str, float]) -> dict[str, float]:
    """The record of a judge's first run; where there is none, `found` becomes it. Of two first runs one wins."""
    if not path.exists():
        draft = path.with_name(f"{path.name}.{os.getpid()}")
        write_json(draft, found)
        try:
            os.link(draft, path)
        except FileExistsError:
            pass  # the other process's results are the record now, and ours are compared with them
        finally:
            draft.unlink()
    return json.loads(path.read_text())


def _winner(result: float) -> int:
    return (result > 0.5) - (result < 0.5)
