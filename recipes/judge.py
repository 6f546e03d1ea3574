"""Judge one model's completions on every benchmark: verdicts, each request recorded, and the scores of this one run."""

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from focalpo.artifact import Job
from focalpo.judging.alpaca_eval import judge_alpaca
from focalpo.judging.arena_hard import judge_arena
from focalpo.judging.endpoint import Endpoint
from focalpo.judging.protocol import AlpacaProtocol
from focalpo.pocket.world import is_correct
from focalpo.records import AlpacaVerdict, ArenaGame, Completion, Question, read_records, write_records
from recipes.command import run_single
from recipes.opening import protocol_of

START_SECONDS = 30


def make(job: Job) -> dict:
    """Fill the job's folder with `<benchmark>.parquet` (verdicts) and `records.jsonl` (what was asked and answered)."""
    settings = dict(job.launch["endpoint"])
    with _address(settings.pop("base_url")) as address:
        endpoint = Endpoint(base_url=address, records=job.path / "records.jsonl", **settings)
        with endpoint:
            for name, values in job.settings["protocols"].items():
                protocol = protocol_of(values)
                questions = read_records(job.inputs[name] / "questions.parquet", Question)
                completions = read_records(job.inputs["completions"] / f"{name}.parquet", Completion)
                verdicts: Sequence[AlpacaVerdict | ArenaGame]
                if isinstance(protocol, AlpacaProtocol):
                    verdicts = judge_alpaca(questions, completions, protocol, endpoint)
                else:
                    verdicts = judge_arena(questions, completions, protocol, endpoint)
                write_records(job.path / f"{name}.parquet", verdicts)
    return {"calls": asdict(endpoint.counts)} | _gold(job)


def _gold(job: Job) -> dict:
    """Where the world's truth is known, the share of greedy answers that are exactly right, in percent."""
    greedy = job.inputs["completions"] / "greedy.parquet"
    if not greedy.is_file() or any(protocol_of(p).source != "pocket" for p in job.settings["protocols"].values()):
        return {}
    answers = read_records(greedy, Completion)
    right = [is_correct(answer.prompt[-1]["content"], answer.text, answer.finished) for answer in answers]
    return {"gold": {"greedy_success": 100 * sum(right) / len(right)}}


@contextlib.contextmanager
def _address(base_url: str) -> Iterator[str]:
    """The endpoint's address; for `pocket`, of a judge that runs on loopback while the context is open."""
    if not base_url.startswith("pocket"):
        yield base_url
        return
    arguments = base_url.split()[1:]  # e.g. "pocket --faults 429=0.1"
    with tempfile.TemporaryDirectory() as folder:
        ready = Path(folder) / "url"
        judge = [str(os.getpid()), "focalpo.pocket.judge", "--ready-file", str(ready), *arguments]
        command = [sys.executable, "-m", "focalpo.lifeline", *judge]
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        try:
            deadline = time.monotonic() + START_SECONDS
            while not ready.is_file():
                if server.poll() is not None or time.monotonic() > deadline:
                    server.kill()
                    raise ValueError(f"the pocket judge did not start: {server.communicate()[1].strip()}")
                time.sleep(0.01)
            yield ready.read_text()
        finally:
            server.terminate()
            server.wait()


if __name__ == "__main__":
    run_single("judge")
