"""A measurement's result: kept from before, or made now by a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

from focalpo.processes.quiet import cores_each
from focalpo.speed.measurements import Measurement
from focalpo.speed.workload import write
from focalpo.stages.folder import write_json


def measured(folder: Path, measurement: Measurement) -> dict:
    """The measurement's result, kept or made now by a process of its own.

    Raises:
        ValueError: when the process fails; its output is in a log beside the result.
    """
    place = folder / measurement.name.replace("/", "-").replace(" ", "_")
    result, task, log = (place.with_name(place.name + end) for end in (".json", ".task.json", ".log"))
    if not result.is_file():
        write(measurement.workload, workload := place.with_name(place.name + ".workload.json"))
        paths = {"workload": str(workload), "result": str(result)}
        if measurement.reference:
            name = measurement.reference.replace("/", "-").replace(" ", "_")
            paths["reference"] = str(folder / f"{name}.json")
        write_json(task, {"what": measurement.what, **measurement.fields, **paths})
        many = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={measurement.ranks}"]
        command = [sys.executable, *(many if measurement.ranks > 1 else []), "-m", "focalpo.speed.run", str(task)]
        environment = os.environ | {"OMP_NUM_THREADS": str(cores_each(measurement.ranks))}
        with log.open("w") as file:
            failed = subprocess.run(command, stdout=file, stderr=file, env=environment).returncode
        if failed:
            said = log.read_text().strip().splitlines()[-1:]
            raise ValueError(": ".join([f"{measurement.name} failed, see the end of {log}", *said]))
    return json.loads(result.read_text())
