"""What the benchmark measures: a configuration in, the processes to run out, in a fair order.

Contenders take turns (A B C A B C ...), so that a change of the machine's speed affects all of them alike.
"""

import random
from collections.abc import Iterator, Sequence, Sized
from dataclasses import asdict, dataclass, field, replace

from focalpo.config.bench import BenchSettings, PeerSettings, Shape
from focalpo.data.trees import Tree
from focalpo.speed.switches import Switches
from focalpo.speed.workload import Workload, draw, shape_of, tokens_of
from focalpo.training.settings import TrainSettings

OURS = "ours"
EVERYTHING = Switches()
# The ablation runs on the first distribution of lengths; each variant is the whole engine without one speed-up.
VARIANTS = {
    "without packing": Switches(packing=False),
    "without shared prompts": Switches(share_prompts=False),
    "without cached reference": Switches(cached_reference=False),
    "without chunked head": Switches(chunked_head=False),
    "without balanced planning": Switches(balanced=False),
}
# Packages without which a measurement cannot run.
ENGINES = {OURS: ("deepspeed",), "trl": ("trl", "datasets")}
KERNELS = {"liger": ("liger_kernel",), "flash_3": ("flash_attn_interface",)}
SMALLEST_TOKENS = 2048  # of a micro-batch that did not fit and is halved
TripleLengths = list[tuple[int, int, int]]
Pairs = Sequence[Tree]


