"""Small files of pairs."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


def plain(number: int) -> dict[str, str]:
    return {"prompt": f"question {number}", "chosen": f"yes {number}", "rejected": "no"}


def write(path: Path, rows: list[dict]) -> Path:
    """Write rows in the format of the suffix."""
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
        return path
    lines = ".jsonl" in path.suffixes
    content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows) if lines else json.dumps(rows)
    path.write_bytes(gzip.compress(content.encode()) if path.suffix == ".gz" else content.encode())
    return path
