"""Stages are made: by workers on this machine, by ranks, by Slurm; with progress, locks and stops."""
