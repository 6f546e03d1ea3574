"""Rows become training and test pairs: no prompt is on both sides, and a smaller limit is a prefix."""

from pathlib import Path

import pytest

from focalpo.data import validate, values
from focalpo.data.sources import FileSource, HubSource, load, prompt_position, sample
from focalpo.stages.records import Pair
from tests.pair_files import plain, write


def test_two_files_are_train_and_test_with_row_numbers_in_their_ids(tmp_path):
    train = write(tmp_path / "train.jsonl", [plain(1), {**plain(2), "chosen": ""}, plain(3)])
    test = write(tmp_path / "test.json", [plain(4), plain(3)])
    checked = load(FileSource(train, test_path=test), "drop")
    assert [pair.id for pair in checked.train] == ["train-000001"]
    assert [pair.id for pair in checked.test] == ["test-000001", "test-000002"]
    assert checked.dropped == {validate.EMPTY: 1, validate.OVERLAP: 1}
    with pytest.raises(ValueError) as caught:
        load(FileSource(train, test_path=test), "error")
    assert str(caught.value).splitlines()[1:] == [
        f"  {validate.EMPTY}: 1 in {train} row 2",
        f"  {validate.OVERLAP}: 1 in {train} row 3",
    ]


def test_the_position_of_a_prompt_is_the_first_64_bits_of_its_sha256():
    # printf '[["user", "hi"]]' | sha256sum
    expected = int("675b797826f34c78", 16) / 16**16
    assert prompt_position([{"role": "user", "content": " hi\n"}]) == pytest.approx(expected, abs=1e-12)


def test_a_division_keeps_a_prompt_on_one_side_and_puts_about_the_fraction_into_test(tmp_path):
    rows = [{**plain(n % 2000), "rejected": f"no {n}"} for n in range(4000)]
    checked = load(FileSource(write(tmp_path / "a.jsonl", rows), test_fraction=0.2), "error")
    train, test = ({pair.prompt[0]["content"] for pair in side} for side in (checked.train, checked.test))
    assert len(checked.train) == 2 * len(train) and len(checked.test) == 2 * len(test)
    assert not train & test and len(train | test) == 2000
    # 5 standard deviations of a binomial count with 2000 draws at 0.2: 5 * sqrt(2000 * .2 * .8) = 89
    assert abs(len(test) - 400) < 89


def test_a_prompt_keeps_its_side_in_any_file_and_a_larger_fraction_only_adds_prompts(tmp_path):
    def prompts_in_test(rows: list[dict], fraction: float) -> set[str]:
        checked = load(FileSource(write(tmp_path / "a.jsonl", rows), test_fraction=fraction), "error")
        return {pair.prompt[0]["content"] for pair in checked.test}

    rows = [plain(n) for n in range(300)]
    few, many = prompts_in_test(rows, 0.2), prompts_in_test(rows[::-1] + [plain(n) for n in range(300, 400)], 0.2)
    assert few == {prompt for prompt in many if int(prompt.split()[1]) < 300}
    assert few < prompts_in_test(rows, 0.4)


def test_a_division_reports_every_bad_row_by_its_row_in_the_file(tmp_path):
    rows = [plain(n) for n in range(200)]
    for number in (10, 60, 110, 160):
        rows[number - 1]["chosen"] = " "
    rows[49]["rejected"] = None
    path = write(tmp_path / "a.jsonl", rows)
    with pytest.raises(ValueError) as caught:
        load(FileSource(path, test_fraction=0.5), "error")
    assert str(caught.value).splitlines()[1:] == [
        f"  {values.MISSING}: 1 in {path} row 50",
        f"  {validate.EMPTY}: 4 in {path} row 10, 60, 110, 160",
    ]
    checked = load(FileSource(path, test_fraction=0.5), "drop")
    assert checked.dropped == {values.MISSING: 1, validate.EMPTY: 4}
    assert len(checked.train) + len(checked.test) == 195
    names = [pair.id for pair in checked.train + checked.test]
    assert set(names) == {f"row-{n:06d}" for n in range(1, 201) if n not in (10, 50, 60, 110, 160)}


@pytest.mark.parametrize(("fraction", "side"), [(1e-9, "test"), (1 - 1e-9, "train")])
def test_a_division_with_an_empty_side_is_rejected(tmp_path, fraction, side):
    path = write(tmp_path / "a.jsonl", [plain(n) for n in range(10)])
    with pytest.raises(ValueError, match=f"leaves {side} empty in .*; choose another fraction"):
        load(FileSource(path, test_fraction=fraction), "drop")


@pytest.mark.parametrize(
    "choice", [{}, {"test_path": Path("b"), "test_fraction": 0.1}, {"test_fraction": 0.0}, {"test_fraction": 1.0}]
)
def test_a_source_defines_its_test_pairs_in_exactly_one_way(choice):
    with pytest.raises(ValueError, match="test_fraction is .*; set"):
        FileSource(Path("a"), **choice)
    if "test_path" in choice:
        choice = {"test_split": "test", "test_fraction": 0.1}
    with pytest.raises(ValueError, match="test_fraction is .*; set"):
        HubSource("own/pairs", "v1.0", "train", **choice)


def test_a_limit_keeps_valid_pairs_of_both_splits_and_a_smaller_one_is_a_prefix(tmp_path):
    rows = [plain(n) for n in range(100)]
    for row in rows[:50]:
        row["chosen"] = ""
    test = write(tmp_path / "test.jsonl", [plain(n) for n in range(100, 120)])
    source = FileSource(write(tmp_path / "train.jsonl", rows), test_path=test)
    full, thirty, ten = load(source, "drop"), load(source, "drop", 30), load(source, "drop", 10)
    assert (len(thirty.train), len(thirty.test), len(ten.train), len(ten.test)) == (30, 20, 10, 10)
    assert ten.train == thirty.train[:10] and ten.test == thirty.test[:10]
    assert set(map(id_of, thirty.train)) < set(map(id_of, full.train))
    assert thirty.train != full.train[:30]
    assert thirty.dropped == full.dropped == {validate.EMPTY: 50}
    with pytest.raises(ValueError, match="limit is 0; set it to at least 1"):
        load(source, "drop", 0)


def id_of(pair: Pair) -> str:
    return pair.id


def test_a_limit_samples_uniformly_over_the_file():
    # Without a shuffle only the front would be taken.
    pairs = [Pair(str(n), [], "a", "b") for n in range(1000)]
    taken = [int(pair.id) for pair in sample(pairs, 200)]
    assert len(set(taken)) == 200
    # Mean of 200 of 0..999 without replacement: 499.5 with standard deviation 288.7 / sqrt(200) * .89 = 18.3
    assert abs(sum(taken) / 200 - 499.5) < 5 * 18.3
