"""One rank of a stage that torchrun makes: `python -m recipes.rank STAGE_FOLDER`."""

import os
import sys
from pathlib import Path

from focalpo.artifact import Job
from focalpo.training.ranks import barrier
from recipes.worker import recipe

if __name__ == "__main__":
    recipe(Job.read(Path(sys.argv[1])))
    barrier()
    sys.stdout.flush()
    sys.stderr.flush()
    # gloo's threads may still hold Python objects while the interpreter shuts down, which aborts the process now and
    # then after all work is done and on disk; leaving without the shutdown does not.
    os._exit(0)
