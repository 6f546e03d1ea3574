"""Samples: drawn from each answer's own seed, kept in parts, and the same after a kill as without one."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from focalpo.answering import vllm_engine
from focalpo.answering.decoding import decode
from focalpo.answering.engine import Backend, Decoding
from focalpo.answering.generation import Generator
from focalpo.answering.parts import Parts
from focalpo.running.worker import make
from focalpo.stages.folder import CHECKPOINTS, Folder, Stage
from focalpo.stages.records import Completion, Prompt, read_records, write_records
from focalpo.training.model import ModelSource, load_model
from tests.test_generation import NAMES, PROMPTS, generator, write_pocket_model

WARM = Decoding(temperature=1.0, top_p=1.0, max_new_tokens=12)
SEEDS = [3, 5]
BUDGET = 200


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pocket_model(tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize("top_p", [1.0, 0.6])
def test_a_token_is_where_the_cumulated_probabilities_pass_the_draw_of_its_seed(model: Path, top_p: float) -> None:
    made = generator(model)
    weights = load_model(made.source, "float32")
    (found,) = decode(weights, [(7, [5, 6, 9])], Decoding(0.8, top_p, 6), SEEDS, stops=[-1])
    for seed, answer in zip(SEEDS, found, strict=True):
        draws = torch.rand(6, generator=torch.Generator().manual_seed(seed * 1_000_003 + 7), dtype=torch.float64)
        row: list[int] = []
        for draw in draws.tolist():
            with torch.no_grad():
                probabilities = torch.softmax(weights(torch.tensor([[5, 6, 9, *row]])).logits[0, -1] / 0.8, 0).tolist()
            order = list(range(len(probabilities)))
            if top_p < 1:
                order.sort(key=lambda token: -probabilities[token])
                while sum(probabilities[token] for token in order[:-1]) >= top_p:
                    order.pop()
            total, passed = sum(probabilities[token] for token in order), 0.0
            for token in order:
                passed += probabilities[token]
                if passed > draw * total:
                    break
            row.append(token)
        assert answer == row


def test_samples_depend_neither_on_their_batch_nor_on_the_other_seeds(model: Path) -> None:
    together = generator(model).samples(NAMES, PROMPTS, WARM, SEEDS)
    alone = generator(model, max_batch_tokens=60).samples(NAMES, PROMPTS, WARM, SEEDS[1:])
    assert [group[1:] for group in together] == alone
    assert len({drawn.text for group in together for drawn in group}) > len(NAMES)


def test_logits_that_are_not_finite_are_refused(model: Path) -> None:
    weights = load_model(generator(model).source, "float32")
    weights.get_input_embeddings().weight.data.fill_(float("nan"))
    with pytest.raises(ValueError, match="logits are not finite"):
        decode(weights, [(0, [5, 6])], WARM, SEEDS, stops=[-1])


KILLED = """
import os, signal, sys
from pathlib import Path
from focalpo.answering.parts import Parts
from focalpo.running.worker import main
write = Parts.write
def and_die(self, number, *rest):
    write(self, number, *rest)
    if number == 1:
        os.kill(os.getpid(), signal.SIGKILL)
Parts.write = and_die
main(Path(sys.argv[1]))
"""


def sampled(runs: Path, model: Path) -> Stage:
    """A sample stage whose prompts are sealed."""
    prompts = Stage("prompts", "p", {})
    folder = Folder(runs, prompts)
    with folder.being_made() as job:
        rows = [Prompt(name, "train", prompt) for name, prompt in zip(NAMES, PROMPTS, strict=True)]
        write_records(job.path / "prompts.parquet", rows)
        folder.seal(0.0, {})
    source = {"path": str(model), "revision": None, "chat_template": None, "stop_tokens": []}
    decoding = {"temperature": 1.0, "top_p": 1.0, "max_new_tokens": 12}
    settings = {"model": source, "dtype": "float32", "decoding": decoding, "seeds": SEEDS, "backend": "hf"}
    launch = {"tensor_parallel": 1, "data_parallel": 1, "max_batch_tokens": BUDGET}
    return Stage("sample", "s", settings | {"threads": 1}, {"prompts": prompts}, launch)


def test_a_killed_stage_goes_on_after_its_last_part_with_the_same_answers(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = sampled(tmp_path, model)
    folder = Folder(tmp_path, stage)
    with folder.being_made():
        pass
    command = [sys.executable, "-c", KILLED, str(folder.path)]
    done = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    kept = sorted(path.name for path in (folder.path / CHECKPOINTS).iterdir())
    assert kept == ["samples-000000.parquet", "samples-000001.parquet"] and not folder.sealed

    written: list[int] = []
    write = Parts.write

    def and_count(self: Parts, number: int, *rest) -> None:
        written.append(number)
        write(self, number, *rest)

    monkeypatch.setattr(Parts, "write", and_count)
    make(tmp_path, stage)
    with generator(model, max_batch_tokens=BUDGET) as made:
        expected = [drawn for group in made.samples(NAMES, PROMPTS, WARM, SEEDS) for drawn in group]
        batches = len(made.engine.batches([row for row, _ in made.first_rows[::2]], WARM, len(SEEDS)))
    assert written == list(range(2, batches)) and batches > 3
    assert read_records(folder.path / "samples.parquet", Completion) == expected
    assert folder.sealed and not (folder.path / CHECKPOINTS).exists()


def test_parts_that_are_damaged_or_of_other_prompts_are_made_again(model: Path, tmp_path: Path, capsys) -> None:
    with generator(model, max_batch_tokens=BUDGET) as made:
        expected = made.samples(NAMES, PROMPTS, WARM, SEEDS, parts := Parts(tmp_path, "set"))
        first, second, *others = sorted((tmp_path / CHECKPOINTS).iterdir())
        whole = {path: path.read_bytes() for path in (first, second, *others)}
        first.write_bytes(whole[first][:100])
        second.write_bytes(whole[others[0]])
        assert made.samples(NAMES, PROMPTS, WARM, SEEDS, parts) == expected
    assert {path: path.read_bytes() for path in whole} == whole
    assert capsys.readouterr().err.endswith(f"{first} is damaged; its answers are made again\n")


def test_progress_counts_answers_and_shows_the_rate(model: Path) -> None:
    shown: list[tuple[int, int, dict]] = []
    with generator(model, max_batch_tokens=BUDGET) as made:
        made.samples(NAMES, PROMPTS, WARM, SEEDS, None, lambda done, total, **rate: shown.append((done, total, rate)))
    assert [total for _, total, _ in shown] == [2 * len(NAMES)] * len(shown) and len(shown) > 3
    assert [done for done, _, _ in shown] == sorted(done for done, _, _ in shown) and shown[-1][0] == 2 * len(NAMES)
    assert all(rate["tokens/s"] > 0 for _, _, rate in shown)


@pytest.mark.vllm
def test_vllm_too_answers_a_batch_alike_whatever_came_before_it(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm_engine, "AT_ONCE", {True: 20, False: 20})
    source, backend = ModelSource(str(model)), Backend("vllm", "bfloat16", 1, 1, 4096)
    parts = Parts(tmp_path, "set")
    found = []
    for _ in range(2):
        with Generator(source, backend) as made:
            found.append(made.samples(NAMES, PROMPTS, WARM, SEEDS, parts))
        first, *others = sorted((tmp_path / CHECKPOINTS).iterdir())
        assert len(others) == 2
        for path in others:
            path.unlink()  # the second engine has answered nothing before these
    assert found[0] == found[1]
