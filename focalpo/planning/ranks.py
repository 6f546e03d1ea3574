"""How many processes run a stage; apart from needs.py, because submitting needs nothing else of it."""

from focalpo.stages.folder import Stage


def ranks_of(stage: Stage) -> int:
    """The number of processes that run the stage in parallel, each with its own GPU."""
    launch = stage.launch
    return launch.get("ranks", 1) * launch.get("tensor_parallel", 1) * launch.get("data_parallel", 1)
