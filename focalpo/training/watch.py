"""Record the policy during training: its states of some training pairs and of all held-out pairs.

The evaluation on held-out pairs costs nothing: it follows from the same states.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from focalpo.data.trees import Tree
from focalpo.stages.diagnostics import diagnostics
from focalpo.stages.rankings import accuracies, change
from focalpo.stages.records import PairState, read_records, write_records
from focalpo.training.evaluation import evaluation, with_margins
from focalpo.training.objective import Objective
from focalpo.training.observing import observed
from focalpo.training.ranks import rank


class Evaluated(Protocol):
    """Receives every evaluation: a stage's tracker."""

    def evaluated(self, step: int, **values: float) -> None: ...


class Watch:
    """Records a `PairState` per pair at the first and last step and every `every` steps (0: first and last only).

    `tracker` receives the objective's loss and rewards on the test split and its diagnostics at each of these steps.
    """

    def __init__(
        self,
        train: Sequence[Tree],
        test: Sequence[Tree],
        mislabelled: dict[str, bool | None],
        every: int,
        micro_batch_tokens: int,
        folder: Path,
        objective: Objective,
        tracker: Evaluated | None = None,
    ) -> None:
        self.splits = {"train": train, "test": test}
        self.mislabelled = mislabelled
        self.every = every
        self.micro_batch_tokens = micro_batch_tokens
        self.file = folder / "dynamics.parquet"
        self.states: list[PairState] = []
        self.objective = objective
        self.tracker = tracker

    def look(self, engine, step: int, steps: int) -> None:
        """Record the policy after `step` of `steps` steps, if a record is due; every rank must call it."""
        if step not in (0, steps) and not (self.every and step % self.every == 0):
            return
        if step and not self.states and self.file.is_file():  # a resumed run keeps its earlier records
            self.states = [state for state in read_records(self.file, PairState) if state.step < step]
        for split, trees in self.splits.items():
            now = observed(engine, trees, self.micro_batch_tokens, step, split, self.mislabelled)
            self.states += with_margins(self.objective, self._states(split, 0) or now, now)
        if rank() == 0:
            write_records(self.file, self.states)
        if self.tracker is not None and self.splits["test"]:
            start, now = (self._states("test", each) for each in (0, step))
            values = evaluation(self.objective, start, now) | diagnostics(change(self.states, "test"))
            self.tracker.evaluated(step, **values)

    def _states(self, split: str, step: int) -> list[PairState]:
        return [state for state in self.states if (state.split, state.step) == (split, step)]

    def summary(self) -> dict[str, dict[str, float]]:
        """Return accuracies and diagnostics of both splits, from the first to the last recorded step."""
        changes = {split: change(self.states, split) for split, trees in self.splits.items() if trees}
        return {split: accuracies(found) | diagnostics(found) for split, found in changes.items()}
