"""Completions in, verdicts and scores with honest intervals out; no torch anywhere in this room."""
