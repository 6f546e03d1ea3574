"""Scoring: verdicts in, scores with intervals out; statistics, length control and style control. No network."""
