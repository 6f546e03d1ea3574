"""One broken file for each place that reads one: a line with the file and a remedy, exit code 1, never a traceback."""

import errno
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from focalpo.judging.protocol import load_protocol
from focalpo.judging.sentinel import First, read_sentinel, recorded_or
from focalpo.reporting.table_run import TableRun
from focalpo.reporting.verdicts import read_rule
from focalpo.running.command import run_command
from focalpo.stages.disk import explaining_disk_errors
from focalpo.stages.folder import Folder, Job, Stage, read_manifest
from focalpo.stages.origin import ROOT
from focalpo.stages.reading import read_yaml
from focalpo.stages.records import Pair, read_json_lines, read_records
from recipes.status import state
from recipes.why import _scores, why

NOT_JSON = {"empty": b"", "half": b'{"a": [1,', "not UTF-8": b"\xff\xfe\x00", "a list": b"[]", "no keys": b"{}"}
NOT_YAML = {"empty": b"", "half": b"a: [1", "not UTF-8": b"a: \xff", "a list": b"- a", "no keys": b"other: 1"}
NOT_PARQUET = {"empty": b"", "text": b"id,prompt\n", "cut off": b"PAR1" + bytes(90)}
NOT_LINES = {"not JSON": b"{}\nx\n{}\n", "not UTF-8": b"\xff\n", "a number": b"7\n"}
NOT_TABLES = {"empty": b"", "other columns": b"a,b\n1,2\n", "short rows": b"setting,row,column,value,low\nbase,dpo\n"}

Reader = Callable[[Path], object]
DOORS: dict[str, tuple[str, Reader, dict[str, bytes]]] = {
    "a stage's description": ("stage.json", lambda file: Job.read(file.parent), NOT_JSON),
    "a manifest": ("manifest.json", lambda file: read_manifest(file.parent), NOT_JSON),
    "records": ("records.parquet", lambda file: read_records(file, Pair), NOT_PARQUET),
    "metrics": ("metrics.jsonl", read_json_lines, NOT_LINES),
    "a sentinel": ("sentinel.yaml", read_sentinel, NOT_YAML),
    "a protocol": ("protocol.yaml", load_protocol, NOT_YAML),
    "the rule of verdicts": ("verdicts.yaml", read_rule, NOT_YAML),
    "a judge's first run": (".sentinel.json", lambda file: recorded_or(file, First("key", {"pair 0": 1.0})), NOT_JSON),
    "a table's numbers": ("table1.csv", lambda file: _scores(file.parent), NOT_TABLES),
}
CASES = [
    pytest.param(name, read, content, id=f"{door}: {kind}")
    for door, (name, read, broken) in DOORS.items()
    for kind, content in broken.items()
]


def line_of(command: Callable[[], object]) -> str:
    """What a command that fails prints; `sys.exit` with a text prints it and exits with 1."""
    with pytest.raises(SystemExit) as caught:
        run_command(lambda: None if command() else None)
    text = str(caught.value.code)
    assert text.startswith("error: ") and len(text.splitlines()) == 1, text
    return text


@pytest.mark.parametrize(("name", "read", "content"), CASES)
def test_a_broken_file_is_one_line_that_names_it(tmp_path: Path, name, read, content) -> None:
    file = tmp_path / "folder" / name
    file.parent.mkdir()
    file.write_bytes(content)
    text = line_of(lambda: read(file))
    assert str(file) in text and any(remedy in text for remedy in ("; ", " must ", " needs "))
    assert "codec" not in text and "Error" not in text


@pytest.mark.parametrize("door", DOORS)
def test_a_missing_file_and_a_folder_in_its_place_are_one_line(tmp_path: Path, door: str) -> None:
    name, read, _ = DOORS[door]
    (tmp_path / "folder").mkdir()
    if door != "a judge's first run":  # its first run writes it
        assert str(tmp_path / "folder") in line_of(lambda: read(tmp_path / "folder" / name))
    (tmp_path / "folder" / name).mkdir()
    assert str(tmp_path / "folder") in line_of(lambda: read(tmp_path / "folder" / name))


def raises(error: BaseException) -> Callable[[], object]:
    def command() -> None:
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "/a"), "make it readable"),
        (OSError(errno.ENOSPC, "No space left on device", "/a"), "free some space"),
        (OSError(errno.EIO, "Input/output error", "/a"), "copy the file elsewhere"),
        (OSError(errno.EMFILE, "Too many open files", "/a"), "ulimit -n"),
        (IsADirectoryError(errno.EISDIR, "Is a directory", "/a"), "check the file"),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "/a"), "check the file"),
        (FileExistsError(errno.EEXIST, "File exists", "/a"), "check the file"),
    ],
)
def test_an_error_of_the_disk_names_its_file_in_a_command_and_in_a_stage(error, remedy: str) -> None:
    text = line_of(raises(error))
    assert text.startswith("error: /a: ") and remedy in text and "run again" not in text
    with pytest.raises(ValueError) as caught, explaining_disk_errors(Path("/stage")):
        raise error
    assert ("/stage" if error.errno in (errno.EACCES, errno.ENOSPC) else "/a") in str(caught.value)


@pytest.mark.parametrize("error", [OSError("no file in it"), RuntimeError("ours"), KeyError("ours"), TypeError("ours")])
def test_our_own_mistakes_keep_their_traceback(error: Exception) -> None:
    with pytest.raises(type(error)):
        run_command(raises(error))


def test_a_reader_that_has_ended_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """`python -m recipes.plan | head -1`"""
    monkeypatch.setattr("focalpo.running.command.os.dup2", lambda *_: None)
    with pytest.raises(SystemExit) as caught:
        run_command(raises(BrokenPipeError(errno.EPIPE, "Broken pipe")))
    assert caught.value.code == 1


def test_runs_below_a_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    with (
        pytest.raises(ValueError, match=f"^{tmp_path}/runs.*; check the file"),
        Folder(tmp_path / "runs", Stage("pairs", "p", {})).being_made(),
    ):
        pass


def test_a_manifest_with_a_key_of_another_kind_is_damaged_not_a_keyerror(tmp_path: Path) -> None:
    manifest = {"stage": "a/b", "settings": {}, "inputs": {}, "outputs": {}, "facts": []}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(
        ValueError, match=r"manifest.json was edited \(no dict under 'facts'\); its stage must run again"
    ):
        read_manifest(tmp_path)


def test_a_folder_that_is_no_report_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is no stage folder, it has no stage.json; name one below runs/"):
        why("dpo/base/ae2_lc", [tmp_path])
    with pytest.raises(ValueError, match="is no stage folder"):
        TableRun.read(tmp_path / "nothing")


def test_an_unreadable_progress_is_named_by_status(tmp_path: Path) -> None:
    folder = Folder(tmp_path, Stage("train", "t", {}))
    with folder.being_made(), pytest.raises(ValueError, match="progress.json .*; delete it"):
        (folder.path / "progress.json").write_text('{"done": 1')
        state(folder, None)


def test_every_yaml_of_the_checkout_that_is_read_holds_keys(tmp_path: Path) -> None:
    for path in [*(ROOT / "eval").glob("*.yaml"), ROOT / "conf" / "sizes.yaml"]:
        assert read_yaml(path, "-")


def test_a_command_line_shows_the_line_and_exits_as_for_wrong_input(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "recipes.why", "a/b/ae2_lc", str(tmp_path / "no report")]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 2 and result.stderr.startswith("error: ") and len(result.stderr.splitlines()) == 1
