"""Rows in every published layout become the same pair; others are reported by row number and problem."""

import pytest

from focalpo.data import values
from focalpo.data.layouts import SCHEMAS, recognise
from focalpo.data.schemas import convert
from focalpo.data.values import prompt_key

QUESTION, GOOD, POOR = "Name a river.", "The Danube is a river.", "Bananas."


def messages(*turns: str) -> list[dict[str, str]]:
    """Messages with alternating user and assistant roles."""
    return [{"role": ("user", "assistant")[i % 2], "content": turn} for i, turn in enumerate(turns)]


ASKED = messages(QUESTION)
BETTER, WORSE = messages(QUESTION, GOOD), messages(QUESTION, POOR)
# The same preference in each layout, with the other columns of the published dataset.
LAYOUTS = {
    "plain": {"idx": 0, "prompt": QUESTION, "chosen": GOOD, "rejected": POOR, "chosen_source": "human"},
    "HuggingFaceH4/ultrafeedback_binarized": {
        "prompt": QUESTION,
        "prompt_id": "f0e37e9f7800261167ce91143f98f511f768847236f133f2d0aed60b444ebe57",
        "chosen": BETTER,
        "rejected": WORSE,
        "messages": BETTER,
        "score_chosen": 8.5,
        "score_rejected": 2.0,
    },
    "princeton-nlp/llama3-ultrafeedback-armorm": {
        "prompt_id": "a1",
        "prompt": QUESTION,
        "all_generated_responses": [POOR, GOOD, "Rhine"],
        "all_rm_scores": [0.05, 0.17, 0.11],
        "chosen": BETTER,
        "rejected": WORSE,
    },
    "trl-lib/ultrafeedback_binarized": {
        "chosen": BETTER,
        "rejected": WORSE,
        "score_chosen": 8.5,
        "score_rejected": 2.0,
    },
    "chat prompt, chat completions": {"prompt": ASKED, "chosen": BETTER[1:], "rejected": WORSE[1:]},
    "chat prompt, text completions": {"prompt": ASKED, "chosen": GOOD, "rejected": POOR},
    "Anthropic/hh-rlhf": {
        "chosen": f"\n\nHuman: {QUESTION}\n\nAssistant: {GOOD}",
        "rejected": f"\n\nHuman: {QUESTION}\n\nAssistant: {POOR}",
    },
    "AlpacaEval, first better": {"instruction": QUESTION, "output_1": GOOD, "output_2": POOR, "preference": 1.02},
    "AlpacaEval, second better": {"instruction": QUESTION, "output_1": POOR, "output_2": GOOD, "preference": 1.98},
    "Alpaca": {"instruction": QUESTION, "input": "", "output": GOOD, "rejected": POOR, "chosen": GOOD},
}
NAMES = {
    "plain": "plain",
    "HuggingFaceH4/ultrafeedback_binarized": "prompt and dialogues",
    "princeton-nlp/llama3-ultrafeedback-armorm": "prompt and dialogues",
    "trl-lib/ultrafeedback_binarized": "dialogues",
    "chat prompt, chat completions": "chat prompt",
    "chat prompt, text completions": "chat prompt",
    "Anthropic/hh-rlhf": "transcripts",
    "AlpacaEval, first better": "judged",
    "AlpacaEval, second better": "judged",
    "Alpaca": "instruction",
}

IGNORED = {"princeton-nlp/llama3-ultrafeedback-armorm": ["all_generated_responses", "all_rm_scores"]}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_published_layout_of_one_preference_becomes_the_same_pair(layout):
    split = convert([LAYOUTS[layout]], "here", "row", IGNORED.get(layout, ()))
    assert split.schema == NAMES[layout]
    assert not split.bad
    pair = split.pairs[1]
    assert (pair.prompt, pair.chosen, pair.rejected, pair.mislabelled) == (ASKED, GOOD, POOR, None)


