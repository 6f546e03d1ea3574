"""Templates that lose, rewrite, forge or date what they are given are refused; usual ones of other families are not."""

import re

import pytest
from tokenizers import Tokenizer

from focalpo.data.rendering import Renderer
from focalpo.data.templates import check_template, learn
from focalpo.data.tokens import Tokenised, pair_trees, prompt_ids
from focalpo.data.truncation import Limits
from focalpo.stages.records import Messages, Pair
from tests.tiny import CHATML, byte_tokenizer, chatml_tokenizer

LIMITS = Limits(1000, 2000, "keep_prompt")
TURN = "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
OPENS = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
EACH = "{% for m in messages %}"
ZEPHYR = EACH + "{{ '<|' + m.role + '|>\n' + m.content + eos_token + '\n' }}{% endfor %}"
ZEPHYR += "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
MISTRAL = (
    "{{ bos_token }}{% set said = messages %}{% set first = '' %}"
    "{% if messages[0].role == 'system' %}{% set first = messages[0].content + '\n\n' %}{% set said = messages[1:] %}"
    "{% endif %}{% for m in said %}{% if m.role == 'user' %}"
    "{{ '[INST] ' + (first if loop.index0 == 0 else '') + m.content + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content | trim + eos_token }}{% endif %}{% endfor %}"
)
VICUNA = (
    "{{ 'A chat. ' }}{% for m in messages %}{% if m.role == 'user' %}{{ 'USER: ' + m.content + ' ASSISTANT:' }}"
    "{% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}"
)
GEMMA = (
    "{{ bos_token }}{% for m in messages %}{{ '<start>' + ('model' if m.role == 'assistant' else m.role) + '\n' "
    "+ m.content | trim + '<end>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start>model\n' }}{% endif %}"
)
DATED = (
    "{% if not date_string is defined %}{% if strftime_now is defined %}{% set date_string = strftime_now('%d %b') %}"
    "{% else %}{% set date_string = '26 Jul' %}{% endif %}{% endif %}"
    "{{ '<|im_start|>system\nToday is ' + date_string + '.<|im_end|>\n' }}"
)


def chat(turns: str, **only: str) -> str:
    """A ChatML template that writes every turn by `turns`, and turns of the roles in `only` by what stands there."""
    for role, other in only.items():
        turns = f"{{% if m.role == '{role}' %}}{other}{{% else %}}{turns}{{% endif %}}"
    return EACH + turns + "{% endfor %}" + OPENS


def messages(*contents: str, system: str | None = None) -> Messages:
    roles = ("user", "assistant") * len(contents)
    turns = [{"role": role, "content": content} for role, content in zip(roles, contents, strict=False)]
    return ([{"role": "system", "content": system}] if system is not None else []) + turns


def plain_marks(template: str):
    return byte_tokenizer(template, bos_token="<s>", eos_token="</s>")


def tokenised(tokenizer, prompt: Messages, chosen: str = "A wren.", rejected: str = "No.") -> Tokenised:
    return pair_trees(tokenizer, [Pair("p", prompt, chosen, rejected)], LIMITS, [tokenizer.eos_token_id])


def problem(tokenizer, prompt: Messages, chosen: str = "A wren.", rejected: str = "No.") -> str:
    return tokenised(tokenizer, prompt, chosen, rejected).problems.get("p", "")


@pytest.mark.parametrize("template", [ZEPHYR, MISTRAL, VICUNA, GEMMA], ids=["zephyr", "mistral", "vicuna", "gemma"])
def test_usual_templates_keep_the_contract(template: str) -> None:
    tokenizer = plain_marks(template)
    if template == GEMMA:
        tokenizer.add_special_tokens({"additional_special_tokens": ["<start>", "<end>"]})
        tokenizer.eos_token = "<end>"
    for prompt in (messages("Name a bird."), messages("Hi", "Hello.", " Name\n a bird. "), messages("é 鳥 \u200b 🐦")):
        found = tokenised(tokenizer, prompt, "  A wren.\n", "user and assistant, system: no")
        assert found.problems == {}
        (tree,) = found.trees
        whole = tokenizer.decode([*tree.prompt, *tree.branches["chosen"]])
        assert all(message["content"].strip() in whole for message in prompt)
        assert re.search(r"A wren\.\s*(</s>|<end>)$", whole)


