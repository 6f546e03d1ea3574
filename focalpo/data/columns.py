"""No column is dropped in silence: what a schema does not read is empty, a label, checked, or named by the user.

empty in every row                         ids, sources, models (focalpo/data/labels.py)
score_chosen beside score_rejected         compared with the pair, row by row
output, messages                           must repeat one of the two answers
anything else                              refused until data.ignore_columns names it
"""

import json
import shlex
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from focalpo.data.labels import is_label, words_of
from focalpo.data.values import MESSAGE_KEYS, BadRow, decoded, is_empty, shown
from focalpo.stages.preferences import is_number

SCORES = frozenset("score scores rating ratings reward rewards grade grades".split())
REPEATS = ("output", "messages")
"""What Alpaca and HuggingFaceH4 keep beside a pair for supervised training."""
NO_SCORE = "score that is no number"


@dataclass(frozen=True, slots=True)
class ScoreColumns:
    """Two columns with the scores of the chosen and of the rejected answer."""

    chosen: str
    rejected: str

    @property
    def contradiction(self) -> str:
        """The problem of a row whose scores prefer the rejected answer."""
        return f"scores contradict the pair ({shown(self.chosen)} < {shown(self.rejected)})"

    def equal(self, row: dict) -> bool:
        """Whether a row's scores are equal; a row without any score is not compared.

        Raises:
            BadRow: when a score is no number, or the rejected answer has the higher one.
        """
        better, worse = row.get(self.chosen), row.get(self.rejected)
        if is_empty(better) and is_empty(worse):
            return False
        if not is_number(better) or not is_number(worse):
            raise BadRow(NO_SCORE)
        if better < worse:
            raise BadRow(self.contradiction)
        return better == worse


def score_columns(rows: Sequence[dict]) -> list[ScoreColumns]:
    """The pairs of columns whose names differ in chosen and rejected only, name a score, and mostly hold numbers.

    Published spellings are score_chosen, chosen_score, chosen_rating, chosen-rating, chosen_avg_rating, reward_chosen.
    """
    columns = column_values(rows)
    named = {tuple(words_of(column)): column for column in columns}
    found = []
    for words, column in named.items():
        partner = named.get(tuple("rejected" if word == "chosen" else word for word in words))
        if "chosen" in words and SCORES.intersection(words) and partner is not None:
            values = [value for name in (column, partner) for value in columns[name] if not is_empty(value)]
            if 2 * sum(map(is_number, values)) > len(values):
                found.append(ScoreColumns(column, partner))
    return found


def check_columns(rows: Sequence[dict], read: Collection[str], source: str, ignored: Sequence[str]) -> list[str]:
    """The columns that are not read and may stay so: labels, in the order of the file.

    Raises:
        ValueError: names all columns that are neither read nor harmless.
    """
    unread = {name: values for name, values in column_values(rows).items() if name not in read}
    filled = {name: kept for name, values in unread.items() if (kept := [v for v in values if not is_empty(v)])}
    harmless = [name for name, values in filled.items() if is_label(name, values) or _repeats(name, rows)]
    unknown = [name for name in filled if name not in harmless]
    if unknown:
        raise ValueError(
            f"{source}: {_named(unknown)} not read and could change what a pair means; "
            f"if not, set {override([*ignored, *unknown])}"
        )
    return harmless


def without(row: dict, ignored: Collection[str]) -> dict:
    """A row without the ignored columns, and with messages without the ignored keys."""
    return {name: _without_keys(value, ignored) for name, value in row.items() if name not in ignored}


def check_ignored(ignored: Sequence[str], tables: Iterable[Sequence[dict]], source: str) -> None:
    """Check that every name to ignore is a column or a message key of the data.

    Raises:
        ValueError: names those that are none; they are probably mistyped.
    """
    if not ignored:
        return
    rows = [row for table in tables for row in table]
    names = {name for row in rows for name in row}
    if not names.issuperset(ignored):  # keys of messages only if need be: JSON text has to be read for them
        names |= {key for row in rows for value in row.values() for key in _message_keys(decoded(value))}
    missing = [name for name in ignored if name not in names]
    if missing:
        raise ValueError(
            f"{source} has no column or message key {', '.join(map(shown, missing))}; "
            f"remove it from data.ignore_columns, or fix the name (columns: {', '.join(sorted(map(shown, names)))})"
        )


def column_values(rows: Sequence[dict]) -> dict[str, list]:
    """The values of each column, of the rows that have it."""
    columns: dict[str, list] = {}
    for row in rows:
        for name, value in row.items():
            columns.setdefault(name, []).append(value)
    return columns


def override(names: Sequence[str]) -> str:
    """The setting that ignores these names, as it is typed in a shell."""
    plain = all(name.isidentifier() and name.isascii() for name in map(str, names))
    if plain:
        return f"data.ignore_columns=[{','.join(names)}]"
    quoted = ",".join(json.dumps(shown(name), ensure_ascii=False) for name in names)
    return shlex.quote(f"data.ignore_columns=[{quoted}]")


def _named(columns: Sequence[str]) -> str:
    names = ", ".join(map(shown, columns))
    return f"column {names} is" if len(columns) == 1 else f"columns {names} are"


def _repeats(name: str, rows: Sequence[dict]) -> bool:
    """Whether a supervised column holds one of the row's two answers, wherever it holds anything."""
    if name not in REPEATS:
        return False
    return all(row[name] in (row.get("chosen"), row.get("rejected")) for row in rows if not is_empty(row.get(name)))


def _message_keys(value: object) -> Iterable[str]:
    entries = [value] if isinstance(value, dict) else value if isinstance(value, list) else []
    return (key for entry in entries if isinstance(entry, dict) for key in entry if key not in MESSAGE_KEYS)


def _without_keys(value: object, ignored: Collection[str]) -> object:
    if isinstance(value, dict):
        return {key: each for key, each in value.items() if key not in ignored or key in MESSAGE_KEYS}
    if isinstance(value, list):
        return [_without_keys(each, ignored) if isinstance(each, dict) else each for each in value]
    return value