def test_a_dialogue_keeps_its_system_turn_and_earlier_turns_as_the_prompt():
    before = [{"role": "system", "content": "Be brief."}, *messages(QUESTION, GOOD, "Another?")]
    row = {
        "prompt": QUESTION,
        "chosen": [*before, {"role": "assistant", "content": "Elbe.", "tool_calls": None}],
        "rejected": [*before, {"role": "assistant", "content": "No."}],
    }
    pair = convert([row], "here", "row").pairs[1]
    assert (pair.prompt, pair.chosen, pair.rejected) == (before, "Elbe.", "No.")


def test_a_transcript_of_several_turns_is_divided_at_its_last_assistant_turn():
    head = "\n\nHuman: Name a river.\n\nAssistant: Which land?\n\nHuman: Any.\n\nAssistant:"
    pair = convert(
        [{"chosen": f"{head} Elbe: it flows.\n\nIt is long.", "rejected": f"{head} No."}], "here", "row"
    ).pairs[1]
    assert pair.prompt == messages("Name a river.", "Which land?", "Any.")
    assert (pair.chosen, pair.rejected) == ("Elbe: it flows.\n\nIt is long.", "No.")


def test_an_instruction_is_followed_by_its_input():
    row = {"instruction": "Fix the spelling.", "input": "freind", "chosen": "friend", "rejected": "fiend"}
    assert convert([row], "here", "row").pairs[1].prompt == messages("Fix the spelling.\n\nfreind")


def judged(preference):
    return {"instruction": "Q", "output_1": "one", "output_2": "two", "preference": preference}


def test_judged_preferences_that_are_missing_tied_or_no_number_never_become_pairs():
    preferences = [1, 2, 1.5, 0, True, float("nan"), None, "1.2", 1.4999, 1.5001, [1.0], float("inf"), False]
    split = convert([judged(preference) for preference in preferences], "here", "row")
    assert {row: (pair.chosen, pair.rejected) for row, pair in split.pairs.items()} == {
        1: ("one", "two"),
        2: ("two", "one"),
        9: ("one", "two"),
        10: ("two", "one"),
    }
    assert split.bad == {
        values.TIE: [3, 4],
        values.MISSING: [6, 7],
        values.NO_PREFERENCE: [5, 8, 11, 12, 13],
    }


@pytest.mark.parametrize(
    ("preferences", "message"),
    [
        ([1, 2, 4, 5], r"here: the preferences of 2 rows \(3, 4\) are not on the scale from 1 .* to 2"),
        ([1, 2, 2.01], r"1 rows \(3\) are not on the scale"),
        ([1, -1, 1], r"1 rows \(2\) are not on the scale"),
        ([0, 1, 1], "every preference is in 0 .. 1, but the scale is 1 .* to 2"),
        ([0.3, 0.7, None], "every preference is in 0 .. 1"),
    ],
)
def test_preferences_on_another_scale_are_refused_and_not_guessed(preferences, message):
    with pytest.raises(ValueError, match=message) as caught:
        convert([judged(preference) for preference in preferences], "here", "row")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"prompt": "Name a lake.", "chosen": BETTER, "rejected": WORSE}, values.DIFFERENT),
        ({"prompt": QUESTION, "chosen": BETTER, "rejected": messages("Name a lake.", POOR)}, values.DIFFERENT),
        (
            {"prompt": GOOD, "chosen": messages("Hi", GOOD, "Q", "A"), "rejected": messages("Hi", GOOD, "Q", "B")},
            values.DIFFERENT,
        ),
        ({"prompt": QUESTION, "chosen": BETTER + ASKED, "rejected": WORSE}, values.TURNS),
        ({"prompt": QUESTION, "chosen": [], "rejected": WORSE}, values.TURNS),
        ({"prompt": QUESTION, "chosen": None, "rejected": WORSE}, values.MISSING),
        ({"prompt": QUESTION, "chosen": GOOD, "rejected": WORSE}, values.MISSING),
        ({"prompt": QUESTION, "chosen": [GOOD], "rejected": WORSE}, values.MISSING),
        (
            {"prompt": QUESTION, "chosen": BETTER, "rejected": [*ASKED, {"role": "assistant", "content": None}]},
            values.MISSING,
        ),
        ({"prompt": None, "chosen": BETTER, "rejected": WORSE}, values.MISSING),
        ({"chosen": BETTER, "rejected": WORSE}, values.MISSING),
    ],
)
def test_a_broken_row_is_reported_by_number_and_problem_and_does_not_affect_others(row, problem):
    valid = {"prompt": QUESTION, "chosen": BETTER, "rejected": WORSE}
    split = convert([valid, row, valid], "here", "row")
    assert list(split.pairs) == [1, 3]
    assert split.bad == {problem: [2]}


