"""Files are read completely or rejected with a one-line error; the division into train and test never leaks."""

import errno
import gzip
import hashlib
import json
import os
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from focalpo.data import validate, values
from focalpo.data.sources import FileSource, load, read_rows
from tests.pair_files import plain, write


@pytest.fixture
def shared_data() -> Path:
    """The folder of public datasets next to the repository."""
    root = Path(__file__).resolve().parents[1]
    folder = Path(os.environ.get("FOCALPO_SHARED_DATA", root.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"{folder} does not exist; set FOCALPO_SHARED_DATA to the folder of public datasets")
    return folder


@pytest.mark.parametrize("name", ["v0.1.jsonl", "a.jsonl.gz", "a.json", "a.json.gz", "a.parquet"])
def test_every_format_gives_the_same_rows(tmp_path, name):
    # U+2028 and U+0085 end a line for str.splitlines, but not in JSON.
    rows = [{**plain(1), "chosen": "first\u2028second\x85third\nfourth"}, plain(2), {**plain(3), "rejected": None}]
    assert read_rows(write(tmp_path / name, rows)) == rows


def test_a_byte_order_mark_windows_line_ends_and_trailing_blank_lines_are_ignored(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n{"a": 2}\r\n\r\n')
    assert read_rows(path) == [{"a": 1}, {"a": 2}]


VALID_PARQUET = pa.BufferOutputStream()
pq.write_table(pa.Table.from_pylist([plain(n) for n in range(50)]), VALID_PARQUET)
PARQUET = VALID_PARQUET.getvalue().to_pybytes()
ZIPPED = gzip.compress(b"".join(hashlib.sha256(bytes([n])).hexdigest().encode() for n in range(99)), mtime=0)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", None, "is not a file; check the path"),
        ("a.csv", b"prompt,chosen\n", "unknown suffix; convert it to one of .jsonl, .jsonl.gz, .json"),
        ("a.parquet.gz", PARQUET, "unknown suffix"),
        ("a.jsonl", b"", "is empty; download"),
        ("a.jsonl", b" \n\n", "is empty; download"),
        ("a.jsonl.gz", gzip.compress(b"", mtime=0), "is empty; download"),
        ("a.json", b"[]", "has no rows; download"),
        ("a.jsonl", b'{"a": 1}\n{"a": }\n', "line 2 is not JSON (Expecting value); fix or delete"),
        ("a.jsonl", b'{"a": 1}\n\n{"a": 2}\n', "line 2 is not JSON"),
        ("a.jsonl", b'{"a": 1}\n{"a": "cut of', "line 2 is not JSON (Unterminated string"),
        ("a.jsonl", b'{"a": 1}\n["b"]\n', "line 2 is not a JSON object but list; write one row per line"),
        ("a.json", b'{"a": 1}\n{"a": 2}\n', "line 2 is not JSON (Extra data); fix it, or name it .jsonl"),
        ("a.json", b'{"a": 1}', "is not a list of objects"),
        ("a.json", b"[1, 2]", "is not a list of objects"),
        ("a.jsonl", b'{"a": 1}\n{"a": 1, "a": 2}\n', "line 2 names the key 'a' twice in one object; keep one"),
        ("a.jsonl", b'{"a": {"b": 1, "b": 1}}\n', "line 1 names the key 'b' twice in one object; keep one"),
        (
            "a.json",
            b'[{"a": 1}, {"a": [{"b": 1, "b": 2}]}]',
            "names the key 'b' twice in one object, in row 2; keep one",
        ),
        ("a.jsonl", b'{"a": 1}\n{"a": ' + b"9" * 5000 + b"}\n", "line 2 cannot be read (Exceeds the limit"),
        ("a.jsonl", b'{"a": ' + b"[" * 10**5 + b"]" * 10**5 + b"}\n", "line 1 cannot be read (nested too deeply)"),
        ("a.json", b"[" * 10**5 + b"]" * 10**5, "cannot be read (nested too deeply); fix it"),
        ("a.json", b'[{"a": 1}, 7]', "is not a list of objects: row 2 is int; write it as"),
        ("a.json", b'{"a": {"b": 1, "b": 1}}', "names the key 'b' twice in one object; keep one"),
        ("a.jsonl", b'{"a": "\xff"}', "is not UTF-8 at byte 7; convert it"),
        ("a.jsonl.gz", ZIPPED[:-20], "is a truncated gzip file; download it again"),
        ("a.jsonl.gz", ZIPPED[:40] + b"\0" * 40 + ZIPPED[80:], "is not a complete gzip file"),
        ("a.jsonl.gz", b'{"a": 1}\n', "is not a complete gzip file"),
        ("a.parquet", b"", "is not a complete parquet file"),
        ("a.parquet", PARQUET[:-30], "is not a complete parquet file"),
        ("a.parquet", PARQUET[:-40] + b"\xff" * 30 + PARQUET[-10:], "is not a complete parquet file"),
        ("a.parquet", PARQUET[:30] + b"x" * 100 + PARQUET[130:], "is not a complete parquet file"),
    ],
)
def test_a_file_that_cannot_be_read_completely_is_rejected_in_one_line_with_its_path(tmp_path, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        read_rows(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_folder_a_loop_of_links_and_a_name_that_is_too_long_are_named(tmp_path):
    (tmp_path / "a.jsonl").mkdir()
    (tmp_path / "loop.jsonl").symlink_to(tmp_path / "loop.jsonl")
    for name, message in (
        ("a.jsonl", "is not a file but a folder; name a file in it"),
        ("loop.jsonl", "is not a file; check the path"),
        ("n" * 300 + ".jsonl", "cannot be read: File name too long; the name is too long; rename it"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            read_rows(tmp_path / name)
        assert str(caught.value).startswith(str(tmp_path / name)) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.parquet"])
@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ESTALE])
def test_what_the_system_says_is_passed_on_with_a_remedy(tmp_path, monkeypatch, name, number):
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number), name)

    path = write(tmp_path / name, [plain(1)])
    monkeypatch.setattr(Path, "read_bytes", refuse)
    monkeypatch.setattr(pq, "ParquetFile", refuse)
    with pytest.raises(ValueError, match=f"cannot be read: {os.strerror(number)}; [a-z]"):
        read_rows(path)


