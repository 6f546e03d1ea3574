"""Verdicts in, numbers with intervals out: statistics, length and style control. No network."""
