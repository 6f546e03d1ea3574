"""Verdicts that a judge did not give: a few are left out, counted and named; more stop the score."""

from collections.abc import Sequence

from focalpo.stages.records import listed


def check_missing(missing: Sequence[str], verdicts: int, most_missing: float, cause: str) -> None:
    """Check that no more than the share `most_missing` of a benchmark's verdicts is missing.

    Raises:
        ValueError: if more are missing; names them, the first cause and the limit.
    """
    most = int(most_missing * verdicts + 1e-9)  # 0.005 of 1,000 is 5, whatever the rounding of 0.005
    if len(missing) > most:
        limit = f"; at most {most} of {verdicts} may be missing (judge.most_missing)" if most_missing else ""
        raise ValueError(f"no verdict for {listed(missing)}; {cause}{limit}")
