"""The progress display: live lines on a terminal, plain lines elsewhere, nothing when silent."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from focalpo.running.schedule import Display
from focalpo.stages.folder import Folder, Stage

ROOT = Path(__file__).parent.parent
STAGE = Stage("train", "dpo-s1", {})


def report_progress(runs: Path, **state: float) -> None:
    folder = Folder(runs, STAGE).path
    folder.mkdir(parents=True)
    (folder / "progress.json").write_text(json.dumps(state))


def test_without_a_terminal_a_stage_is_one_plain_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    display = Display(tmp_path, total=12, sealed=2)
    display.running([STAGE])
    display.finished(STAGE, 1.25)
    display.finished(STAGE, 2.0, "AE2 LC 51.9, AE2 WR 50.5")
    display.close()
    assert capsys.readouterr().out.splitlines() == [
        "2 of 12 stages are already sealed",
        f"[ 3/12] {STAGE.title}  1.2 s",
        f"[ 4/12] {STAGE.title}  2.0 s  AE2 LC 51.9, AE2 WR 50.5",
    ]


def test_a_warning_is_shown_below_its_stage_and_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    display = Display(tmp_path, total=2, sealed=0)
    display.finished(STAGE, 1.0)
    display.warn(["9 train pairs: dropped 1", "no revision is pinned"])
    display.finished(STAGE, 1.0)
    display.warn(["no revision is pinned"])
    first, *rest = capsys.readouterr().out.splitlines()
    assert first.startswith("[1/2] train/dpo-s1") and rest[2].startswith("[2/2]") and len(rest) == 3
    assert rest[:2] == [
        "  WARNING: 9 train pairs: dropped 1",
        "  WARNING: no revision is pinned",
    ]


def test_the_kinds_of_stages_that_took_longest_are_named_at_the_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    display = Display(tmp_path, total=4, sealed=1)
    for stage, seconds in ((Stage("judge", "dpo-s1", {}), 1.5), (STAGE, 40.0), (STAGE, 35.5)):
        display.finished(stage, seconds)
    display.spent()
    assert capsys.readouterr().out.splitlines()[-1] == "workers' time: 2 train 1:15, 1 judge 0:01"


def test_silent_prints_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    display = Display(tmp_path, total=12, sealed=2, silent=True)
    display.running([STAGE])
    display.finished(STAGE, 1.25)
    display.finished(STAGE, 1.25)
    display.close()
    display.spent()
    assert capsys.readouterr().out == ""


def test_a_stage_shows_rate_time_left_loss_accuracy_and_memory(tmp_path: Path) -> None:
    report_progress(tmp_path, done=80, total=120, seconds=4.0, memory_gb=0.91, loss=0.4123, accuracy=0.718)
    line = Display(tmp_path, total=12, sealed=0)._progress(STAGE)
    assert line == "80/120  20/s  0:02 left  loss 0.412  accuracy 0.718  0.9 GB"


def test_on_a_terminal_live_lines_are_cleared_before_anything_else_is_printed(tmp_path: Path) -> None:
    report_progress(tmp_path, done=1, total=2, seconds=1.0)
    program = f"""
from pathlib import Path
from focalpo.stages.folder import Stage
from focalpo.running.schedule import Display
stage = Stage("train", "dpo-s1", {{}})
display = Display(Path({str(tmp_path)!r}), total=4, sealed=0)
display.running([stage, stage])
display.running([stage])
display.finished(stage, 1.0)
display.close()
print("end")
"""
    ours, theirs = pty.openpty()
    os.set_blocking(ours, True)
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, stdout=theirs, check=True, timeout=120)
    os.close(theirs)
    lines, column = [""], 0
    for part in os.read(ours, 65536).decode().replace("\r\n", "\n").replace("\033[A", "\0").split("\n"):
        # a minimal terminal: \r, clear to the end of the line, one line up, text
        for sign in part.replace("\033[K", "\1"):
            if sign == "\0":
                lines.pop()
            elif sign == "\r":
                column = 0
            elif sign == "\1":
                lines[-1] = lines[-1][:column]
            else:
                lines[-1] = lines[-1][:column] + sign
                column += 1
            column = min(column, len(lines[-1]))
        lines.append("")
        column = 0
    os.close(ours)
    shown = [line for line in lines if line]
    assert shown == [f"[1/4] {STAGE.title}  1.0 s", "end"]


def test_a_worker_exits_when_its_parent_died_before_it_started(tmp_path: Path) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    program = (
        f"import time; from focalpo.processes.quiet import quiet_worker; quiet_worker({gone.pid}, 1); time.sleep(60)"
    )
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, timeout=50)
    assert (result.returncode, result.stderr) == (1, b"")


def test_a_process_of_a_stage_imports_its_models_without_scikit_learn_and_then_collects_garbage() -> None:
    program = (
        "import gc, sys; from focalpo.processes.quiet import quiet; quiet(1); import focalpo.training.engine\n"
        "assert gc.isenabled()\n"
        "import transformers; transformers.LlamaForCausalLM; print(*{'sklearn', 'scipy', 'pandas'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert (result.returncode, result.stdout) == (0, "\n"), result.stderr
