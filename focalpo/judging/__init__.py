"""Judging: completions in, verdicts out. Nothing here imports torch."""