def test_a_folder_called_like_a_setting_adds_no_column(tmp_path):
    (tmp_path / "split=train").mkdir()
    assert read_rows(write(tmp_path / "split=train" / "a.parquet", [plain(1)])) == [plain(1)]


def parquet(path: Path, columns: dict[str, pa.Array]) -> Path:
    pq.write_table(pa.Table.from_arrays(list(columns.values()), names=list(columns)), path)
    return path


def test_a_parquet_text_that_is_not_utf8_is_a_bad_row_and_no_traceback(tmp_path):
    texts = [b"yes %d" % n for n in range(30)]
    texts[4], texts[20] = b"\xff", b"half \xe2\x82"
    columns = {name: pa.array([f"{name} {n}" for n in range(30)]) for name in ("prompt", "rejected")}
    broken = pa.Array.from_buffers(pa.string(), 30, pa.array(texts, pa.binary()).buffers())
    path = parquet(tmp_path / "a.parquet", columns | {"chosen": broken})
    with pytest.raises(ValueError, match=r"no encoder can read .*: 2 in .*a.parquet row 5, 21$"):
        load(FileSource(path, test_fraction=0.3), "error")
    assert load(FileSource(path, test_fraction=0.3), "drop").dropped == {values.UNENCODABLE: 2}


def test_two_parquet_columns_of_one_name_and_values_without_a_counterpart_are_refused(tmp_path):
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["chosen", "chosen"])
    pq.write_table(table, tmp_path / "two.parquet")
    with pytest.raises(ValueError, match=r"two.parquet has two columns chosen; rename or remove one"):
        read_rows(tmp_path / "two.parquet")
    times = pa.array([0, 2**60], pa.timestamp("ms"))
    with pytest.raises(
        ValueError, match=r"a.parquet column when row 2 cannot be read .*; remove or convert the column"
    ):
        read_rows(parquet(tmp_path / "a.parquet", {"prompt": pa.array(["a", "b"]), "when": times}))


# Counted independently of this code, with re.split, set and sum over the raw rows.
REAL_FILES = {
    "hh_rlhf_harmless_base_test.jsonl.gz": (
        "transcripts",
        2312,
        {values.TURNS: 4, values.DIFFERENT: 5, validate.EMPTY: 4},
    ),
    "gsm8k_solution_pairs_mit.parquet": ("plain", 5700, {validate.DUPLICATE: 3}),
    "ae2_gpt4turbo_pairs.train.parquet": (
        "judged",
        35927,
        {values.TIE: 136, validate.EMPTY: 21, validate.IDENTICAL: 2, validate.DUPLICATE: 1274},
    ),
    "rasbt_instruction_preference_1100.json": ("instruction", 1100, {validate.IDENTICAL: 6}),
}


@pytest.mark.parametrize("name", REAL_FILES)
def test_every_row_of_a_real_file_is_kept_or_counted_as_dropped(shared_data, name):
    schema, rows, dropped = REAL_FILES[name]
    checked = load(FileSource(shared_data / name, test_fraction=0.1), "drop")
    assert checked.schemas == {"train": schema, "test": schema}
    assert checked.dropped == dropped
    assert len(checked.train) + len(checked.test) == rows - sum(dropped.values())
    prompts = [{json.dumps(pair.prompt) for pair in side} for side in (checked.train, checked.test)]
    assert not prompts[0] & prompts[1]
    with pytest.raises(ValueError, match="bad rows: fix them"):
        load(FileSource(shared_data / name, test_fraction=0.1), "error")


def test_real_transcripts_can_be_reconstructed_from_their_pairs(shared_data):
    path = shared_data / "hh_rlhf_harmless_base_test.jsonl.gz"
    rows = read_rows(path)
    checked = load(FileSource(path, test_fraction=0.1), "drop")
    speaker = {"user": "\n\nHuman:", "assistant": "\n\nAssistant:"}
    for pair in checked.train + checked.test:
        row = rows[int(pair.id.removeprefix("row-")) - 1]
        prompt = "".join(speaker[message["role"]] + message["content"] for message in pair.prompt)
        for column, answer in (("chosen", pair.chosen), ("rejected", pair.rejected)):
            # Up to white space, which is stripped around each turn.
            assert "".join((prompt + speaker["assistant"] + answer).split()) == "".join(row[column].split())


def test_the_preferred_output_of_a_real_judgement_is_chosen(shared_data):
    path = shared_data / "ae2_gpt4turbo_pairs.train.parquet"
    rows = read_rows(path)
    checked = load(FileSource(path, test_fraction=0.1), "drop")
    for pair in checked.train + checked.test:
        row = rows[int(pair.id.removeprefix("row-")) - 1]
        outputs = row["output_1"], row["output_2"]
        assert (pair.chosen, pair.rejected) == (outputs if row["preference"] < 1.5 else outputs[::-1])
