"""Preference pairs: generated, read or downloaded, then validated and rendered to token ids for the model to train.

python -m recipes.pairs setting=llama3_instruct data=on_policy        the model's own answers, rated by a reward model
"""

from collections.abc import Callable, Set
from pathlib import Path

from focalpo.answering.engine import Backend, Decoding
from focalpo.answering.generation import Generator
from focalpo.data.on_policy import SPLITS, best_against_worst
from focalpo.data.schemas import convert
from focalpo.data.sources import FileSource, HubSource, load, prompt_position
from focalpo.data.tokens import Tokenised, answer_trees, by_kind, counted, described, pair_trees
from focalpo.data.trees import write_trees
from focalpo.data.truncation import Limits
from focalpo.data.unpaired import check_labels, convert_unpaired
from focalpo.data.validate import Checked, validate
from focalpo.pocket import datasets as pocket
from focalpo.pocket.benchmarks import benchmark_prompts
from focalpo.running.command import run_single
from focalpo.stages.folder import Job
from focalpo.stages.records import Completion, Pair, Rated, read_records, write_records
from focalpo.training.jobs import source_of
from focalpo.training.model import load_tokenizer, stop_ids
from focalpo.training.positions import check_positions


def make(job: Job) -> dict:
    """Fill the job's folder with `<split>.parquet` (texts) and `<split>_trees.parquet` (token ids)."""
    data = job.settings["data"] | job.launch.get("files", {})
    limits = Limits(data["max_prompt_length"], data["max_length"], data["truncation"])
    source = source_of(job)
    check_positions(source, limits.max_length)
    makers = {"pocket_instruct": pocket_on_policy_pairs, "on_policy": rated_pairs, "instructions": rated_pairs}
    checked = makers[data["source"]](job) if data["source"] in makers else load_pairs(data)
    tokenizer = load_tokenizer(source)
    stops = stop_ids(source, tokenizer)
    counts: dict[str, int] = {}
    dropped = dict(checked.dropped)
    warnings = [f"data: dropped {counted(checked.dropped)}"] if any(checked.dropped.values()) else []
    splits = dict(zip(SPLITS, (checked.train, checked.test), strict=True))
    tokenise = answer_trees if data["source"] == "unpaired" else pair_trees
    tokenised = {split: tokenise(tokenizer, pairs, limits, stops) for split, pairs in splits.items()}
    _check_contract(tokenised, data["on_bad_rows"])
    for split, found in tokenised.items():
        ids = {tree.id for tree in found.trees}
        kept = [pair for pair in splits[split] if pair.id in ids]
        if data["source"] == "unpaired":
            check_labels(kept, split, data["path"])
        write_records(job.path / f"{split}.parquet", kept)
        write_trees(job.path / f"{split}_trees.parquet", found.trees)
        counts |= {split: len(found.trees), f"{split}_cut_prompts": found.cut_prompts}
        counts[f"{split}_cut_answers"] = found.cut_answers
        dropped |= {f"{split}: {kind}": len(names) for kind, names in by_kind(found.problems).items()}
        warnings += found.warnings(f"{split} pairs", limits)
    not_read = {"columns_not_read": list(checked.not_read), "equal_scores": checked.equal_scores}
    return counts | {"dropped": dropped, "warnings": warnings} | not_read


def load_pairs(data: dict) -> Checked:
    """Pairs from the pocket world's writers, a file or the hub."""
    if data["source"] == "pocket_base":
        pairs = lambda noise: pocket.base_pairs(data["prompts"], data["seed"], noise, benchmark_prompts())  # noqa: E731
        return _held_out(_labelled(data, pairs), data["test_fraction"])
    if data["source"] in ("file", "unpaired"):
        test = data["test_path"] and Path(data["test_path"])
        file = FileSource(Path(data["path"]), test, None if test else data["test_fraction"])
        converted = convert_unpaired if data["source"] == "unpaired" else convert
        return load(file, data["on_bad_rows"], data["limit"], data["ignore_columns"], converted)
    test = data["test_split"]
    fraction = None if test else data["test_fraction"]
    hub = HubSource(data["path"], data["revision"], data["train_split"], test, fraction)
    return load(hub, data["on_bad_rows"], data["limit"], data["ignore_columns"])


def rated_pairs(job: Job) -> Checked:
    """Pairs of the model's own answers, best against worst by a reward model or by the instructions they follow."""
    rated = read_records(job.inputs["rated"] / "rated.parquet", Rated)
    return validate(*best_against_worst(rated, job.name), job.settings["data"]["on_bad_rows"])


def pocket_on_policy_pairs(job: Job) -> Checked:
    """Pairs of the policy's own samples, best against worst by a noisy gold rating (recipe of llama3-ultrafeedback)."""
    data = job.settings["data"]
    tasks = pocket.preference_tasks(data["prompts"], data["seed"], benchmark_prompts())
    prompts = [pocket.as_messages(task.prompt) for task in tasks]
    backend = Backend(job.settings["backend"], "float32", 1, 1, job.launch["max_batch_tokens"])
    decoding = Decoding(data["temperature"], 1.0, data["max_length"] - data["max_prompt_length"])
    names = [f"pair-{place}" for place in range(len(prompts)) for _ in range(data["samples"])]
    repeated = [prompt for prompt in prompts for _ in range(data["samples"])]
    seed = job.settings.get("sampling_seed", data["seed"])  # named after the first round, where the prompts' is another
    with Generator(source_of(job), backend) as generator:
        flat = generator.answer(names, repeated, decoding, seed)
    samples: list[list[Completion]] = [flat[i : i + data["samples"]] for i in range(0, len(flat), data["samples"])]
    cut = {(answer.prompt[-1]["content"], answer.text) for answer in flat if not answer.finished}
    pairs = _labelled(data, lambda noise: pocket.rate_samples(samples, seed, noise), cut)
    return _held_out(pairs, data["test_fraction"])


def _labelled(data: dict, made: Callable[[float], list[Pair]], cut: Set[tuple[str, str]] = frozenset()) -> list[Pair]:
    """The pairs `made` with label noise on any of them or, with as many false labels, on hard ones."""
    pairs = made(data["label_noise"])
    if "noise_on" not in data:
        return pairs
    return pocket.hard_labels(made(0.0), sum(bool(pair.mislabelled) for pair in pairs), data["seed"], cut)


def _held_out(pairs: list[Pair], fraction: float) -> Checked:
    test = [pair for pair in pairs if prompt_position(pair.prompt) < fraction]
    ids = {pair.id for pair in test}
    return Checked([pair for pair in pairs if pair.id not in ids], test, {}, {})


def _check_contract(tokenised: dict[str, Tokenised], on_bad_rows: str) -> None:
    """Refuse bad rows of both splits in one message, with on_bad_rows=drop only if a split has no other."""
    bad = {split: found.problems for split, found in tokenised.items() if found.problems}
    empty = any(not tokenised[split].trees for split in bad)
    if bad and (on_bad_rows == "error" or empty):
        found = "; ".join(f"{split} pairs: {described(problems)}" for split, problems in bad.items())
        remedy = "no other is left, use other data" if empty else "fix them or set data.on_bad_rows=drop"
        longer = ", or raise data.max_length and data.max_prompt_length" if "max_" in found else ""
        raise ValueError(f"pairs break the tokens contract, {found}; {remedy}{longer}")


if __name__ == "__main__":
    run_single("pairs")
