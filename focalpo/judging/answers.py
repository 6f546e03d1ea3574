"""A model's completions in, the same in the benchmark's order out: nothing is judged unless all of it is there."""

from collections.abc import Sequence

from focalpo.stages.records import Completion, Question, listed


def in_benchmark_order(
    questions: Sequence[Question], completions: Sequence[Completion], prompts: int
) -> list[Completion]:
    """The completion to each question, in the order of the questions.

    Raises:
        ValueError: when the benchmark is not `prompts` long, a question has no completion or two, a completion answers
            no question, or it answers another prompt than the question's.
    """
    if len(questions) != prompts:
        raise ValueError(f"the benchmark has {prompts} prompts, {len(questions)} were given; load all of its questions")
    by_id = {completion.id: completion for completion in completions}
    missing = [question.id for question in questions if question.id not in by_id]
    if missing:
        raise ValueError(f"no completion for {listed(missing)}; generate the missing answers")
    if len(completions) != len(questions):
        raise ValueError(f"{len(completions)} completions for {len(questions)} prompts; give one for each prompt")
    strays = [question.id for question in questions if by_id[question.id].prompt != question.prompt]
    if strays:
        raise ValueError(f"completions {listed(strays)} answer other prompts than the benchmark's; generate them again")
    return [by_id[question.id] for question in questions]
