"""One rank of a stage that torchrun makes: `python -m recipes.rank STAGE_FOLDER`."""

import os
import sys
from pathlib import Path

from focalpo.artifact import Job, write_json
from focalpo.training.ranks import barrier, rank
from recipes.quiet import quiet
from recipes.worker import FACTS, recipe

if __name__ == "__main__":
    job = Job.read(Path(sys.argv[1]))
    quiet(int(os.environ["OMP_NUM_THREADS"]))
    try:
        facts = recipe(job)
    except ValueError as error:
        sys.exit(f"error: {error}")
    if rank() == 0:
        write_json(job.path / FACTS, facts)
    barrier()
    sys.stdout.flush()
    sys.stderr.flush()
    # gloo's threads may still hold Python objects while the interpreter shuts down, which aborts the process now and
    # then after all work is done and on disk; leaving without the shutdown does not.
    os._exit(0)
