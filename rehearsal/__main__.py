"""The dress rehearsal of a table: every row, name and step of it, on stand-ins, then a look at what came out.

python -m rehearsal                       table=paper, all rows
python -m rehearsal rows=sft,dpo          fewer rows
python -m rehearsal --diff                what a rehearsal changes, and nothing is run
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from focalpo.config import CONF, compose_table
from recipes.command import explained
from recipes.quiet import cores_each, quiet
from recipes.reproduce import compose_rows, split_arguments, with_rows
from rehearsal.check import checked
from rehearsal.differences import HARDWARE, changes, described, protocol_changes
from rehearsal.hub import serving
from rehearsal.stage import build, endpoints, environment, judge

RUNS = CONF.parent / "runs" / "rehearsal"


def rehearse(arguments: list[str]) -> None:
    """Run the table that the arguments ask for; its folder is emptied first, a rehearsal starts from nothing.

    Raises:
        ValueError: when the run fails, or what it left behind is not a whole table on a whole chain.
    """
    quiet(cores_each(1))
    only_difference = "--diff" in arguments
    own, overrides = split_arguments([each for each in arguments if each != "--diff"])
    table = with_rows(compose_table(own.setdefault("table", "paper")), own)
    paper = compose_rows(table, overrides)
    runs = Path(next((each.removeprefix("runs=") for each in overrides if each.startswith("runs=")), RUNS)).resolve()
    with tempfile.TemporaryDirectory(prefix="rehearsal-") as name:
        folder = Path(name)
        repositories = build(paper.values(), folder / "hub")
        first = next(iter(paper.values()))
        with serving(list(repositories.values())) as hub, judge(folder) as address:
            changed = [f"{key}={value}" for key, value in HARDWARE.items()]
            changed += endpoints(first, repositories.values(), folder / "eval", address)
            rehearsed = compose_rows(table, [*overrides, *changed, f"runs={runs}"])
            print(f"what differs from the {table.scale} scale, over all rows")
            print(described(changes(paper, rehearsed)))
            for protocol in first.judge.benchmarks.values():
                differs = protocol_changes(protocol, folder / "eval")
                print(f"  protocol  {protocol:32} " + ", ".join(differs))
            if only_difference:
                return
            shutil.rmtree(runs, ignore_errors=True)
            started = time.monotonic()
            told = [f"{key}={value}" for key, value in own.items()]
            command = [sys.executable, "-m", "recipes.reproduce", *told, *overrides, *changed, f"runs={runs}"]
            key = first.judge.endpoint.api_key_env
            ended = subprocess.run(command, env=environment(hub, folder / "home", key), cwd=CONF.parent)
            if ended.returncode:
                raise ValueError(f"the rehearsal stopped with status {ended.returncode}, its stages are in {runs}")
            print(checked(runs, table))
            print(f"rehearsed in {(time.monotonic() - started) / 60:.1f} min on {os.cpu_count()} cores")


if __name__ == "__main__":
    explained(lambda: rehearse(sys.argv[1:]))
