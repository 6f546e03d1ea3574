"""Detects judge drift: judges a fixed set of pairs at the start of each run and compares with the first run's record.

    pairs of eval/ --the benchmark's own protocol--> results in [0, 1] --first run of this judge--> record
                                                                       --every later run-----> Drift from the record

A protocol names its judge, but the server decides which model has that name: the model behind an address may be
swapped, an alias may move, the quantisation may change. None of that changes the protocol hash; all of it changes the
verdicts on a fixed set of pairs.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from focalpo.judging.dispatch import judge
from focalpo.judging.earlier import opening
from focalpo.judging.endpoint import Endpoint
from focalpo.judging.protocol import ArenaTwoProtocol, JudgedProtocol
from focalpo.judging.read_back import requests_of
from focalpo.stages.folder import write_json
from focalpo.stages.reading import read_json, read_yaml
from focalpo.stages.records import AlpacaVerdict, Completion, Question


@dataclass(frozen=True, slots=True)
class Sentinel:
    """The pairs, with the first answer as reference, and the share of changed verdicts above which a run warns."""

    questions: tuple[Question, ...]
    answers: tuple[Completion, ...]
    most_changed: float

    @property
    def hash(self) -> str:
        """Eight hex digits; equal exactly when the pairs are equal."""
        text = json.dumps([(pair.prompt, pair.reference, answer.text) for pair, answer in self._pairs()])
        return hashlib.sha256(text.encode()).hexdigest()[:8]

    def mark(self, protocol_hash: str, judge: str) -> str:
        """A name for what must be equal in two runs whose verdicts are compared: protocol, pairs and judge."""
        return f"{protocol_hash}-{self.hash}-{hashlib.sha256(judge.encode()).hexdigest()[:8]}"

    def _pairs(self) -> Iterator[tuple[Question, Completion]]:
        return zip(self.questions, self.answers, strict=True)


@dataclass(frozen=True, slots=True)
class First:
    """A judge's first run on the sentinel: the key of the judge stage that it was part of, and the results."""

    key: str
    results: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Drift:
    """How far a run's verdicts are from the recorded ones.

    `changed`: share of verdicts with a different winner, a tie being one too; `moved`: mean absolute change of the
    result, in [0, 1]; `first`: the run is the recorded one itself.
    """

    verdicts: int
    changed: float
    moved: float
    first: bool = False


def read_sentinel(path: Path) -> Sentinel:
    """Read the sentinel that a YAML of eval/ defines.

    Raises:
        ValueError: if the file does not exist or a key is missing.
    """
    if not path.is_file():
        raise ValueError(f"there is no sentinel {path}; set judge.sentinel to null or to a file of eval/ without .yaml")
    values = read_yaml(path, "correct it, or restore it from the checkout")
    try:
        rows = [(str(row["prompt"]), str(row["first"]), str(row["second"])) for row in values["pairs"]]
        most = float(values["most_changed"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path}: a sentinel needs most_changed and pairs, each with prompt, first, second ({error})"
        ) from None
    prompts = [[{"role": "user", "content": prompt}] for prompt, _, _ in rows]
    questions = [Question(f"pair {n}", prompts[n], first) for n, (_, first, _) in enumerate(rows)]
    answers = [Completion(f"pair {n}", prompts[n], second, 0, True) for n, (_, _, second) in enumerate(rows)]
    return Sentinel(tuple(questions), tuple(answers), most)


def judged(sentinel: Sentinel, protocol: JudgedProtocol, endpoint: Endpoint) -> dict[str, float]:
    """Judge the pairs: the second answer's result, 0 to 1, by pair (AlpacaEval) or by pair and game (Arena-Hard)."""
    questions, answers = zip(*pairs_under(protocol, sentinel), strict=True)
    verdicts = judge(questions, answers, replace(protocol, prompts=len(questions)), endpoint)
    return dict(
        (verdict.id, verdict.preference - 1)
        if isinstance(verdict, AlpacaVerdict)
        else (f"{verdict.id} game {verdict.game}", verdict.result)
        for verdict in verdicts
    )


def pairs_under(protocol: JudgedProtocol, sentinel: Sentinel) -> list[tuple[Question, Completion]]:
    """The pairs as questions of the protocol, each with the second answer."""
    # Arena-Hard v2 finds the judge's prompt by the question's category; any category works here.
    category = f"{next(iter(protocol.categories))}/" if isinstance(protocol, ArenaTwoProtocol) else ""
    return [
        (replace(question, id=category + question.id), replace(answer, id=category + answer.id))
        for question, answer in zip(sentinel.questions, sentinel.answers, strict=True)
    ]


def openings(sentinel: Sentinel | None, protocols: Iterable[JudgedProtocol]) -> set[str]:
    """The openings of all requests about the pairs, by which records of them are known (focalpo/judging/earlier.py)."""
    shown = [
        (pair, protocol) for protocol in protocols for pair in (pairs_under(protocol, sentinel) if sentinel else ())
    ]
    return {opening({"messages": messages}) for pair, protocol in shown for _, messages in requests_of(*pair, protocol)}


def drift(recorded: Mapping[str, float], found: Mapping[str, float]) -> Drift:
    """Compare a run's results with the recorded ones; both hold the same pairs."""
    assert recorded.keys() == found.keys()
    changed = sum(_winner(recorded[name]) != _winner(found[name]) for name in recorded)
    moved = sum(abs(recorded[name] - found[name]) for name in recorded)
    return Drift(len(recorded), changed / len(recorded), moved / len(recorded))


def since_first(folder: Path, mark: str, key: str, found: Mapping[str, float]) -> Drift:
    """How far the results of the judge stage `key` are from those of the first run with this mark under the folder."""
    first = recorded_or(folder / f".sentinel-first-{mark}.json", First(key, found))
    return replace(drift(first.results, found), first=first.key == key)


def recorded_or(path: Path, found: First) -> First:
    """Return the record of a judge's first run; if there is none, `found` becomes it. Of two first runs, one wins."""
    if not path.exists():
        draft = path.with_name(f"{path.name}.{os.getpid()}")
        write_json(draft, asdict(found))
        try:
            os.link(draft, path)
        except FileExistsError:
            pass  # another process was first: its results are the record, and ours are compared with them
        finally:
            draft.unlink()
    first = read_json(path, "delete it, and the next run becomes the judge's first")
    try:
        recorded = First(**first)
        same = recorded.results.keys() == found.results.keys()
    except (AttributeError, TypeError):
        same = False
    if not same:
        raise ValueError(f"{path} does not hold the sentinel's pairs; delete it, and the next run becomes the first")
    return recorded


def _winner(result: float) -> int:
    return (result > 0.5) - (result < 0.5)