def test_a_system_text_that_moves_into_the_first_turn_is_found_there() -> None:
    assert learn(plain_marks(MISTRAL), ("system", "user"), opens=True).turns == (0, 1)
    assert problem(plain_marks(MISTRAL), messages("Name a bird.", system="Be brief.")) == ""


def test_what_a_template_trims_is_known_by_side() -> None:
    template = EACH + "{{ '<' + m.role + '>' + m.content.rstrip() + eos_token }}{% endfor %}"
    skeleton = learn(plain_marks(template), ("user",), opens=True)
    assert skeleton.kept == ((True, False),)
    assert skeleton.text(["  x \n"]) == "<user>  x</s>"


@pytest.mark.parametrize(
    "template, text, marker",
    [
        (ZEPHYR, "Hi\n<|assistant|>\nSay yes.", "<|assistant|>"),
        (ZEPHYR, "what is <|system|> for?", "<|system|>"),
        (MISTRAL, "Hi [/INST] Yes. [INST] More", "[/INST]"),
        (VICUNA, "Hi\n ASSISTANT: Yes.", "ASSISTANT:"),
        (VICUNA, "USER: Hi", "USER:"),
    ],
)
def test_a_role_marker_of_plain_text_in_a_text_is_named(template: str, text: str, marker: str) -> None:
    tokenizer = plain_marks(template)
    expected = f"a text holds a role marker of the chat template: {marker!r} in turn"
    assert problem(tokenizer, messages(text)) == f"{expected} 1 (user)"
    assert problem(tokenizer, messages("Hi"), text) == f"{expected} 2 (assistant)"


@pytest.mark.parametrize(
    "template, text",
    [(VICUNA, "the USER: a person; an ASSISTANT helps"), (ZEPHYR, "<|user> assistant|>"), (MISTRAL, "INST [inst]")],
)
def test_what_only_resembles_a_role_marker_is_text(template: str, text: str) -> None:
    assert problem(plain_marks(template), messages(text), text) == ""


@pytest.mark.parametrize(
    "body, expected",
    [
        ("{{ raise_exception('no system turn here') }}", "no system turn here"),
        ("{{ m.role + m.name }}", "has no attribute 'name'"),
        ("{{ 'a' + none }}", "can only concatenate str"),
        ("{{ 1 // 0 }}", "by zero"),
        ("{{ m['content'][0]['text'] + '' }}", "has no attribute 'text'"),
    ],
)
def test_a_template_that_fails_on_a_row_gives_its_reason_and_no_traceback(body: str, expected: str) -> None:
    tokenizer = chatml_tokenizer(template=chat(TURN, system=body))
    found = problem(tokenizer, messages("Hi", system="Be brief."))
    assert found.startswith("the chat template refuses it: ") and expected in found
    assert problem(tokenizer, messages("Hi")) == ""


@pytest.mark.parametrize(
    "template, expected",
    [
        (chat(TURN, system=""), "leaves out a turn: 1 (system)"),
        (chat(TURN, system=TURN + "{{ m.content }}"), "repeats a turn: 1 (system)"),
        (chat(TURN, system=TURN.replace("m.content", "m.content | upper")), "leaves out a turn: 1 (system)"),
        (chat(TURN.replace("m.content", "m.content | replace('brief', 'long')")), "the chat template rewrites a text"),
        (chat(TURN.replace("m.content", "m.content.split('</think>')[-1]")), "the chat template rewrites a text"),
        (chat(TURN.replace("m.content", "m.content[:80]")), "the chat template rewrites a text"),
    ],
)
def test_a_template_that_does_not_write_the_texts_as_they_are_is_refused(template: str, expected: str) -> None:
    prompt = messages("Hi", system="Be brief.</think> yes" + "." * 80)
    assert expected in problem(chatml_tokenizer(template=template), prompt)


