"""Prompts and sets of answers for benchmarks that are checked by code: what does not belong together is refused."""

import json
import re
from pathlib import Path

import pytest

from focalpo.checking.layouts import read_instructed
from focalpo.config.compose import compose
from tests.instructed import hub_row, write_benchmark

NO_COMMA = "punctuation:no_comma"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (["+check.benchmarks.ifeval=ifeval"], "check.benchmarks.ifeval: no set of that name in generate.sets"),
        (["~generate.sets.arena_hard"], "judge.benchmarks.arena_hard: no set of that name in generate.sets"),
        (
            ["generate.sets.greedy.questions=ifeval"],
            "is not in judge.benchmarks or check.benchmarks; remove the set by '~generate.sets.greedy'",
        ),
        (["+check.benchmarks.arena_hard=ifeval"], "arena_hard is in judge.benchmarks and in check.benchmarks"),
    ],
)
def test_sets_and_benchmarks_that_are_not_of_each_other_are_refused(changed: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        compose(changed)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layout": "csv"}, "layout 'csv' is not one of hub"),
        ({"prompts": 5}, "has 4 prompts in .*, expected 5"),
        ({"kinds": [NO_COMMA, "startend:quotation"]}, r"kinds \[\] are in .*, \['startend:quotation'\] in eval"),
    ],
)
def test_a_file_of_prompts_that_is_not_the_protocols_is_refused(tmp_path: Path, change: dict, message: str) -> None:
    write_benchmark(tmp_path, [hub_row(key, [NO_COMMA]) for key in range(4)])
    values = {"layout": "hub", "prompts": 4, "kinds": [NO_COMMA]} | change
    with pytest.raises(ValueError, match=message):
        read_instructed("own", file=tmp_path / "prompts.jsonl", **values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"instruction_id_list": None}, "row 2 has another layout"),
        ({"instruction_id_list": []}, "row 2 has another layout .0 kinds, arguments of 1"),
        ({"kwargs": []}, "row 2 has another layout .1 kinds, arguments of 0"),
        ({"prompt": 7}, "row 2 has another layout .a prompt or kind is no text"),
        ({"key": 0}, "has the prompt 0 twice"),
    ],
)
def test_a_damaged_row_is_named(tmp_path: Path, change: dict, message: str) -> None:
    rows = [hub_row(key, [NO_COMMA]) for key in range(3)]
    rows[1] |= change
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ValueError, match=message):
        read_instructed("own", "hub", tmp_path / "prompts.jsonl", 3, [NO_COMMA])
