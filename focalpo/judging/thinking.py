"""What a reasoning judge says, without what it thinks aloud before: `<think>...</think>verdict` --> `verdict`.

Servers that split the two send thoughts in a field of their own, which nothing here reads. The others, as llama.cpp,
Ollama and vLLM without a reasoning parser, leave them in the text; where the chat template opens the thought, the text
holds only its end.
"""

OPENS, CLOSES = "<think>", "</think>"


def spoken(text: str) -> str:
    """The text after the last thought, stripped; empty where a thought does not end, because the reply was cut off.

    A text without a thought is returned as it is.
    """
    if CLOSES in text:
        return text.rpartition(CLOSES)[2].strip()
    return "" if text.lstrip().startswith(OPENS) else text
