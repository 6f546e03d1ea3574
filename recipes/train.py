"""Train one policy on preference pairs with one objective.

python -m recipes.train objective=dpo seed=2
python -m recipes.train experiment=pocket/dpo lora=rank16 train.learning_rate=2e-3
python -m recipes.train setting=files data.path=pairs.jsonl objective=focalpo objective.gamma=0.1
"""

import pyarrow.parquet as pq

from focalpo.config.compose import objective_of
from focalpo.data.trees import read_trees, with_mismatched
from focalpo.running.command import run_single
from focalpo.running.tracking import tracker_of
from focalpo.stages.author_runs import must_fit
from focalpo.stages.folder import CHECKPOINTS, Job
from focalpo.stages.records import Pair, read_records
from focalpo.training import checkpoint
from focalpo.training.engine import Examples, open_engine, partitioned_loading, start_ranks, train
from focalpo.training.jobs import source_of, train_settings_of
from focalpo.training.logprobs import PackedPolicy
from focalpo.training.lora import add_adapters, merge
from focalpo.training.model import generation_config, load_model, load_tokenizer, stop_ids
from focalpo.training.moved import content, must_move, rounding_warnings
from focalpo.training.ranks import device
from focalpo.training.settings import DENSE, LoraSettings
from focalpo.training.unpaired import is_unpaired, weight_advice
from focalpo.training.watch import Watch


def make(job: Job) -> dict:
    """Fill the job's folder with `model/`, `dynamics.parquet`, `metrics.jsonl` and `evaluation.jsonl`."""
    if job.launch.get("anchors"):
        must_fit(job.path.parents[1] / job.launch["anchors"])
    start_ranks()
    settings = train_settings_of(job)
    source = source_of(job)
    objective = objective_of(job.settings["objective"])
    trees = read_trees(job.inputs["pairs"] / "train_trees.parquet")
    warnings = weight_advice(trees, objective.chosen_weight, objective.rejected_weight) if is_unpaired(trees) else []
    mismatched = with_mismatched(trees) if "mismatched" in objective.batch_branches else []
    lora = LoraSettings(**job.settings["lora"]) if "lora" in job.settings else None
    with partitioned_loading(settings):
        model = load_model(source, settings.dtype, device(), lora.quantization if lora else DENSE)
    start = content(model.parameters())
    adapters = add_adapters(model, lora, job.settings["seed"]) if lora else None
    engine = open_engine(PackedPolicy(model), settings)
    with tracker_of(job) as tracker, must_move(engine):
        watch = Watch(
            trees[: job.settings["dynamics"]["train_pairs"]],
            read_trees(job.inputs["pairs"] / "test_trees.parquet"),
            _mislabelled(job),
            job.settings["dynamics"]["every"],
            settings.micro_batch_tokens,
            job.path,
            objective,
            tracker,
        )
        train(
            engine,
            objective,
            Examples(trees, _reference(job), mismatched),
            settings,
            seed=job.settings["seed"],
            checkpoints=job.path / CHECKPOINTS,
            tracker=tracker,
            watch=watch,
        )
        if tracker is not None:
            tracker.summary(watch.summary())
    if adapters is not None:
        merge(adapters)
    warnings += rounding_warnings(start, model)
    tokenizer = load_tokenizer(source)
    card = checkpoint.model_card(job.name, job.settings, source.path)
    stops = stop_ids(source, tokenizer)
    checkpoint.export(engine, tokenizer, generation_config(tokenizer, stops), job.path / "model", card)
    return {"pairs": len(trees), "warnings": warnings} | watch.summary()


def _reference(job: Job) -> dict[str, list[float]]:
    """Cached log-probs by branch, in the order of the training pairs."""
    logps = {}
    for name in ("reference", "reference_batch"):
        if name in job.inputs:
            logps |= pq.read_table(job.inputs[name] / "logps.parquet").to_pydict()
    logps.pop("id", None)
    return logps


def _mislabelled(job: Job) -> dict[str, bool | None]:
    files = [job.inputs["pairs"] / f"{split}.parquet" for split in ("train", "test")]
    return {pair.id: pair.mislabelled for file in files for pair in read_records(file, Pair)}


if __name__ == "__main__":
    run_single("train")
