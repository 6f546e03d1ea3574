"""A checkpoint's marker that is empty, cut off or of another kind: the checkpoint before it is used, in one line."""

import json
from pathlib import Path

import pytest

from focalpo.stages.folder import write_json
from focalpo.training import checkpoint
from focalpo.training.engine import open_engine, start_ranks
from focalpo.training.logprobs import PackedPolicy
from tests.tiny import SETTINGS, tiny_model


@pytest.fixture(scope="module")
def engine():
    start_ranks()
    engine = open_engine(PackedPolicy(tiny_model()), SETTINGS)
    checkpoint._init_moments(engine, 1)
    return engine


def two_saved(engine, folder: Path) -> Path:
    """Checkpoints after steps 1 and 2, of which a kill left both; returns the newer one."""
    checkpoint.save(engine, folder, 1, "run")
    (folder / "step-000001").rename(folder / "kept")
    checkpoint.save(engine, folder, 2, "run")
    (folder / "kept").rename(folder / "step-000001")
    return folder / "step-000002"


MARKER = {"run": "run", "step": 2, "files": {}}
BROKEN = {
    "empty": b"",
    "half": json.dumps(MARKER).encode()[:-9],
    "zeros": bytes(200),
    "not UTF-8": b"\xff\xfe",
    "another kind": b"[]",
    "a number": b"7",
    "no files": b'{"run": "run", "step": 2}',
    "no run": b'{"step": 2, "files": {}}',
    "a text step": b'{"run": "run", "step": "2", "files": {}}',
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_marker_is_named_and_the_older_checkpoint_is_used(
    engine, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    newest = two_saved(engine, tmp_path)
    (newest / "complete").write_bytes(content)
    assert checkpoint.resume(engine, tmp_path, "run") == 1
    assert capsys.readouterr().err == f"{newest}/complete is empty or cut off; the checkpoint is not used\n"
    assert not newest.exists()


def test_with_no_other_checkpoint_training_starts_over(engine, tmp_path: Path) -> None:
    checkpoint.save(engine, tmp_path, 1, "run")
    (tmp_path / "step-000001" / "complete").write_bytes(b"")
    assert checkpoint.resume(engine, tmp_path, "run") == 0


@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_a_kill_while_the_marker_is_written_leaves_the_older_checkpoint(
    engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """The marker is written beside its place and moved there; until then nothing older is deleted."""

    class Killed(BaseException):
        """Stands for SIGKILL: nothing of the program runs after it."""

    def die(*_: object) -> None:
        raise Killed

    checkpoint.save(engine, tmp_path, 1, "run")
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "_write_parts", lambda engine, path: iter(()))
        if moment == "fsync":
            patch.setattr("focalpo.stages.folder.os.fsync", die)
        else:
            patch.setattr(Path, "replace", die)
        with pytest.raises(Killed):
            checkpoint.save(engine, tmp_path, 2, "run")
    assert list((tmp_path / "step-000002").glob(".complete.*")), "what was written so far"
    assert checkpoint.resume(engine, tmp_path, "run") == 1


def test_a_marker_of_another_run_is_still_refused(engine, tmp_path: Path) -> None:
    newest = two_saved(engine, tmp_path)
    write_json(newest / "complete", MARKER | {"run": "another"})
    with pytest.raises(ValueError, match="was saved by a run with other settings"):
        checkpoint.resume(engine, tmp_path, "run")
