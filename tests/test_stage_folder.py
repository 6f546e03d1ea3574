"""Stage folders: keys, sealing, locks, and what happens to an unfinished or edited folder."""

import errno
import fcntl
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from focalpo.stages.folder import Damaged, Folder, Job, Stage, read_manifest, verify, write_json


def stage(**changes: object) -> Stage:
    values = {"kind": "train", "name": "dpo-s1", "settings": {"beta": 0.1, "seed": 1}}
    return Stage(**{**values, **changes})


def sealed(runs: Path, described: Stage) -> Path:
    folder = Folder(runs, described)
    with folder.being_made() as job:
        (job.path / "weights.bin").write_bytes(b"weights")
        folder.seal(1.5, {"pairs": 3})
    return folder.path


def test_the_key_depends_only_on_kind_settings_and_inputs() -> None:
    base = stage()
    assert base.key == stage(name="other name").key == stage(launch={"ranks": 8}).key
    assert base.key == stage(settings={"seed": 1, "beta": 0.1}).key
    different = [stage(kind="sft"), stage(settings={"beta": 0.2, "seed": 1}), stage(inputs={"pairs": stage()})]
    assert len({base.key, *(other.key for other in different)}) == 4
    assert stage(inputs={"pairs": stage()}).key != stage(inputs={"pairs": stage(settings={})}).key


def test_a_manifest_records_settings_inputs_facts_outputs_and_provenance(tmp_path: Path) -> None:
    path = sealed(tmp_path, stage(inputs={"pairs": stage(kind="pairs", name="p")}))
    manifest = read_manifest(path)
    assert manifest["settings"] == {"beta": 0.1, "seed": 1}
    assert manifest["inputs"] == {"pairs": stage(kind="pairs", name="p").title}
    assert manifest["facts"] == {"pairs": 3}
    assert list(manifest["outputs"]) == ["weights.bin"]
    assert manifest["packages"]["torch"].startswith("2.")
    assert len(manifest["commit"].removesuffix("+changes")) in (40, len("unknown"))
    verify(path)


def test_the_same_stage_under_another_name_is_the_same_folder(tmp_path: Path) -> None:
    path = sealed(tmp_path, stage())
    assert Folder(tmp_path, stage(name="another name")).path == path
    assert Folder(tmp_path, stage(name="another name", settings={})).path != path


def test_a_job_read_from_its_folder_is_the_job_that_was_written(tmp_path: Path) -> None:
    folder = Folder(tmp_path, stage(inputs={"pairs": stage(kind="pairs", name="p")}, launch={"ranks": 2}))
    with folder.being_made() as job:
        assert Job.read(job.path) == job


def test_a_folder_without_a_manifest_is_not_sealed(tmp_path: Path) -> None:
    folder = Folder(tmp_path, stage())
    with pytest.raises(RuntimeError), folder.being_made() as job:
        (job.path / "weights.bin").write_bytes(b"half")
        raise RuntimeError("killed")
    assert not folder.sealed
    with pytest.raises(ValueError, match="not complete; run its stage first"):
        read_manifest(folder.path)


@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_an_output_that_does_not_match_the_manifest_is_reported(tmp_path: Path, damage: str) -> None:
    path = sealed(tmp_path, stage())
    if damage == "changed":
        (path / "weights.bin").write_bytes(b"WEIGHTS")
    else:
        (path / "weights.bin").unlink()
    with pytest.raises(ValueError, match=r"weights.bin does not match its manifest .*; its stage must run again"):
        verify(path)


