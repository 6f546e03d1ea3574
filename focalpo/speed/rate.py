"""The rate of training steps on this machine, beside the plan's estimate of the same steps.

A process measures one rank; the time that ranks wait for each other is not counted.
"""

import os
import time
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.synchronize import Barrier

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from focalpo.data.trees import Ids, Tree
from focalpo.processes.quiet import quiet_worker
from focalpo.speed.flops import synchronize
from focalpo.speed.measured import forget_peak, peak_bytes
from focalpo.stages.cores import cores_each
from focalpo.training.cost import Batch, Shape, training_operations
from focalpo.training.engine import open_engine, start_ranks
from focalpo.training.logprobs import PackedPolicy
from focalpo.training.memory import training_memory
from focalpo.training.model import DTYPES
from focalpo.training.packing import MicroBatch, pack
from focalpo.training.ranks import device, world
from focalpo.training.settings import TrainSettings

BRANCHES = ("chosen", "rejected")
SECONDS = 3.0  # of timed steps, at least LEAST_STEPS of them
LEAST_STEPS = 3
MICRO_STEPS = 2  # of a step: at the second one's peak the gradients of the first are allocated
TINY = Shape(layers=1, hidden=64, intermediate=64, heads=2, kv_heads=2, vocabulary=64, tied=False)

What = tuple[Shape, int, int, int, TrainSettings]


def measure_side_by_side(count: int, what: What) -> list[dict]:
    """Measure in `count` processes, each with its share of the cores, which start their timed steps together."""
    spawn = get_context("spawn")
    together, pipes = spawn.Barrier(count), []
    for _ in range(count):
        ours, theirs = spawn.Pipe(duplex=False)
        arguments = (theirs, together, os.getpid(), cores_each(count), what)
        spawn.Process(target=_beside_others, args=arguments, daemon=True).start()
        theirs.close()
        pipes.append(ours)
    measured: list[dict] = []
    try:
        while pipes:
            ready = wait(pipes)
            measured += [pipe.recv() for pipe in pipes if pipe in ready]
            pipes = [pipe for pipe in pipes if pipe not in ready]
    except EOFError:  # the others wait for it at the barrier, and end with this process
        raise ValueError("a measuring process died (out of memory?); lower launch.workers") from None
    return measured


def _beside_others(pipe: Connection, together: Barrier, maker: int, cores: int, what: What) -> None:
    quiet_worker(maker, cores)
    pipe.send(measure(*what, together.wait))


def measure(
    shape: Shape,
    prompt: int,
    answer: int,
    trees: int,
    settings: TrainSettings,
    ready: Callable[[], object] = lambda: None,
) -> dict:
    """Measure peak bytes and seconds of a step of two micro-steps, each of `trees` pairs of random tokens, beside the
    plan's estimates.

    The first step allocates memory and Adam's moments: it is not timed, and `ready` is called after it.
    """
    start_ranks()
    _take_steps(_engine(TINY, settings), _micro_batch(TINY, 2, 2, 1), 2)  # loads what libraries load once
    batch = Batch(trees * (prompt + 2 * answer), trees * 2 * answer)
    before = forget_peak()
    engine, micro = _engine(shape, settings), _micro_batch(shape, prompt, answer, trees)
    _take_steps(engine, micro, 1)
    ready()
    steps, started = 0, time.perf_counter()
    while steps < LEAST_STEPS or time.perf_counter() < started + SECONDS:
        _take_steps(engine, micro, 1)
        steps += 1
    seconds = (time.perf_counter() - started) / steps
    recompute = settings.activation_checkpointing
    kind, how = device().type, (settings.dtype, settings.zero_stage, world(), recompute)
    offload = settings.offload_optimizer
    memory = training_memory(shape, batch, *how, kind, optimizer=settings.optimizer, offload=offload)
    operations = MICRO_STEPS * training_operations(shape, batch, prompt + answer / 2, recompute)
    return {
        "parameters": shape.parameters,
        "estimated_bytes": memory.total + (memory.host if kind == "cpu" else 0),
        "moment": memory.peak.moment,
        "parts": memory.peak.parts,
        "measured_bytes": peak_bytes() - before,
        "operations": operations,
        "seconds": seconds,
        "operations_per_second": operations / seconds,
    }


def _engine(shape: Shape, settings: TrainSettings):
    model = LlamaForCausalLM(_llama(shape)).to(device(), DTYPES[settings.dtype])
    return open_engine(PackedPolicy(model), settings)


def _micro_batch(shape: Shape, prompt: int, answer: int, trees: int) -> MicroBatch:
    draw = torch.Generator().manual_seed(1)
    return pack([_tree(shape.vocabulary, prompt, answer, draw, place) for place in range(trees)], BRANCHES)


def _take_steps(engine, micro: MicroBatch, count: int) -> None:
    for _ in range(count):
        for micro_step in range(1, MICRO_STEPS + 1):
            logps = engine(micro.to(device()))
            engine.set_gradient_accumulation_boundary(micro_step == MICRO_STEPS)
            engine.backward(logps.sum() / (MICRO_STEPS * micro.trees))
        engine.step()
        synchronize(device())


def _tree(vocabulary: int, prompt: int, answer: int, draw: torch.Generator, place: int) -> Tree:
    def ids(count: int) -> Ids:
        return torch.randint(3, vocabulary, (count,), generator=draw, dtype=torch.int32).numpy()

    return Tree(str(place), ids(prompt), {branch: ids(answer) for branch in BRANCHES})


def _llama(shape: Shape) -> LlamaConfig:
    return LlamaConfig(
        num_hidden_layers=shape.layers,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        vocab_size=shape.vocabulary,
        tie_word_embeddings=shape.tied,
    )
