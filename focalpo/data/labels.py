"""The one list of columns that may stay unread without being named: labels of a row, which say nothing of its meaning.

A label is an id, a source, a model's name and the like. Its name consists of the words below, as in `chosen_model`,
`prompt-id` or `sourceDataset`, and its values are short: a long text in a column `source` is no label.
"""

import re
from collections.abc import Iterable

WORDS = frozenset(
    "id ids idx index uid uuid guid hash sha md source sources dataset datasets subset split category "
    "categories topic topics domain domains url urls uri link links timestamp timestamps date datetime created updated "
    "model models generator annotator author license licence language lang file filename".split()
)
QUALIFIERS = frozenset(
    "at level unique global original main parent row sample example data name chosen rejected prompt question "
    "instruction response answer output completion conversation dialogue thread message user".split()
)
LONGEST = 300


def words_of(name: object) -> list[str]:
    """The lower-case words and numbers of a column's name: chosen, model, 1 for chosen-model-1 and chosenModel1."""
    return re.findall(r"[^\W\d_]+|\d+", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", str(name)).lower())


def is_label(name: object, values: Iterable[object]) -> bool:
    """Whether a column, by its name and values, is a mere label."""
    words = [word for word in words_of(name) if not word.isdigit()]
    named = bool(WORDS.intersection(words)) and WORDS.union(QUALIFIERS).issuperset(words)
    return named and all(_is_short(value) for value in values)


def _is_short(value: object) -> bool:
    parts = value if isinstance(value, list | tuple) else [value]
    if any(isinstance(part, list | tuple | dict) for part in parts):
        return False
    return all(len(text := str(part)) <= LONGEST and "\n" not in text for part in parts)
