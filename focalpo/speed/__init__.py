"""Measures training speed, and checks that no speed-up changes a number: workloads in, measurements out."""