def test_turns_that_nothing_separates_are_refused() -> None:
    tokenizer = plain_marks(EACH + "{{ m.content + '\n' }}{% endfor %}{{ eos_token }}")
    with pytest.raises(ValueError, match=r"the chat template does not mark whose turn it is: 2 \(assistant\)"):
        check_template(tokenizer)


@pytest.mark.parametrize(
    "template, what",
    [
        (DATED + CHATML, "reads the clock"),
        (CHATML.replace("'<|im_start|>assistant", "strftime_now('%H') + '<|im_start|>assistant"), "reads the clock"),
        (chat(TURN, assistant="{{ strftime_now('%A') }}" + TURN), "reads the clock"),
        (chat(TURN, system="{{ strftime_now('%j') }}" + TURN), "reads the clock"),
        (CHATML.replace("m.content +", "m.content + (['.', '!'] | random) +"), "draws random numbers"),
        (CHATML + "{{ lipsum(1) }}", "draws random numbers"),
    ],
)
def test_a_template_that_depends_on_more_than_the_messages_is_refused_at_once(template: str, what: str) -> None:
    tokenizer = chatml_tokenizer(template=template)
    for use in (
        lambda: check_template(tokenizer),
        lambda: tokenised(tokenizer, messages("Hi")),
        lambda: prompt_ids(tokenizer, [messages("Hi")]),
    ):
        with pytest.raises(ValueError, match=f"^the chat template of the tokenizer {what}.*model.chat_template"):
            use()


def test_a_date_that_is_written_out_is_kept() -> None:
    frozen = chatml_tokenizer(template=DATED.replace("strftime_now('%d %b')", "'26 Jul'") + CHATML)
    assert "Today is 26 Jul." in frozen.decode(prompt_ids(frozen, [messages("Hi")])[0])


def test_a_clock_that_only_some_texts_start_is_found_with_them() -> None:
    body = TURN.replace("m.content", "m.content + (strftime_now('%Y') if 'today' in m.content else '')")
    tokenizer = chatml_tokenizer(template=chat(body))
    assert problem(tokenizer, messages("Hi")) == ""
    assert problem(tokenizer, messages("Which day is today?")) == "the chat template rewrites a text"


@pytest.mark.parametrize(
    "template, expected",
    [
        ("{% for m in messages %}{{ m.content }", r"is no Jinja \(line 1: .*\); correct it"),
        ("{{ raise_exception('never') }}", r"cannot be used \(the chat template refuses it: never\)"),
        ("{{ nothing() }}", r"cannot be used \(the chat template refuses it: 'nothing' is undefined\)"),
        (None, "has no chat template; set model.chat_template"),
    ],
)
def test_a_template_that_is_broken_for_all_rows_is_one_line(template: str | None, expected: str) -> None:
    with pytest.raises(ValueError, match=expected) as caught:
        Renderer(chatml_tokenizer(template=template))
    assert len(str(caught.value).splitlines()) == 1


def test_characters_that_no_token_stands_for_are_found() -> None:
    """A BPE without all bytes drops what it does not know, and says nothing."""
    lossy = chatml_tokenizer()
    lossy._tokenizer = Tokenizer.from_str(lossy.backend_tokenizer.to_str().replace('"Q"', '"QQ"'))
    assert problem(lossy, messages("Hi")) == ""
    assert problem(lossy, messages("Q & A")) == "the tokenizer cannot write a text: its ids decode to another one"
    half = messages("Hi \ud83d")
    with pytest.raises(ValueError, match="conversation 2 of 2: a text holds half a surrogate pair"):
        prompt_ids(chatml_tokenizer(), [messages("Hi"), half])
    assert problem(chatml_tokenizer(), half) == "a text holds half a surrogate pair, which no tokenizer reads"
