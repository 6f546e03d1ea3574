"""The result of a measurement: read if it is on disk, else measured in a separate process."""

import json
import os
import subprocess
import sys
from pathlib import Path

from focalpo.speed.measurements import Measurement
from focalpo.speed.workload import write
from focalpo.stages.cores import cores_each
from focalpo.stages.folder import write_json


def measured(folder: Path, measurement: Measurement) -> dict:
    """Return the measurement's result; if it is not on disk, measure it in a separate process.

    Raises:
        ValueError: when the process fails; its output is in a log file beside the result.
    """
    stem = folder / measurement.name.replace("/", "-").replace(" ", "_")
    result, task, log = (stem.with_name(stem.name + end) for end in (".json", ".task.json", ".log"))
    if not result.is_file():
        write(measurement.workload, workload := stem.with_name(stem.name + ".workload.json"))
        paths = {"workload": str(workload), "result": str(result)}
        if measurement.reference:
            name = measurement.reference.replace("/", "-").replace(" ", "_")
            paths["reference"] = str(folder / f"{name}.json")
        write_json(task, {"what": measurement.what, "fields": measurement.fields, **paths})
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={measurement.ranks}"]
        command = [sys.executable, *(launcher if measurement.ranks > 1 else []), "-m", "focalpo.speed.run", str(task)]
        environment = os.environ | {"OMP_NUM_THREADS": str(cores_each(measurement.ranks))}
        with log.open("w") as file:
            failed = subprocess.run(command, stdout=file, stderr=file, env=environment).returncode
        if failed:
            last_line = log.read_text().strip().splitlines()[-1:]
            raise ValueError(": ".join([f"{measurement.name} failed, see the end of {log}", *last_line]))
    return json.loads(result.read_text())
