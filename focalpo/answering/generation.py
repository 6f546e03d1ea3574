"""Generate completions of prompts with one of two backends: Hugging Face or vLLM.

Both receive token ids from the training renderer (`data.tokens.prompt_ids`), never text, so that neither adds a second
BOS or uses another template. Both stop at the same ids and decode without special tokens.
"""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from types import TracebackType

from focalpo.answering.contract import check_answers
from focalpo.answering.engine import Backend, Decoding, Row, Tokens
from focalpo.answering.hugging_face import load_hf
from focalpo.answering.parts import Parts
from focalpo.answering.vllm_engine import load_vllm
from focalpo.data.tokens import prompt_ids
from focalpo.stages.records import Completion, Messages
from focalpo.stages.track import Progress
from focalpo.training.model import ModelSource, load_tokenizer, stop_ids

KEPT_ROWS = 64


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
            load = partial(load_vllm, processes=processes) if backend.name == "vllm" else load_hf
            self.engine = load(source, backend, self.stops)
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
        parts: Parts | None = None,
        progress: Progress | None = None,
    ) -> list[Completion]:
        """Return one completion per prompt, in order; the same seed gives the same answers on the same machine."""
        return [drawn for (drawn,) in self.samples(names, prompts, decoding, [seed], parts, progress)]

    def samples(
        self,
        names: Sequence[str],
        prompts: Sequence[Messages],
        decoding: Decoding,
        seeds: Sequence[int],
        parts: Parts | None = None,
        progress: Progress | None = None,
    ) -> list[list[Completion]]:
        """Return a completion per seed for every prompt, in order.

        Args:
            parts: where the answers of each batch are kept; those that are there already are not made again.
        """
        ids = prompt_ids(self.tokenizer, prompts)
        drawn: dict[int, list[Tokens]] = {}
        made, started = 0, time.monotonic()
        for number, batch in enumerate(self.engine.batches(ids, decoding, len(seeds))):
            answers = parts.read(number, batch, seeds) if parts else None
            if answers is None:
                answers = self.engine.answer([(item, ids[item]) for item in batch], decoding, seeds)
                made += sum(len(row) for group in answers for row in group)
                if parts:
                    parts.write(number, batch, seeds, answers)
            drawn |= zip(batch, answers, strict=True)
            if progress:
                rate = {"tokens/s": made / (time.monotonic() - started)}
                progress(len(drawn) * len(seeds), len(ids) * len(seeds), **rate)
        rows = [(prompt, row) for item, prompt in enumerate(ids) for row in drawn[item]]
        check_answers(self.tokenizer, self.stops, [row for _, row in rows])
        self.first_rows += rows[: KEPT_ROWS - len(self.first_rows)]
        return [
            [self._completion(name, prompt, row) for row in drawn[item]]
            for item, (name, prompt) in enumerate(zip(names, prompts, strict=True))
        ]

    def _completion(self, name: str, prompt: Messages, row: Tokens) -> Completion:
        finished = bool(row) and row[-1] in self.stops
        answer = row[:-1] if finished else row
        text = self.tokenizer.decode(answer, skip_special_tokens=True).strip()
        return Completion(name, prompt, text, len(answer), finished)
