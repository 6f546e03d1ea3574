"""What AlpacaEval's judge must be shown, derived from the template without alpaca_eval's own code.

    template --its chat messages--> each text in its place --> the messages of a row, in both orders of the answers

alpaca_eval fills the template, then reads the chat messages back from the result, so that a text can end a message or
move into another one. A request is compared with these messages before it is sent.
"""

import json
import re
from collections.abc import Iterable

from focalpo.judging.protocol import fill_template

CHAT_TOKENS = ("<|im_start|>", "<|im_end|>")
MESSAGE = re.compile(r"<\|im_start\|>(\w+)\n(.*?)<\|im_end\|>", re.DOTALL)


def prompts_of(template: str, rows: Iterable[tuple[str, str, str]]) -> set[str]:
    """The messages that a judge may be sent about rows of (instruction, output_1, output_2), as `messages_of` text."""
    asked = [(role, content.strip()) for role, content in MESSAGE.findall(template)]
    return {
        messages_of(
            {
                "role": role,
                "content": fill_template(content, {"instruction": instruction, "output_1": first, "output_2": second}),
            }
            for role, content in asked
        )
        for instruction, *outputs in rows
        for first, second in (outputs, outputs[::-1])
    }


def messages_of(messages: Iterable[dict]) -> str:
    """A request's messages as one text that is equal exactly when they are."""
    return json.dumps([(message["role"], message["content"]) for message in messages])
