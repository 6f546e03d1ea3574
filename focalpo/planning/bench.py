"""Turn the command line of a benchmark of speed into its settings; nothing is measured."""

from focalpo.config.bench import BenchSettings
from focalpo.config.compose import compose_bench
from focalpo.config.mistakes import Mistake, choose

PARTS = ("peers", "ablations", "growth", "planner")


def planned_bench(arguments: list[str]) -> tuple[str, BenchSettings]:
    """The name of the file in conf/bench, and its settings with overrides.

    Raises:
        ValueError: when the command line is wrong.
    """
    names = [each for each in arguments if each.startswith("bench=")]
    if len(names) > 1:
        raise Mistake("bench= is given twice; give it once")
    name = names[0].partition("=")[2] if names else "cpu"
    config = compose_bench(name, [each for each in arguments if each not in names])
    unknown = [part for part in config.parts if part not in PARTS]
    if unknown:
        raise Mistake(f"parts={config.parts}: unknown part {unknown[0]!r}; {choose(unknown[0], PARTS)}")
    if config.model is not None and config.pairs_file is None:
        raise Mistake(f"model={config.model} trains on real pairs; name their file (pairs_file=pairs.parquet)")
    if not config.lengths:
        raise Mistake("lengths={}: no distribution of pair lengths is left; keep one of those in conf/bench")
    labels = [peer.label for peer in config.peers.values()]
    if twice := [label for label in labels if labels.count(label) > 1]:
        raise Mistake(f"peers: two rows have the label {twice[0]!r}; give each its own")
    return name, config
