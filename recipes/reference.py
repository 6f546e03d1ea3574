"""Compute the reference log-probs of every training pair once for all objectives, seeds and sweeps."""

import pyarrow as pa
import pyarrow.parquet as pq

from focalpo.data.trees import read_trees, with_mismatched
from focalpo.running.tracking import tracker_of
from focalpo.stages.folder import Job
from focalpo.training.engine import start_ranks
from focalpo.training.jobs import source_of, unpinned
from focalpo.training.logprobs import PackedPolicy
from focalpo.training.model import load_model
from focalpo.training.ranks import device, rank
from focalpo.training.scoring import score


def make(job: Job) -> dict:
    """Fill the job's folder with `logps.parquet`: the id and one column per branch, in nats."""
    start_ranks()
    # Every rank holds the whole frozen model: without optimizer and gradients 8B parameters are 16 GB in bf16.
    source = source_of(job)
    policy = PackedPolicy(load_model(source, job.settings["dtype"])).to(device()).eval()
    branches = tuple(job.settings["branches"])
    trees = read_trees(job.inputs["pairs"] / "train_trees.parquet")
    if "mismatched" in branches:
        trees = with_mismatched(trees)
    with tracker_of(job) as tracker:
        progress = tracker.progress if tracker else lambda done, total: None
        logps = score(policy, trees, branches, job.launch["micro_batch_tokens"], progress)
    if rank() == 0:
        pq.write_table(pa.table({"id": [tree.id for tree in trees], **logps}), job.path / "logps.parquet")
    return {"pairs": len(trees), "warnings": unpinned(source)}