def test_two_processes_do_not_make_the_same_stage_and_a_dead_one_releases_its_lock(tmp_path: Path) -> None:
    holder = (
        "import sys, time; from pathlib import Path; from focalpo.stages.folder import Folder, Stage\n"
        "with Folder(Path(sys.argv[1]), Stage('train', 'dpo-s1', {'beta': 0.1, 'seed': 1})).being_made():\n"
        "    print('held', flush=True); time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", holder, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    with pytest.raises(ValueError, match="being made by another process"), Folder(tmp_path, stage()).being_made():
        pass
    process.kill()
    process.wait()
    process.stdout.close()
    with Folder(tmp_path, stage()).being_made():
        pass


def test_a_full_disk_is_a_one_line_error_and_nothing_is_sealed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Folder(tmp_path, stage())

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(ValueError, match="no space left on the disk of .*; free some space and run again"):
        with folder.being_made():
            monkeypatch.setattr("focalpo.stages.folder.write_json", full)
            folder.seal(1.0)
    assert not folder.sealed


def test_json_is_replaced_atomically(tmp_path: Path) -> None:
    target = tmp_path / "progress.json"
    write_json(target, {"done": 1})
    write_json(target, {"done": 2})
    assert json.loads(target.read_text()) == {"done": 2}
    assert [path.name for path in tmp_path.iterdir()] == ["progress.json"]


@pytest.mark.parametrize(
    "old, new, why", [('"pairs": 3', '"pairs": 4', "its own sha256 differs"), ("{", "[", "it is not valid JSON")]
)
def test_an_edited_manifest_is_reported_and_no_output_is_trusted(tmp_path: Path, old: str, new: str, why: str) -> None:
    path = sealed(tmp_path, stage())
    manifest = (path / "manifest.json").read_text()
    assert old in manifest
    (path / "manifest.json").write_text(manifest.replace(old, new, 1))
    with pytest.raises(Damaged, match=rf"manifest.json was edited \({why}\)"):
        verify(path)
    with Folder.at(path).being_made():
        Folder.at(path).break_seal()
    assert not (path / "weights.bin").exists() and not Folder.at(path).sealed


def test_settings_that_do_not_match_the_key_are_rejected(tmp_path: Path) -> None:
    path = sealed(tmp_path, stage())
    values = json.loads((path / "stage.json").read_text())
    values["settings"]["beta"] = 0.2
    (path / "stage.json").write_text(json.dumps(values))
    message = r"stage.json was edited \(its settings do not match its key\); remove .* and run again"
    with pytest.raises(ValueError, match=message):
        Folder.at(path)


def test_a_lock_held_briefly_does_not_stop_the_stage(tmp_path: Path) -> None:
    """`make status` takes the lock for a moment to check it."""
    folder = Folder(tmp_path, stage())
    with folder.being_made():
        pass
    lock = (folder.path / ".lock").open()
    fcntl.flock(lock, fcntl.LOCK_SH)
    release = threading.Timer(0.3, lock.close)
    release.start()
    with folder.being_made():
        release.join()


def test_an_added_file_is_reported_and_breaking_the_seal_deletes_only_that_file(tmp_path: Path) -> None:
    path = sealed(tmp_path, stage())
    (path / "adapter.bin").write_bytes(b"of another run")
    with pytest.raises(Damaged, match="adapter.bin does not match its manifest"):
        verify(path)
    with Folder.at(path).being_made():
        Folder.at(path).break_seal()
    assert (path / "weights.bin").exists() and not (path / "adapter.bin").exists()


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", unsupported)
    message = r"the file system of .*dpo-s1-.* has no file locks \(.*\); set runs= to a folder on another one"
    with pytest.raises(ValueError, match=message), Folder(tmp_path, stage()).being_made():
        pass
    assert not Folder(tmp_path, stage()).sealed


def test_a_lock_that_cannot_be_opened_is_explained_as_other_files_are(tmp_path: Path) -> None:
    folder = Folder(tmp_path, stage())
    (folder.path / ".lock").mkdir(parents=True)
    with pytest.raises(ValueError, match="lock"), folder.being_made():
        pass


def test_starts_are_counted_and_the_lock_keeps_them(tmp_path: Path) -> None:
    for _ in range(3):
        with Folder(tmp_path, stage()).being_made():
            pass
    path = sealed(tmp_path, stage())
    assert read_manifest(path)["starts"] == 4
