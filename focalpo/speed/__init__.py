"""How fast training is, and that every speed-up leaves the numbers alone: workloads in, measurements out."""
