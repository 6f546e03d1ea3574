"""Verdicts by code: instructions that a program can verify, and the tasks of an evaluation harness."""
