"""Files that others wrote, read completely or refused in one line: text, gzipped text, JSON, JSON lines.

Python's own JSON reader keeps the last of two equal keys and has errors of four classes; `parse_json` has one, and
refuses an object that names a key twice.
"""

import copy
import errno
import gzip
import json
import zlib
from collections import Counter
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

GZIP = b"\x1f\x8b"
REMEDIES = {
    errno.EACCES: "make it readable for this user",
    errno.EPERM: "make it readable for this user",
    errno.ENAMETOOLONG: "the name is too long; rename it",
    errno.ELOOP: "its links point at each other; name the file itself",
    errno.EMFILE: "too many files are open; raise `ulimit -n`",
    errno.ENOMEM: "use a machine with more memory, or a smaller file",
    errno.ESTALE: "the file system lost it; mount it again",
    errno.EIO: "the disk or network drive fails; copy the file elsewhere",
    errno.ENOSPC: "the disk is full; free some space",
    errno.EROFS: "the disk is read-only; use a writable folder",
}


def os_remedy(error: OSError) -> str:
    """What the system said, and what to do about it."""
    said = error.strerror or str(error)
    return f"{said}; {REMEDIES.get(error.errno or 0, 'check the file and its disk')}"


def first_line(error: BaseException) -> str:
    """The first line of an error message without its final period, because a remedy follows on the same line."""
    return str(error).strip().partition("\n")[0].rstrip(".")


def check_file(path: Path) -> None:
    """Check that a path is a file.

    Raises:
        ValueError: when it is none, or may not be looked at.
    """
    try:
        if path.is_dir():
            raise ValueError(f"{path} is not a file but a folder; name a file in it")
        if not path.is_file():
            raise ValueError(f"{path} is not a file; check the path (relative ones start at {Path.cwd()})")
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {os_remedy(error)}") from error


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, gunzipped if it is gzipped, without a byte order mark; lines end with \\n.

    Raises:
        ValueError: when it is missing, unreadable, empty, not UTF-8, or a damaged archive.
    """
    check_file(path)
    try:
        content = path.read_bytes()
        if path.suffix == ".gz" or content.startswith(GZIP):
            content = gzip.decompress(content)
        text = content.decode("utf-8-sig")
    except EOFError as error:
        raise ValueError(f"{path} is a truncated gzip file; download it again") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} is not a complete gzip file ({error}); download it again, or drop .gz") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 at byte {error.start}; convert it to UTF-8") from error
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {os_remedy(error)}") from error
    if not text.strip():
        raise ValueError(f"{path} is empty; download or write it again")
    # A raw line end inside a JSON string is no JSON, so nothing but ends of lines is replaced.
    return text.replace("\r\n", "\n").replace("\r", "\n")


def parse_json(text: str) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: when it is not JSON, names a key twice in one object, holds a number of too many digits, or is
            nested too deeply; where the reader knows the line, the error has `lineno`.
    """
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def read_json(path: Path, remedy: str) -> Any:
    """The value of a JSON file, gzipped or not.

    Raises:
        ValueError: as `read_text` and `parse_json`, in one line with the path, the line number and `remedy`.
    """
    text = read_text(path)
    try:
        return parse_json(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} line {error.lineno} is not JSON ({error.msg}); {remedy}") from error
    except RepeatedKey as error:
        raise ValueError(f"{path} {error}{_row_of_repeated_key(text)}; keep one of the two") from error
    except ValueError as error:
        raise ValueError(f"{path} cannot be read ({first_line(error)}); {remedy}") from error


def read_yaml(path: Path, remedy: str) -> dict:
    """The keys and values of a YAML file.

    Raises:
        ValueError: as `read_text`; when it is not YAML, with the line; when it holds anything but keys and values.
    """
    text = read_text(path)
    try:
        values = copy.deepcopy(_parsed_yaml(text))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {' '.join(str(error).split())}; {remedy}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold keys and values, but holds {type(values).__name__}; {remedy}")
    return values


@lru_cache(maxsize=64)
def _parsed_yaml(text: str) -> Any:
    """A plan reads the same few protocols for each of its stages."""
    return yaml.safe_load(text)


def read_json_rows(path: Path) -> list[dict]:
    """The rows of a JSON-lines file, one object per line.

    Raises:
        ValueError: when a line is not a JSON object; the message has the line number.
    """
    rows = []
    # Not `splitlines`: it also breaks at U+2028 and similar separators, which a JSON string may contain raw.
    for number, line in enumerate(read_text(path).rstrip().split("\n"), 1):
        try:
            row = parse_json(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path} line {number} is not JSON ({error.msg}); fix or delete that line") from error
        except RepeatedKey as error:
            raise ValueError(f"{path} line {number} {error}; keep one of the two") from error
        except ValueError as error:
            raise ValueError(f"{path} line {number} cannot be read ({first_line(error)}); fix or delete it") from error
        if not isinstance(row, dict):
            kind = type(row).__name__
            raise ValueError(f"{path} line {number} is not a JSON object but {kind}; write one row per line")
        rows.append(row)
    return rows


class KeysMissing(ValueError):
    """A file that a stage writes lacks keys that it always has."""


def check_keys(file: Path, values: object, kinds: Mapping[str, type], remedy: str) -> None:
    """Check that what a file holds has these keys with values of these types.

    Raises:
        KeysMissing: when one is missing or of another type.
    """
    for name, kind in kinds.items():
        if not isinstance(values, dict) or not isinstance(values.get(name), kind):
            raise KeysMissing(f"{file} was edited (no {kind.__name__} under {name!r}); {remedy}")


def is_encodable(content: str) -> bool:
    """Whether UTF-8 and the tokenizers can read a text."""
    try:
        content.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in content


class RepeatedKey(ValueError):
    """An object names a key twice."""


def _unique(pairs: list[tuple[str, Any]]) -> dict:
    values = dict(pairs)
    if len(values) != len(pairs):
        [(key, _), *_] = Counter(key for key, _ in pairs).most_common(1)
        raise RepeatedKey(f"names the key {key!r} twice in one object")
    return values


def _row_of_repeated_key(text: str) -> str:
    """Which row of a list of objects names a key twice, as the end of a message; empty where the file is no list."""
    decoder = json.JSONDecoder(object_pairs_hook=_unique)
    start, row = text.find("{") if text.lstrip().startswith("[") else -1, 1
    while start >= 0:
        try:
            _, end = decoder.raw_decode(text, start)
        except RepeatedKey:
            return f", in row {row}"
        start, row = text.find("{", end), row + 1
    return ""
