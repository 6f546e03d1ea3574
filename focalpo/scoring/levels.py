"""IFEval's two levels as points per prompt: all instructions of a prompt followed, and how many of them.

Followed --> prompt: 1 of 1 or 0 of 1 · instruction: followed of asked, so that a sum over prompts counts instructions
"""

from collections.abc import Sequence

from focalpo.stages.records import Followed, PromptScore


def level_points(answers: Sequence[Followed], level: str, loose: bool = False) -> list[PromptScore]:
    """The points of one level, strict unless `loose`; as lm-eval counts them (Zhou et al. 2023)."""
    verdicts = [(each.id, each.loose if loose else each.strict) for each in answers]
    if level == "prompt":
        return [PromptScore(name, float(all(found)), 1.0) for name, found in verdicts]
    return [PromptScore(name, float(sum(found)), float(len(found))) for name, found in verdicts]


def accuracy(points: Sequence[PromptScore]) -> float:
    """Points in percent of the most."""
    return 100 * sum(each.points for each in points) / sum(each.most for each in points)
