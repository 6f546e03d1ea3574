"""Data files -> rows: JSON lines, a JSON list or parquet, read completely or refused in one line."""

from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from focalpo.data.values import UNREADABLE, shown
from focalpo.stages.reading import check_file, first_line, os_remedy, read_json, read_json_rows

SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".parquet")


def read_rows(path: Path) -> list[dict]:
    """All rows of a .jsonl, .json (one list) or .parquet file; the JSON ones may be gzipped.

    Raises:
        ValueError: when the file is missing, empty or truncated, its suffix is unknown, or its format is another.
    """
    path = Path(path)
    check_file(path)
    if not path.name.endswith(SUFFIXES):
        raise ValueError(f"{path} has an unknown suffix; convert it to one of {', '.join(SUFFIXES)}")
    if path.suffix == ".parquet":
        rows = parquet_rows(path)
    elif path.name.removesuffix(".gz").endswith(".jsonl"):
        rows = read_json_rows(path)
    else:
        rows = json_list(path)
    if not rows:
        raise ValueError(f"{path} has no rows; download or write it again")
    return rows


def json_list(path: Path) -> list[dict]:
    """The rows of a JSON file that is one list of objects.

    Raises:
        ValueError: when it is anything else; if it is not JSON, the message has the line number.
    """
    rows = read_json(path, "fix it, or name it .jsonl if each line is a row")
    if not isinstance(rows, list):
        raise ValueError(f"{path} is not a list of objects; write it as [{{...}}, {{...}}]")
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            kind = type(row).__name__
            raise ValueError(f"{path} is not a list of objects: row {number} is {kind}; write it as [{{...}}, {{...}}]")
    return rows


def parquet_rows(path: Path) -> list[dict]:
    """The rows of a parquet file.

    Raises:
        ValueError: when it is not a complete parquet file, or a value cannot be read.
    """
    try:
        # Not `read_table`: it makes a column of a folder called a=b in the path.
        with pq.ParquetFile(path) as file:
            table = file.read()
    except (pa.ArrowException, OSError) as error:  # OSError is how Arrow reports a damaged footer or page, too
        if isinstance(error, OSError) and error.errno:
            raise ValueError(f"{path} cannot be read: {os_remedy(error)}") from error
        raise ValueError(f"{path} is not a complete parquet file ({first_line(error)}); download it again") from error
    return table_rows(table, str(path))


def table_rows(table: pa.Table, source: str) -> list[dict]:
    """The rows of an Arrow table; a text that is not UTF-8 becomes `UNREADABLE`, so that its row can be named.

    Raises:
        ValueError: when two columns have one name, or a value has no Python counterpart.
    """
    repeated = [name for name, count in Counter(table.column_names).items() if count > 1]
    if repeated:
        raise ValueError(f"{source} has two columns {shown(repeated[0])}; rename or remove one")
    names = table.column_names
    columns = [_values(table[name], f"{source} column {shown(name)}") for name in names]
    return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]


def _values(column: pa.ChunkedArray, where: str) -> list[Any]:
    try:
        return column.to_pylist()
    except (ValueError, OverflowError):  # one value that Python cannot hold; UnicodeDecodeError is a ValueError
        return [_value(scalar, f"{where} row {number}") for number, scalar in enumerate(column, 1)]


def _value(scalar: pa.Scalar, where: str) -> Any:
    try:
        return scalar.as_py()
    except UnicodeDecodeError:
        return UNREADABLE
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{where} cannot be read ({first_line(error)}); remove or convert the column") from error
