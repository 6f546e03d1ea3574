"""The session on a GPU always ends with a table: rehearsed with everything that can go wrong there."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from focalpo.config.compose import compose_bench
from focalpo.speed import measurements, worker
from focalpo.speed.plan import COMPILING, planned
from focalpo.speed.session import MOST_HELD
from focalpo.speed.summary import table
from focalpo.speed.tasks import FAILED, LEFT_OUT, MEMORY, MISSING, OK, OURS, TIMED_OUT, Row
from tests.session_stub import LIMIT, SIZES

ROOT = Path(__file__).parent.parent


def held(out: Path, *names: str, seconds: float = 600) -> tuple[dict[str, list[dict]], str]:
    """The rows of a pretended session by task, and what it printed; the table on disk is the one that was printed."""
    command = [sys.executable, "-m", "tests.session_stub", str(out), str(seconds), *names]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert (out / "table.txt").read_text() in run.stdout, run.stderr
    assert run.returncode == int(any(row["result"] != OK for rows in rows_of(out).values() for row in rows))
    return rows_of(out), run.stdout


def rows_of(out: Path) -> dict[str, list[dict]]:
    found: dict[str, list[dict]] = {}
    for text in (out / "rows.jsonl").read_text().splitlines():
        found.setdefault(json.loads(text)["name"], []).append(json.loads(text))
    return found


def test_what_fails_is_a_row_and_the_next_task_is_measured(tmp_path: Path) -> None:
    names = [f"b/{what}" for what in ("fine/ours/0", "needs/x/0", "lacks/x/0", "dies/x/0", "raises/x/0", "slow/TRL/0")]
    rows, printed = held(tmp_path, *names, "b/fine/TRL/0", "b/fine/ours/1")
    assert {name.split("/", 1)[1]: (row["result"], row["why"]) for name, (row,) in rows.items()} == {
        "fine/ours/0": (OK, ""),
        "needs/x/0": (MISSING, "a_package_that_is_missing"),
        "lacks/x/0": (MISSING, "a_module"),
        "dies/x/0": (
            FAILED,
            "a worker process exited with code 3; see its output above, then run again; "
            "log.txt ends: and the last words",
        ),
        "raises/x/0": (
            FAILED,
            "CUDA error: an illegal memory access was encountered; log.txt ends: and the last words",
        ),
        "slow/TRL/0": (TIMED_OUT, f"ended after {LIMIT:.0f} s, a row's limit"),
        "fine/TRL/0": (OK, ""),
        "fine/ours/1": (OK, ""),
    }
    lines = [line for line in printed.split("\n\n")[0].splitlines() if " s  " in line]
    assert len(lines) == 8, "every row is printed when it is finished"


def test_a_worker_serves_every_row_and_is_replaced_when_it_keeps_memory(tmp_path: Path) -> None:
    assert MOST_HELD < 2 << 30
    rows, _ = held(tmp_path, "b/fine/ours/0", "b/fine/TRL/0", "b/fine/ours/1", "b/holds/ours/0", "b/fine/ours/2")
    pids = {name: row["figures"]["pid"] for name, (row,) in rows.items()}
    assert pids["b/fine/ours/0"] == pids["b/fine/ours/1"] == pids["b/holds/ours/0"]
    assert len({pids[f"b/fine/{name}"] for name in ("ours/0", "TRL/0", "ours/2")}) == 3


def test_what_runs_out_of_memory_is_a_row_with_its_figure_and_tried_smaller(tmp_path: Path) -> None:
    """The third size fits, where the repeat begins; another task fits at none."""
    rows, printed = held(tmp_path, "b/fine/ours/0", "b/fits/TRL/0", "b/fits/TRL/1", "b/full/TRL/0")
    found = {name: [(row["size"], row["result"]) for row in each] for name, each in rows.items()}
    assert found["b/fits/TRL/0"] == [(SIZES[0], MEMORY), (SIZES[1], MEMORY), (SIZES[2], OK)]
    assert found["b/fits/TRL/1"] == [(SIZES[2], OK)]
    assert found["b/full/TRL/0"] == [(size, MEMORY) for size in SIZES]
    assert all("20.00 GiB; 130.1 GiB in use" in row["why"] for row in rows["b/full/TRL/0"])
    # ours 8 pairs/s, TRL 8 / 3
    assert re.search(r"peers +TRL +2 pairs, 2 layers +2 .* 3\.00 x\n", printed)


def test_a_reference_reaches_what_is_measured_beside_it(tmp_path: Path) -> None:
    rows, _ = held(tmp_path, "b/reference/r/0", "b/beside/TRL/0", "b/unreferenced/ours/0")
    assert [rows[name][0]["result"] for name in ("b/reference/r/0", "b/beside/TRL/0")] == [OK, OK]
    assert rows["b/unreferenced/ours/0"][0]["why"] == "its reference was not computed"
    assert "logps" not in (tmp_path / "rows.jsonl").read_text()


def test_what_the_budget_does_not_suffice_for_is_named(tmp_path: Path) -> None:
    """The second row takes all that is left, and no third one is begun."""
    rows, printed = held(tmp_path, "b/fine/ours/0", "b/hangs/ours/0", "b/fine/TRL/0", seconds=20)
    assert rows["b/fine/ours/0"][0]["result"] == OK
    assert rows["b/hangs/ours/0"][0]["result"] == TIMED_OUT
    assert rows["b/hangs/ours/0"][0]["why"].endswith("the session's limit")
    assert (rows["b/fine/TRL/0"][0]["result"], rows["b/fine/TRL/0"][0]["why"]) == (
        LEFT_OUT,
        "too few seconds were left",
    )
    assert "b/fine/TRL/0" in printed.split("\n\n")[-1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_session_that_is_stopped_ends_with_its_table_and_no_worker(tmp_path: Path, number: int) -> None:
    names = ["b/fine/ours/0", "b/hangs/ours/0", "b/fine/TRL/0"]
    command = [sys.executable, "-m", "tests.session_stub", str(tmp_path), "600", *names]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as session:
        assert session.stdout is not None
        while "b/fine/ours/0" not in session.stdout.readline():
            pass
        session.send_signal(number)
        printed = session.stdout.read()  # to its end: a worker that lived on would hold it open
    rows = rows_of(tmp_path)
    assert [rows[name][0]["why"] for name in names[1:]] == 2 * ["the session was stopped"]
    assert (tmp_path / "table.txt").read_text() in printed and session.returncode == 1


def test_a_bare_machine_is_told_what_it_lacks(tmp_path: Path) -> None:
    """Python without its packages."""
    command = [sys.executable, "-S", "-m", "focalpo.speed.session", str(tmp_path), "60", "tiny"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 1 and "lacks  torch: without it, not anything" in run.stdout, run.stderr
    assert "lacks  deepspeed: without it, not this engine's speed" in run.stdout
    assert re.search(
        r"not measured .*\nall .* missing +torch, transformers, numpy", (tmp_path / "table.txt").read_text()
    )


@pytest.mark.parametrize(
    "error, result, why",
    [
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total of 139.8 GiB"),
            MEMORY,
            r"Tried to allocate 20\.00 GiB; \d+\.\d GiB in use at the peak",
        ),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
            MEMORY,
            r".*; \d.* peak",
        ),
        (ModuleNotFoundError("No module named 'trl'", name="trl"), MISSING, "trl"),
        (ValueError("train.kernels=liger needs a GPU; use plain\nmore"), FAILED, "train.kernels=liger .* use plain"),
    ],
)
def test_a_worker_says_why_a_row_could_not_be_measured(error: Exception, result: str, why: str) -> None:
    def fail(place: int, logps: dict) -> dict:
        raise error

    served = worker.Worker.__new__(worker.Worker)
    served.planned = {"a row": (None, fail), "another": (None, lambda place, logps: {"place": place})}
    found = served.run("a row", 0, {})
    assert found[0] == result and re.fullmatch(why, found[1]) and found[2] == {"held_bytes": 0}
    assert served.run("another", 2, {}) == (OK, "", {"place": 2, "held_bytes": 0})


def test_the_most_valuable_rows_come_first() -> None:
    tasks = [task for task, _ in planned(["gpu", "gpu_mistral"])]
    parts = list(dict.fromkeys(task.part for task in tasks))
    assert parts == ["correctness", "peers", "ablations", "peers, gpu_mistral"]
    names = [task.name for task in tasks if task.part == "peers"]
    assert names[:2] == ["gpu/reference/ultrafeedback", "gpu/ultrafeedback/ours/0"]
    assert names[2].startswith("gpu/ultrafeedback/TRL at its best") and names[8] == "gpu/ultrafeedback/TRL defaults/0"
    assert len(set(task.name for task in tasks)) == len(tasks)
    assert not [task for task in tasks if "float32" in task.name]
    turns = [task.name[-1] for task in tasks if task.part == "ablations"]
    assert turns == sorted(turns) and tasks[-1].part == "ablations", "repeats of the ablation come last"
    assert {task.needs[0] for task in tasks if "liger" in task.name.lower()} == {"liger_kernel"}
    assert {task.seconds for task in tasks if "flex" in task.name or "compiled" in task.name} == {COMPILING}


def test_a_missing_hydra_leaves_the_checks_of_correctness(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "focalpo.config.compose", None)
    tasks = [task for task, _ in planned(["gpu"])]
    assert {task.part for task in tasks[:-1]} == {"correctness"} and tasks[-1].needs == ["focalpo.config.compose"]


def test_a_smaller_size_halves_the_micro_batch_and_then_the_layers() -> None:
    config = compose_bench("gpu", [])
    ours, trl = (next(m for m in measurements.peers(config, []) if m.what == what) for what in (OURS, "trl"))

    def ladder(measurement: measurements.Measurement | None) -> list[str]:
        return [] if measurement is None else [measurement.size, *ladder(measurement.smaller())]

    layers = [f"{tokens} tokens, {count} layers" for tokens, count in [(2048, 4), (2048, 2), (2048, 1)]]
    assert ladder(ours) == [f"{tokens} tokens, 8 layers" for tokens in (16384, 8192, 4096, 2048)] + layers
    assert ladder(trl) == [f"{pairs} pairs, 8 layers" for pairs in (8, 4, 2, 1)] + [
        f"1 pairs, {count} layers" for count in (4, 2, 1)
    ]


def test_only_equal_depths_are_compared_and_repeats_are_a_median() -> None:
    row = partial(Row, "peers", result=OK)

    def figures(rate: float, layers: int = 8) -> dict:
        return {"pairs/s": rate, "peak GB": 1.0, "of matmul": 0.4, "first loss": 0.7, "layers": layers}

    text = table(
        [
            row(name="b/l/ours/0", size="big", figures=figures(10)),
            row(name="b/l/TRL/0", size="big", figures=figures(2)),
            row(name="b/l/TRL/1", size="big", figures=figures(3)),
            row(name="b/l/TRL/2", size="big", figures=figures(4)),
            row(name="b/l/flat/0", size="small", figures=figures(5, layers=4)),
            Row("peers", "b/l/gone/0", "big", MISSING, "trl"),
        ]
    )
    lines = {line.split()[1]: line for line in text.splitlines() if line.startswith("peers")}
    assert lines["ours"].endswith("1.00 x") and lines["TRL"].endswith("3.33 x") and lines["flat"].endswith("0.7000")
    assert re.search(r"b/l/gone/0 +big +missing +trl", text)


def test_the_script_without_any_python_still_writes_a_table(tmp_path: Path) -> None:
    """In a folder without an environment, where the only programs are those that the script itself calls."""
    (tmp_path / "recipes").mkdir()
    (tmp_path / "programs").mkdir()
    (tmp_path / "recipes/bench_gpu.sh").write_text((ROOT / "recipes/bench_gpu.sh").read_text())
    for name in ("bash", "dirname", "mkdir", "tee"):
        (tmp_path / "programs" / name).symlink_to(str(shutil.which(name)))
    environment = {"PATH": str(tmp_path / "programs"), "OUT": str(tmp_path / "out")}
    run = subprocess.run(
        ["bash", "recipes/bench_gpu.sh"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert run.returncode == 1 and "no Python 3.11 or newer" in run.stdout, run.stderr
    assert (tmp_path / "out/table.txt").read_text() == run.stdout


@pytest.mark.slow
def test_the_script_runs_on_a_cpu_and_both_engines_agree(tmp_path: Path) -> None:
    """Everything for real, with TRL, on a tiny model; one process per engine."""
    environment = os.environ | {"BENCH": "tiny", "OUT": str(tmp_path), "PYTHON": sys.executable, "BUDGET": "3600"}
    core = min(os.sched_getaffinity(0))  # two threads that wait for each other gain nothing beside other tests
    script = ["taskset", "--cpu-list", str(core), str(ROOT / "recipes/bench_gpu.sh")]
    run = subprocess.run(script, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    rows = rows_of(tmp_path)
    timed = {name: row for name, (row,) in rows.items() if row["part"] == "peers" and "pairs/s" in row["figures"]}
    peers = {name.split("/")[2]: row["figures"] for name, row in timed.items()}
    labels = [each.label for each in compose_bench("tiny", []).peers.values()]
    assert peers.keys() == {"ours", "ours, FocalPO 0.05", "ours, bfloat16", *labels}
    for word, others, most in (("FocalPO", (), 1e-4), ("bfloat16", (), 1e-2), ("", ("FocalPO", "bfloat16"), 1e-4)):
        alike = [name for name in peers if word in name and not [other for other in others if other in name]]
        losses = [peers[name]["first loss"] for name in alike]
        assert len(losses) > 1 and max(losses) - min(losses) < most, word
    checks = [check for (row,) in rows.values() for check in row["figures"].get("checks", ())]
    assert len(checks) == 9 and all(check["ok"] for check in checks)
