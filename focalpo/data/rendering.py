"""Token ids of conversations, with the contract that makes them mean what the data says.

    messages --chat template--> text --tokenizer, no special tokens added--> ids with one BOS at the front

Checked on the final ids of every conversation: roles and texts can be read back from them, and tokens of control come
from the template alone. A text counts as read back if it is equal up to white space and to what the tokenizer's own
normalizer changes.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from focalpo.data.templates import Skeleton, check_template, learn, render, role_markers
from focalpo.data.trees import Ids
from focalpo.stages.records import Messages


@dataclass(frozen=True, slots=True)
class Shape:
    """What is known of all conversations with the same roles: the template's pieces and its tokens of control.

    `is_control` [vocabulary] tells the ids of control, `control` are those that the template writes, in order; `bos` is
    the id to put in front, if the template does not write it; `markers` finds the template's plain role markers.
    """

    skeleton: Skeleton
    is_control: NDArray[np.bool_]
    control: Ids
    bos: int | None
    markers: re.Pattern | None


class Renderer:
    """Renders conversations with one tokenizer; what its template does is learned once for each sequence of roles.

    Raises:
        ValueError: when the chat template cannot be used at all (see `check_template`).
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stops: Sequence[int] = ()) -> None:
        self.basic = check_template(tokenizer)
        self.tokenizer = tokenizer
        self.added = {token: str(added) for token, added in tokenizer.added_tokens_decoder.items()}
        marks = {token for token, added in tokenizer.added_tokens_decoder.items() if added.special}
        named = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, *stops} - {None}
        # The token of unknown characters is no mark: it says that a text cannot be written.
        self.marks = marks - {tokenizer.unk_token_id} | named
        self.unknown = tokenizer.unk_token_id if tokenizer.unk_token_id not in self.marks else None
        self.size = max(tokenizer.get_vocab().values()) + 1
        self.shapes: dict[tuple[tuple[str, ...], bool], Shape | ValueError] = {}

    def rows(self, conversations: Sequence[Messages], opens: bool) -> list[Ids | ValueError]:
        """The ids of each conversation [T], or what is wrong with it; `opens` adds the assistant's header."""
        texts = [self._text(each, opens) for each in conversations]
        tokens = iter(self._tokens([text for text in texts if isinstance(text, str)]))
        return [
            text if isinstance(text, ValueError) else self._checked(each, opens, text, *next(tokens))
            for each, text in zip(conversations, texts, strict=True)
        ]

    def ids(self, conversations: Sequence[Messages], opens: bool) -> list[Ids]:
        """The ids of each conversation as `rows` gives them, whatever its texts hold.

        Raises:
            ValueError: when the template refuses a conversation; it is named by its number.
        """
        if not conversations:
            return []
        texts, fronts = [], []
        for place, messages in enumerate(conversations, 1):
            try:
                shape = self._shape(messages, opens)
                texts.append(self._rendered(messages, opens))
            except ValueError as problem:
                raise ValueError(f"conversation {place} of {len(conversations)}: {problem}") from problem
            fronts.append([] if shape.bos is None else [shape.bos])
        rows = self.tokenizer(texts, add_special_tokens=False, return_attention_mask=False)["input_ids"]
        return [np.array(front + row, np.int32) for front, row in zip(fronts, rows, strict=True)]

    def _text(self, messages: Messages, opens: bool) -> str | ValueError:
        """The rendered text, if every message can be read in it."""
        try:
            shape = self._shape(messages, opens)
        except ValueError as problem:
            return problem
        for place, message in enumerate(messages):
            if shape.markers and (found := shape.markers.search(message["content"])):
                return ValueError(
                    f"a text holds a role marker of the chat template: {_where(messages, place, found[0])}"
                )
        try:
            text = self._rendered(messages, opens)
        except ValueError as problem:
            return problem
        if text != shape.skeleton.text([message["content"] for message in messages]):
            return ValueError("the chat template rewrites a text")
        return text

    def _rendered(self, messages: Messages, opens: bool) -> str:
        text = render(self.tokenizer, messages, opens)
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError("a text holds half a surrogate pair, which no tokenizer reads") from error
        return text

    def _tokens(self, texts: list[str]) -> list[tuple[list[int], str]]:
        """Ids of each text, and the text that they decode to."""
        if not texts:
            return []
        rows = self.tokenizer(texts, add_special_tokens=False, return_attention_mask=False)["input_ids"]
        decoded = self.tokenizer.batch_decode(rows, clean_up_tokenization_spaces=False)
        return list(zip(rows, decoded, strict=True))

    def _checked(self, messages: Messages, opens: bool, text: str, row: list[int], decoded: str) -> Ids | ValueError:
        """The ids with their BOS, if tokens of control come from the template alone and the text can be read back."""
        shape = self._shape(messages, opens)
        ids = np.array(row, np.int32)
        if not np.array_equal(ids[shape.is_control[ids]], shape.control):
            return ValueError(self._control_in_text(messages, shape))
        if self.unknown is not None and (ids == self.unknown).any():
            return ValueError(f"the tokenizer cannot write a text: part of it becomes {self.tokenizer.unk_token!r}")
        if decoded != text and self._comparable(decoded) != self._comparable(text):
            return ValueError("the tokenizer cannot write a text: its ids decode to another one")
        return ids if shape.bos is None else np.concatenate([np.array([shape.bos], np.int32), ids])

    def _control_in_text(self, messages: Messages, shape: Shape) -> str:
        tokens = [self.added[token] for token in np.flatnonzero(shape.is_control).tolist() if token in self.added]
        for place, message in enumerate(messages):
            for token in tokens:
                if token in message["content"]:
                    return f"a text holds a token of control: {_where(messages, place, token)}"
        return "a text holds a token of control: the ids hold more than the chat template writes"

    def _comparable(self, text: str) -> str:
        """The text after the tokenizer's normalizer, without white space (`▁` is a space in SentencePiece)."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is not None and backend.normalizer is not None:
            text = backend.normalizer.normalize_str(text)
        return "".join(text.replace("▁", " ").split())

    def _shape(self, messages: Messages, opens: bool) -> Shape:
        roles = tuple(message["role"] for message in messages)
        if (roles, opens) not in self.shapes:
            try:
                self.shapes[roles, opens] = self._learned(roles, opens)
            except ValueError as problem:
                self.shapes[roles, opens] = problem
        found = self.shapes[roles, opens]
        if isinstance(found, ValueError):
            raise found.with_traceback(None)  # or its traceback grows with every row
        return found

    def _learned(self, roles: tuple[str, ...], opens: bool) -> Shape:
        skeleton = learn(self.tokenizer, roles, opens)
        rows = self.tokenizer(list(skeleton.pieces), add_special_tokens=False)["input_ids"]
        own = [token for row in rows for token in row]
        # An added token that is not special marks something if the template writes it; Gemma's blanks mark nothing.
        marks = self.marks | {token for token in own if self.added.get(token, "").strip(" \t\n▁")}
        is_control = np.zeros(self.size, bool)
        is_control[list(marks - {self.unknown})] = True
        bos = self.tokenizer.bos_token_id
        if bos is not None and rows[0][:2] == [bos, bos]:
            raise ValueError("the chat template begins with two BOS tokens")
        return Shape(
            skeleton,
            is_control,
            np.array([token for token in own if is_control[token]], np.int32),
            bos if bos is not None and rows[0][:1] != [bos] else None,
            role_markers([*self.basic, skeleton], [self.added[token] for token in marks if token in self.added]),
        )


def _where(messages: Messages, place: int, found: str) -> str:
    return f"{found.strip()!r} in turn {place + 1} ({messages[place]['role']})"
