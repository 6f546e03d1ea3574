"""Record the policy during training: the log-probs of some training pairs and of all held-out pairs."""

from collections.abc import Sequence
from pathlib import Path

from focalpo.data.trees import Tree
from focalpo.stages.rankings import accuracies, change
from focalpo.stages.records import PairState, read_records, write_records
from focalpo.training.ranks import rank
from focalpo.training.scoring import score

BRANCHES = ("chosen", "rejected")


class Watch:
    """Records a `PairState` per pair at the first and last step and every `every` steps (0: first and last only)."""

    def __init__(
        self,
        train: Sequence[Tree],
        test: Sequence[Tree],
        mislabelled: dict[str, bool | None],
        every: int,
        micro_batch_tokens: int,
        folder: Path,
    ) -> None:
        self.splits = {"train": train, "test": test}
        self.mislabelled = mislabelled
        self.every = every
        self.micro_batch_tokens = micro_batch_tokens
        self.file = folder / "dynamics.parquet"
        self.states: list[PairState] = []

    def look(self, engine, step: int, steps: int) -> None:
        """Record the policy after `step` of `steps` steps, if a record is due; every rank must call it."""
        if step not in (0, steps) and not (self.every and step % self.every == 0):
            return
        if step and not self.states and self.file.is_file():  # a resumed run keeps its earlier records
            self.states = [state for state in read_records(self.file, PairState) if state.step < step]
        for split, trees in self.splits.items():
            logps = score(engine, trees, BRANCHES, self.micro_batch_tokens)
            self.states += [
                PairState(
                    step,
                    split,
                    tree.id,
                    logps["chosen"][place],
                    logps["rejected"][place],
                    len(tree.branches["chosen"]),
                    len(tree.branches["rejected"]),
                    self.mislabelled.get(tree.id),
                )
                for place, tree in enumerate(trees)
            ]
        if rank() == 0:
            write_records(self.file, self.states)

    def summary(self) -> dict[str, dict[str, float]]:
        """Return the accuracies of both splits, from the first to the last recorded step."""
        return {split: accuracies(change(self.states, split)) for split, trees in self.splits.items() if trees}
