"""IFEval's checkers, as lm-eval ships them: which of a prompt's instructions does an answer follow?

Strict takes the answer as it is. Loose also tries it without its first line, its last line and its asterisks, and
counts an instruction that any of these follows (Zhou et al. 2023, arXiv 2311.07911, section 2.2).
"""

import json
import os
from collections.abc import Iterable, Sequence
from functools import lru_cache
from importlib import metadata
from types import ModuleType
from unittest.mock import patch

from focalpo.stages.records import Followed, Instructed
from focalpo.stages.suites import lm_eval_version

INSTALL = "install the laptop extra: make setup EXTRAS=dev,laptop"
NEED_SENTENCES = ("length_constraints:number_sentences", "change_case:capital_word_frequency")
"""Kinds whose checkers read nltk's punkt_tab, which no package brings."""


def followed(instructed: Instructed, answer: str) -> Followed:
    """Check one answer by lm-eval's own functions; an empty answer follows nothing."""
    checkers = _checkers()
    given = checkers.InputExample(0, instructed.kinds, instructed.prompt, [json.loads(a) for a in instructed.arguments])
    strict = checkers.test_instruction_following_strict(given, answer).follow_instruction_list
    loose = checkers.test_instruction_following_loose(given, answer).follow_instruction_list
    return Followed(instructed.id, strict, loose)


def share_followed(instructed: Instructed, answer: str) -> float:
    """The reward of an answer: the share of its instructions that it strictly follows, as it stands."""
    strict = followed(instructed, answer).strict
    return sum(strict) / len(strict)


def check_kinds(instructed: Sequence[Instructed]) -> None:
    """Refuse kinds that cannot be checked here.

    Raises:
        ValueError: for kinds that have no checker, and for those whose checker lacks its data.
    """
    kinds = {kind for each in instructed for kind in each.kinds}
    if unknown := sorted(kinds - _checkers().instructions_registry.INSTRUCTION_DICT.keys()):
        raise ValueError(f"lm-eval has no checker of {', '.join(unknown)}; correct the kinds of the prompts' file")
    if lacking := missing_data(kinds):
        raise ValueError(lacking)


def missing_data(kinds: Iterable[str]) -> str | None:
    """What the checkers of these kinds lack, with the remedy; lm-eval itself is not imported."""
    if not (lacking := sorted(set(kinds).intersection(NEED_SENTENCES))):
        return None
    import nltk

    try:
        nltk.data.find("tokenizers/punkt_tab")
    except LookupError:
        return (
            f"the checkers of {', '.join(lacking)} read nltk's punkt_tab; run python -m nltk.downloader punkt_tab, "
            "or unpack it into a folder that NLTK_DATA names"
        )
    return None


def other_version(required: str) -> str | None:
    """What is wrong with the installed lm-eval where it is not the required version, with the remedy."""
    try:
        found = metadata.version("lm_eval")
    except metadata.PackageNotFoundError:
        return f"lm-eval {required} is not installed; {INSTALL}"
    if found != required:
        return f"lm-eval {found} is installed, {required} is required, whose scores may differ; {INSTALL}"
    return None


def conflicting(kind: str, other: str) -> bool:
    """Whether two kinds of instructions exclude each other, as IFEval's authors list them; each excludes itself."""
    conflicts = _checkers().instructions_registry.INSTRUCTION_CONFLICTS
    return kind == other or other in conflicts.get(kind, ()) or kind in conflicts.get(other, ())


@lru_cache(maxsize=1)
def _checkers() -> ModuleType:
    """lm-eval's module, with the language detector's draws fixed and without the download that its import starts."""
    try:
        import langdetect

        with patch.dict(os.environ, LOCAL_RANK="1"):  # rank 0 would download nltk's data
            from lm_eval.tasks.ifeval import utils
    except ImportError as error:
        raise ValueError(f"IFEval's checkers cannot be imported ({error}); {INSTALL}") from error
    if wrong := other_version(lm_eval_version()):
        raise ValueError(wrong)
    langdetect.DetectorFactory.seed = 0
    return utils
