"""Score published AlpacaEval annotations as the leaderboard does: WR, its standard error, discrete WR and LC.

python -m recipes.score_annotations annotations/*.json.gz --gamed df_gamed.csv
python -m recipes.score_annotations annotations/ --gamed df_gamed.csv --questions alpaca_eval_gpt4_baseline.json

Files, or folders that contain them. Without --gamed, the benchmark's df_gamed.csv, LC is not computed. With
--questions, the benchmark's file of instructions, rows may be missing or in any order; without it they must be
complete, in order.
"""

import sys
from pathlib import Path

from focalpo.running.command import run_command
from focalpo.running.words import annotations_of
from focalpo.scoring.annotations import read_annotations, read_instructions, score
from focalpo.scoring.length_control import read_gamed
from focalpo.stages.records import listed


def main() -> None:
    """Print one line per file."""
    arguments = annotations_of(sys.argv[1:])
    gamed = read_gamed(arguments.gamed) if arguments.gamed else None
    asked = read_instructions(arguments.questions) if arguments.questions else None
    print(f"{'file':32} {'WR':>11} {'SE':>9} {'discrete':>11} {'LC':>9} {'judged':>7}")
    for path in _files(arguments.files):
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
