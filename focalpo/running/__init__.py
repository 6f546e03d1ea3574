"""Run stages in local workers, in ranks or on Slurm, with progress, locks and clean stops."""
