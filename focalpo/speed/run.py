"""One measurement of the benchmark in a separate process: python -m focalpo.speed.run TASK.json

A task names what to run, the workload, and where the result goes; with several ranks, rank 0 writes it.
"""

import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path

from focalpo.config.bench import PeerSettings
from focalpo.processes.lifeline import leave
from focalpo.processes.quiet import quiet
from focalpo.speed import ours
from focalpo.speed.switches import Switches
from focalpo.speed.workload import Workload, read
from focalpo.stages.cores import cores_each
from focalpo.stages.folder import write_json
from focalpo.training.ranks import rank, world


def reference(workload: Workload, fields: dict, cached: ours.Reference) -> dict:
    started = time.perf_counter()
    logps = ours.reference(workload)
    return {"logps": logps, "seconds": time.perf_counter() - started}


def engine(workload: Workload, fields: dict, cached: ours.Reference) -> dict:
    return asdict(ours.measure(workload, cached, Switches(**fields["switches"])))


def trl(workload: Workload, fields: dict, cached: ours.Reference) -> dict:
    from focalpo.speed import peer

    return asdict(peer.measure(workload, cached, PeerSettings(**fields["settings"])))


def exactness(workload: Workload, fields: dict, cached: ours.Reference) -> dict:
    """Largest difference of losses and gradients from those with every speed-up on.

    The differences of gradients are relative to the largest gradient.
    """
    losses, gradients = ours.gradients(workload, cached, Switches())
    largest = max(float(gradient.abs().max()) for gradient in gradients)
    differences = {}
    for name, switches in fields["variants"].items():
        others, theirs = ours.gradients(workload, cached, Switches(**switches))
        apart = max(float((a - b).abs().max()) for a, b in zip(gradients, theirs, strict=True))
        differences[name] = {"loss": float((losses - others).abs().max()), "gradient": apart / largest}
    return differences


WHAT = {"reference": reference, "ours": engine, "trl": trl, "exactness": exactness}


def main(path: Path) -> None:
    """Run the task; its result file appears complete or not at all."""
    quiet(cores_each(int(os.environ.get("LOCAL_WORLD_SIZE", 1))))
    task = json.loads(path.read_text())
    cached = json.loads(Path(task["reference"]).read_text())["logps"] if "reference" in task else {}
    result = WHAT[task["what"]](read(Path(task["workload"])), task["fields"], cached)
    if rank() == 0:
        write_json(Path(task["result"]), result | {"ranks": world()})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    leave()