@dataclass(frozen=True, slots=True)
class Measurement:
    """One process: `what` focalpo/speed/run.py runs, on which workload; `reference` names the measurement that computes
    its reference log-probs."""

    name: str
    what: str
    workload: Workload
    fields: dict = field(default_factory=dict)
    reference: str | None = None
    ranks: int = 1

    @property
    def size(self) -> str:
        """What decides its memory, in words."""
        layers = f", {self.workload.shape.num_hidden_layers} layers"
        if self.what == "trl":
            return f"{self.fields['settings']['micro_batch']} pairs{layers}"
        return f"{self.workload.train.micro_batch_tokens} tokens{layers}"

    @property
    def needs(self) -> list[str]:
        """The packages that it imports, beside torch and transformers."""
        settings, switches = (self.fields.get(name, {}) for name in ("settings", "switches"))
        chosen = self.workload.train.kernels, switches.get("attention"), settings.get("liger") and "liger"
        return [name for kernel in chosen for name in KERNELS.get(kernel, ())] + list(ENGINES.get(self.what, ()))

    def smaller(self) -> "Measurement | None":
        """The same with half the micro-batch, or, where that is at its smallest, with half the layers; None at one."""
        train, shape = self.workload.train, self.workload.shape
        if self.what == "trl" and (pairs := self.fields["settings"]["micro_batch"]) > 1:
            return replace(self, fields={"settings": self.fields["settings"] | {"micro_batch": pairs // 2}})
        if self.what != "trl" and train.micro_batch_tokens > SMALLEST_TOKENS:
            return replace(self, workload=_with(self.workload, micro_batch_tokens=train.micro_batch_tokens // 2))
        if shape.num_hidden_layers == 1:
            return None
        shallower = replace(shape, num_hidden_layers=shape.num_hidden_layers // 2)
        return replace(self, workload=replace(self.workload, shape=shallower))


def measurements(config: BenchSettings, real: Pairs) -> list[Measurement]:
    """All processes of the requested parts; a reference comes before the measurements that read it."""
    parts = {"peers": peers, "ablations": ablations, "growth": growth}
    found = [m for part in config.parts if part in parts for m in parts[part](config, real)]
    return list({measurement.name: measurement for measurement in found}.values())


def workloads(config: BenchSettings, real: Pairs) -> dict[str, Workload]:
    """One workload for each distribution of lengths; for a released model one, of the real pairs.

    Raises:
        ValueError: when there are fewer real pairs than to train on, or the model's folder has no usable configuration.
    """
    pairs = config.train.global_batch * (config.steps + 1)
    if config.model is not None:
        tokens = tokens_of(_sampled(config, real, pairs))
        shape = shape_of(config.model)
        load = Workload(shape, [], config.train, config.steps, config.seed, model=config.model, tokens=tokens)
        return {"real": load}
    drawn = {name: draw(each, pairs, config.scale, config.seed) for name, each in config.lengths.items()}
    if real:
        drawn["real"] = lengths_of(_sampled(config, real, pairs), config.scale)
    return {name: Workload(config.shape, each, config.train, config.steps, config.seed) for name, each in drawn.items()}


def _sampled(config: BenchSettings, real: Pairs, count: int) -> list[Tree]:
    """Some of the real pairs that are short enough, from the whole file: neighbours may share a prompt."""
    longest = max(each.longest for each in config.lengths.values())
    fitting = [tree for tree in real if len(tree.prompt) + max(map(len, tree.branches.values())) <= longest]
    if len(fitting) < count:
        raise ValueError(f"pairs_file has {len(fitting)} pairs that are short enough, {count} are needed; lower steps")
    return random.Random(config.seed).sample(fitting, count)


def lengths_of(trees: Pairs, scale: float) -> TripleLengths:
    """Real lengths, scaled like the drawn ones."""

    def scaled(ids: Sized) -> int:
        return max(1, round(len(ids) * scale))

    return [(scaled(each.prompt), scaled(each.branches["chosen"]), scaled(each.branches["rejected"])) for each in trees]


def peers(config: BenchSettings, real: Pairs) -> Iterator[Measurement]:
    """This engine and each of TRL's settings, on every distribution of lengths; in the dtypes and losses of these
    settings, too, so that each has its like beside it."""
    for lengths, workload in workloads(config, real).items():
        contenders: dict[str, tuple[Workload, PeerSettings | None]] = {OURS: (workload, None)}
        for settings in config.peers.values():
            like = replace(_with(workload, dtype=settings.dtype or config.train.dtype), gamma=settings.gamma)
            contenders |= {_own_name(like, workload): (like, None), settings.label: (like, settings)}
        for dtype in dict.fromkeys(load.train.dtype for load, _ in contenders.values()):
            yield Measurement(_reference(lengths, dtype, config), "reference", _with(workload, dtype=dtype))
        for turn in range(config.repeats):
            for name, (load, peer) in contenders.items():
                key, reference = f"{lengths}/{name}/{turn}", _reference(lengths, load.train.dtype, config)
                if peer is None:
                    yield _ours(key, load, reference)
                else:
                    yield Measurement(key, "trl", load, {"settings": asdict(peer)}, reference)


def _own_name(workload: Workload, base: Workload) -> str:
    loss = [f"FocalPO {workload.gamma:g}"] if workload.gamma else []
    dtype = [workload.train.dtype] if workload.train.dtype != base.train.dtype else []
    return ", ".join([OURS, *loss, *dtype])


def _reference(lengths: str, dtype: str, config: BenchSettings) -> str:
    return f"reference/{lengths}" + (f" in {dtype}" if dtype != config.train.dtype else "")


def ablations(config: BenchSettings, real: Pairs) -> Iterator[Measurement]:
    """The engine with each speed-up switched off, and whether a number changes."""
    lengths, workload = next(iter(workloads(config, real).items()))
    reference = f"reference/{lengths}"
    yield Measurement(reference, "reference", workload)
    variants = {name: asdict(switches) for name, switches in VARIANTS.items()}
    yield Measurement("exactness", "exactness", workload, {"variants": variants}, reference)
    for turn in range(config.repeats):
        yield _ours(f"ablation/everything on/{turn}", workload, reference)
        for name, switches in VARIANTS.items():
            yield _ours(f"ablation/{name}/{turn}", workload, reference, switches)
        if config.train.dtype == "float32":  # the other way round, a GPU would compute without its matrix units
            yield _ours(f"ablation/in bfloat16/{turn}", _with(workload, dtype="bfloat16"), reference)
        for attention in config.attention:
            yield _ours(
                f"ablation/with {attention} attention/{turn}", workload, reference, Switches(attention=attention)
            )
        for kernels in config.kernels:
            yield _ours(f"ablation/with {kernels} kernels/{turn}", _with(workload, kernels=kernels), reference)


def growth(config: BenchSettings, real: Pairs) -> Iterator[Measurement]:
    """Vary one quantity at a time on a smaller model; all sequences have one length, a quarter of it the prompt."""
    axes = config.growth
    base = _even(config, axes.shape, length=1024, pairs=8)
    for length in axes.sequence_lengths:
        yield from _point(f"growth/sequence length/{length}", _even(config, axes.shape, length, pairs=2))
    for pairs in axes.pairs:
        yield from _point(f"growth/pairs per batch/{pairs}", _even(config, axes.shape, 1024, pairs))
    for size in axes.vocabularies:
        yield from _point(f"growth/vocabulary/{size}", replace(base, shape=replace(axes.shape, vocab_size=size)))
    for stage in axes.zero_stages:
        for ranks in axes.ranks:
            yield from _point(f"growth/ZeRO-{stage} ranks/{ranks}", _with(base, zero_stage=stage), ranks)


def _point(name: str, workload: Workload, ranks: int = 1) -> Iterator[Measurement]:
    reference = f"{name}/reference"
    yield Measurement(reference, "reference", workload)
    yield replace(_ours(name, workload, reference), ranks=ranks)


def _ours(name: str, workload: Workload, reference: str, switches: Switches = EVERYTHING) -> Measurement:
    return Measurement(name, OURS, workload, {"switches": asdict(switches)}, reference)


def _even(config: BenchSettings, shape: Shape, length: int, pairs: int) -> Workload:
    response = length * 3 // 8
    train = replace(config.train, global_batch=pairs, micro_batch_tokens=max(length, config.train.micro_batch_tokens))
    lengths = [(length - 2 * response, response, response)] * (pairs * (config.steps + 1))
    return Workload(shape, lengths, train, config.steps, config.seed)


def _with(workload: Workload, **changes: object) -> Workload:
    train: TrainSettings = replace(workload.train, **changes)  # type: ignore[arg-type]  # mypy types the values as one
    return replace(workload, train=train)
