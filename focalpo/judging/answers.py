"""Matches a model's completions to a benchmark's questions; an incomplete set is rejected before judging."""

from collections.abc import Sequence

from focalpo.stages.records import Completion, Question, listed


def in_benchmark_order(
    questions: Sequence[Question], completions: Sequence[Completion], prompts: int
) -> list[Completion]:
    """Return the completion of each question, in the order of the questions.

    Raises:
        ValueError: if there are not `prompts` questions, a question has no completion or two, a completion belongs to
            no question, or its prompt is not the question's.
    """
    if len(questions) != prompts:
        raise ValueError(f"the benchmark has {prompts} prompts, got {len(questions)} questions; load all of them")
    by_id = {completion.id: completion for completion in completions}
    missing = [question.id for question in questions if question.id not in by_id]
    if missing:
        raise ValueError(f"no completion for {listed(missing)}; generate the missing answers")
    if len(completions) != len(questions):
        raise ValueError(f"{len(completions)} completions for {len(questions)} prompts; pass exactly one per prompt")
    mismatched = [question.id for question in questions if by_id[question.id].prompt != question.prompt]
    if mismatched:
        raise ValueError(f"the prompts of {listed(mismatched)} are not the benchmark's; generate the answers again")
    return [by_id[question.id] for question in questions]
