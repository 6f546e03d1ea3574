"""Generate completions of prompts with one of two backends: Hugging Face `generate` or vLLM.

Both receive token ids from the training renderer (`data.tokens.prompt_ids`), never text, so that neither adds a second
BOS or uses another template. Both stop at the same ids and decode without special tokens.
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
    """The engine that runs the model; `max_batch_tokens` bounds prompt + answer tokens of one Hugging Face batch."""

    name: str
    dtype: str
    tensor_parallel: int
    data_parallel: int
    max_batch_tokens: int


def backend_of(job: Job) -> Backend:
    """The backend of a stage that generates answers."""
    launch = {name: value for name, value in job.launch.items() if name != "track"}
    return Backend(job.settings["backend"], job.settings["dtype"], **launch)


Answerer = Callable[[list[list[int]], Decoding, Sequence[int], Progress], list[list[list[int]]]]
Row = tuple[list[int], list[int]]
"""Token ids of a prompt and of its answer."""


@dataclass(frozen=True, slots=True)
class Engine:
    """A loaded model: maps prompt ids to the ids of an answer per seed, and with vLLM also rows to vLLM's log-probs."""

    answer: Answerer
    logprobs: Callable[[list[Row]], list[list[float]]] | None = None


class Generator:
    """A model that is loaded once, answers any number of prompts, and is released when its context ends.

    `first_rows` keeps the ids of the first prompts and answers, on which the token contract is checked.
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
        del self.engine  # releases Hugging Face's model; vLLM's is gone with its processes

    def answer(
        self,
        names: Sequence[str],
        prompts: Sequence[Messages],
        decoding: Decoding,
        seed: int,
        progress: Progress = lambda done, total: None,
    ) -> list[Completion]:
        """Return one completion per prompt, in order; the same seed gives the same answers on the same machine."""
        return [drawn for (drawn,) in self.samples(names, prompts, decoding, [seed], progress)]

    def samples(
        self,
        names: Sequence[str],
        prompts: Sequence[Messages],
        decoding: Decoding,
        seeds: Sequence[int],
        progress: Progress = lambda done, total: None,
    ) -> list[list[Completion]]:
        """Return a completion per seed for every prompt, in order."""
        ids = prompt_ids(self.tokenizer, prompts)
        drawn = self.engine.answer(ids, decoding, seeds, progress)
        rows = [(prompt, self._until_stop(row)) for prompt, group in zip(ids, drawn, strict=True) for row in group]
        self.first_rows += rows[: KEPT_ROWS - len(self.first_rows)]
        return [
            [self._completion(name, prompt, row) for row in group]
            for name, prompt, group in zip(names, prompts, drawn, strict=True)
        ]

    def _completion(self, name: str, prompt: Messages, row: list[int]) -> Completion:
        row = self._until_stop(row)
        finished = bool(row) and row[-1] in self.stops
        answer = row[:-1] if finished else row
        text = self.tokenizer.decode(answer, skip_special_tokens=True).strip()
        return Completion(name, prompt, text, len(answer), finished)

    def _until_stop(self, row: list[int]) -> list[int]:
        """The answer up to and including its first stop token, without the padding of its batch."""
        end = next((place for place, token in enumerate(row) if token in self.stops), len(row))
        return row[: end + 1]


def _load_hf(source: ModelSource, backend: Backend, tokenizer: PreTrainedTokenizerBase, stops: list[int]) -> Engine:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = load_model(source, backend.dtype).to(device).eval()
    model.generation_config = generation_config(tokenizer, stops)
    pad = model.generation_config.pad_token_id

    def answer(
        prompts: list[list[int]], decoding: Decoding, seeds: Sequence[int], progress: Progress
    ) -> list[list[list[int]]]:
        return [list(drawn) for drawn in zip(*(one(prompts, decoding, seed, progress) for seed in seeds), strict=True)]

    def one(prompts: list[list[int]], decoding: Decoding, seed: int, progress: Progress) -> list[list[int]]:
        torch.manual_seed(seed)
        answers: dict[int, list[int]] = {}
        for items in _batches(prompts, decoding.max_new_tokens, backend.max_batch_tokens):
            longest = max(len(prompts[item]) for item in items)
            rows = [[pad] * (longest - len(prompts[item])) + prompts[item] for item in items]
            mask = [[0] * (longest - len(prompts[item])) + [1] * len(prompts[item]) for item in items]
            output = model.generate(
                input_ids=torch.tensor(rows, device=device),
                attention_mask=torch.tensor(mask, device=device),
                max_new_tokens=decoding.max_new_tokens,
                **_sampling(decoding),
            )
            answers |= zip(items, output[:, longest:].tolist(), strict=True)
            progress(len(answers), len(prompts))
        return [answers[item] for item in range(len(prompts))]

    return Engine(answer)


def _sampling(decoding: Decoding) -> dict:
    if decoding.temperature == 0:
        return {"do_sample": False}
    return {"do_sample": True, "temperature": decoding.temperature, "top_p": decoding.top_p, "top_k": 0}


def _batches(prompts: list[list[int]], new_tokens: int, budget: int) -> list[list[int]]:
    """Group prompts of similar length, longest first, so that memory runs out in the first batch or never."""
    batches: list[list[int]] = []
    for item in sorted(range(len(prompts)), key=lambda item: (-len(prompts[item]), item)):
        if batches and (len(batches[-1]) + 1) * (len(prompts[batches[-1][0]]) + new_tokens) <= budget:
            batches[-1].append(item)
        else:
            batches.append([item])
    return batches


def _load_vllm(source: ModelSource, backend: Backend, stops: list[int], processes: ExitStack) -> Engine:
    # One process per replica, even for a single one. vLLM's offline engine has no data parallelism, and its GPU memory
    # is reliably free only after its process has ended: an engine deleted in the process that next loads the same
    # weights into Hugging Face leaves weights and caches behind (see vllm issue 21073).
    shares = gpu_shares(os.environ.get("CUDA_VISIBLE_DEVICES"), backend.data_parallel, backend.tensor_parallel)
    replicas = [
        processes.enter_context(Apart({"CUDA_VISIBLE_DEVICES": gpus}, _Vllm, source, backend, stops)) for gpus in shares
    ]
    for replica in replicas:
        replica.hear()

    def answer(
        prompts: list[list[int]], decoding: Decoding, seeds: Sequence[int], progress: Progress
    ) -> list[list[list[int]]]:
        # Round-robin, and prompts keep their numbers: an answer does not depend on the number of replicas.
        for first, replica in enumerate(replicas):
            replica.ask("answer", list(enumerate(prompts))[first :: len(replicas)], decoding, seeds)
        answers = [replica.hear() for replica in replicas]
        progress(len(prompts), len(prompts))
        return [answers[item % len(replicas)][item // len(replicas)] for item in range(len(prompts))]

    def logprobs(rows: list[Row]) -> list[list[float]]:
        replicas[0].ask("logprobs", rows)
        return replicas[0].hear()

    return Engine(answer, logprobs)


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


class _Vllm:
    """vLLM's engine for a model, in this process; each prompt carries its number, which seeds its sampling."""

    def __init__(self, source: ModelSource, backend: Backend, stops: list[int]) -> None:
        on_cpu = not torch.cuda.is_available()
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        # No child process: it would outlive a killed stage and hold the GPU's memory.
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
            enforce_eager=on_cpu,  # on a CPU, compilation would take longer than generation
            # vllm-cpu 0.32 rewinds the generator of a partly prefilled prompt, which a CPU generator does not support
            enable_chunked_prefill=not on_cpu,
            disable_log_stats=True,
        )

    def answer(
        self, prompts: list[tuple[int, list[int]]], decoding: Decoding, seeds: Sequence[int]
    ) -> list[list[list[int]]]:
        # One seed per request, so that answers do not depend on how vLLM batches them. The samples of a prompt are
        # neighbours, so that they share the cache of its prefill.
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
            for seed in seeds
        ]
        outputs = self._run([prompt for _, prompt in prompts for _ in seeds], sampling)
        rows = [list(output.outputs[0].token_ids) for output in outputs]
        return [rows[first : first + len(seeds)] for first in range(0, len(rows), len(seeds))]

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
