"""Annotations in the benchmarks' own formats: score files that others wrote, or write a judge stage's for others.

python -m recipes.annotations annotations/*.json.gz --gamed df_gamed.csv
python -m recipes.annotations annotations/ --gamed df_gamed.csv --questions alpaca_eval_gpt4_baseline.json
python -m recipes.annotations runs/judge/NAME-KEY --out FOLDER --name MODEL

Files of AlpacaEval, or folders that contain them, are scored as its leaderboard does: WR, its standard error, discrete
WR and LC. Without --gamed, the benchmark's df_gamed.csv, LC is not computed. With --questions, the benchmark's file of
instructions, rows may be missing or in any order; without it they must be complete, in order.

With --out, what a sealed judge stage holds is written as the benchmarks' own code writes it and reads it back:

    FOLDER/alpaca_eval/MODEL/model_outputs.json
    FOLDER/alpaca_eval/MODEL/ANNOTATOR/annotations.json, leaderboard.csv
    FOLDER/arena_hard/model_answer/MODEL.jsonl
    FOLDER/arena_hard/model_judgment/JUDGE/MODEL.jsonl

MODEL is the stage's name, or the one that a file of answers gave, without --name.
"""

import calendar
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from focalpo.judging.answer_files import alpaca_outputs, arena_answers
from focalpo.judging.earlier import RECORDS
from focalpo.judging.protocol import AlpacaProtocol, ArenaProtocol, CheckedProtocol
from focalpo.judging.read_back import read_replies
from focalpo.judging.requests import protocol_of
from focalpo.judging.upstream import with_prompt
from focalpo.judging.verdict_files import Judged, alpaca_annotations, annotator_name, arena_judgments, file_name
from focalpo.running.command import run_command
from focalpo.running.words import annotations_of
from focalpo.scoring.annotations import as_leaderboard, read_annotations, read_instructions, score
from focalpo.scoring.length_control import Gamed, read_gamed
from focalpo.stages.folder import Job, read_manifest, verify
from focalpo.stages.reading import read_json
from focalpo.stages.records import AlpacaVerdict, ArenaGame, Completion, Question, listed, read_records


def main() -> None:
    """Print one line per file; with --out, first write the files."""
    arguments = annotations_of(sys.argv[1:])
    if arguments.out:
        for path in write_judged(arguments.files[0], arguments.out, arguments.name):
            print(path)
        return
    gamed = read_gamed(arguments.gamed) if arguments.gamed else None
    asked = read_instructions(arguments.questions) if arguments.questions else None
    print(f"{'file':32} {'WR':>11} {'SE':>9} {'discrete':>11} {'LC':>9} {'judged':>7}")
    for path in _files(arguments.files):
        _print_scores(path, asked, gamed)


def write_judged(stage: Path, out: Path, name: str | None = None) -> list[Path]:
    """Write a sealed judge stage's answers and verdicts, by benchmark; returns the files.

    Raises:
        ValueError: when the folder is no sealed judge stage, or it or one of its inputs differs from its manifest.
    """
    job = Job.read(stage)
    if job.kind != "judge":
        raise ValueError(f"{stage} is a stage of kind {job.kind}; name one of runs/judge/")
    for folder in (stage, *job.inputs.values()):
        verify(folder)
    made = read_manifest(job.inputs["completions"])
    models, default = made["facts"].get("models", {}), job.inputs["completions"].name.rpartition("-")[0]
    replies, files = read_replies(stage / RECORDS), []
    for benchmark, values in job.settings["protocols"].items():
        protocol, folder = protocol_of(values), job.inputs[benchmark]
        assert not isinstance(protocol, CheckedProtocol), "a judge stage has protocols of judges"
        questions = read_records(folder / "questions.parquet", Question)
        answers = read_records(job.inputs["completions"] / f"{benchmark}.parquet", Completion)
        judged = Judged(name or str(models.get(benchmark) or default), questions, answers, replies)
        verdicts, into = stage / f"{benchmark}.parquet", out / benchmark
        if isinstance(protocol, AlpacaProtocol):
            files += _write_alpaca(protocol, folder, judged, verdicts, into)
        else:
            written = calendar.timegm(time.strptime(made["finished"], "%Y-%m-%dT%H:%M:%SZ"))
            files += _write_arena(with_prompt(protocol, folder), judged, verdicts, into, written)
    return files


def _write_alpaca(protocol: AlpacaProtocol, benchmark: Path, judged: Judged, verdicts: Path, out: Path) -> list[Path]:
    asked = read_json(benchmark / Path(protocol.files["questions"].path).name, "make the benchmark again")
    folder = out / file_name(judged.model)
    rows = alpaca_annotations(protocol, asked, judged, read_records(verdicts, AlpacaVerdict))
    annotations = _written(folder / annotator_name(protocol) / "annotations.json", rows)
    outputs = _written(folder / "model_outputs.json", alpaca_outputs(asked, judged.answers, judged.model))
    gamed = read_gamed(benchmark / Path(protocol.files["gamed"].path).name)
    leaderboard = annotations.with_name("leaderboard.csv")
    leaderboard.write_text(as_leaderboard(judged.model, score(read_annotations(annotations), gamed)))
    return [outputs, annotations, leaderboard]


def _write_arena(protocol: ArenaProtocol, judged: Judged, verdicts: Path, out: Path, answered: float) -> list[Path]:
    file = f"{file_name(judged.model)}.jsonl"
    answers = arena_answers(protocol, judged.answers, judged.model, answered)
    judgments = arena_judgments(protocol, judged, read_records(verdicts, ArenaGame))
    return [
        _written(out / "model_answer" / file, answers),
        _written(out / "model_judgment" / file_name(protocol.judge) / file, judgments),
    ]


def _written(path: Path, rows: Sequence[dict]) -> Path:
    """Write rows as JSON lines or, in a .json file, as one list."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    else:
        path.write_text(json.dumps(rows, indent=2), encoding="utf-8")
    return path


def _print_scores(path: Path, asked: Sequence[str] | None, gamed: Gamed | None) -> None:
    annotations = read_annotations(path, asked)
    s = score(annotations, gamed)
    lc = "-" if s.length_controlled is None else f"{s.length_controlled:.4f}"
    name, first = path.name.partition(".json")[0], f"{s.win_rate:11.6f} {s.standard_error:9.6f}"
    print(f"{name:32} {first} {s.discrete_win_rate:11.6f} {lc:>9} {s.judged:7}")
    if annotations.missing:
        print(f"  no preference, left out: {listed([str(place) for place in annotations.missing])}")
    if annotations.model == annotations.reference:
        print("  the model is its own reference: its LC is 50 by construction")


def _files(given: list[Path]) -> list[Path]:
    files = [file for path in given for file in (sorted(path.glob("*.json*")) if path.is_dir() else [path])]
    if not files:
        raise ValueError("no annotation file found; name files or a folder with .json or .json.gz files")
    return files


if __name__ == "__main__":
    run_command(main)