def test_a_completion_that_repeats_its_chat_prompt_is_rejected():
    rows = [LAYOUTS["chat prompt, chat completions"], {"prompt": ASKED, "chosen": BETTER, "rejected": WORSE[1:]}]
    assert convert(rows, "here", "row").bad == {values.TURNS: [2]}


def test_transcripts_with_text_before_the_first_turn_or_different_prompts_are_rejected():
    valid = LAYOUTS["Anthropic/hh-rlhf"]
    rows = [
        valid,
        {"chosen": "Well." + valid["chosen"], "rejected": valid["rejected"]},
        {"chosen": "no speakers at all", "rejected": valid["rejected"]},
        {"chosen": valid["chosen"].replace("river", "lake"), "rejected": valid["rejected"]},
    ]
    assert convert(rows, "here", "row").bad == {values.TURNS: [2, 3], values.DIFFERENT: [4]}


def test_empty_or_ill_typed_values_next_to_a_valid_row_do_not_hide_the_schema():
    rows = [{"prompt": None, "chosen": None}, {"prompt": QUESTION, "chosen": GOOD, "rejected": POOR}, {"prompt": 7}]
    split = convert(rows, "here", "row")
    assert (split.schema, split.bad, list(split.pairs)) == ("plain", {values.MISSING: [1, 3]}, [2])


@pytest.mark.parametrize(
    "row",
    [
        {"question": QUESTION, "chosen": GOOD, "rejected": POOR},
        # Without the speakers, prompt and answer cannot be distinguished.
        {"chosen": GOOD, "rejected": POOR},
        # A whole transcript must not become one user turn.
        {"prompt": f"\n\nHuman: {QUESTION}\n\nAssistant:", "chosen": GOOD, "rejected": POOR},
        # A prompt column that cannot be read must not be ignored.
        {"prompt": {"text": QUESTION}, "chosen": BETTER, "rejected": WORSE},
        {"prompt": None, "chosen": BETTER, "rejected": WORSE},
    ],
)
def test_columns_of_no_known_schema_are_listed_with_all_schemas(row):
    with pytest.raises(ValueError, match="match no known schema") as caught:
        recognise([row], "here")
    message = str(caught.value)
    assert "\n" not in message
    assert all(f"{column} (" in message for column in row)
    assert all(f"[{schema.name}]" in message for schema in SCHEMAS)


def test_pair_ids_are_the_prompt_id_or_the_row_and_unique():
    row = {"prompt": QUESTION, "chosen": GOOD, "rejected": POOR}
    rows = [
        row,
        {**row, "prompt_id": "a"},
        {**row, "prompt_id": "b"},
        {**row, "prompt_id": "a"},
        {**row, "prompt_id": "a"},
    ]
    names = [pair.id for pair in convert(rows, "here", "train").pairs.values()]
    assert names == ["train-000001", "a", "b", "a-000004", "a-000005"]


def test_a_bad_row_does_not_shift_the_ids_of_later_pairs():
    row = {"prompt": QUESTION, "chosen": GOOD, "rejected": POOR}
    names = [pair.id for pair in convert([row, {**row, "chosen": None}, row], "here", "test").pairs.values()]
    assert names == ["test-000001", "test-000003"]


def test_prompts_are_equal_up_to_outer_white_space_but_not_up_to_roles():
    assert prompt_key(messages(" Hi\n")) == prompt_key(messages("Hi"))
    assert prompt_key(messages("Hi")) != prompt_key([{"role": "system", "content": "Hi"}])
    assert prompt_key(messages("a b")) != prompt_key(messages("a  b"))
