"""Records every judge request and reply as JSON lines; a request with a good reply is answered from the recording.

A line holds the request's id, the attempt's outcome ("good" or what was wrong), the seconds it took, the batch that it
was in, if any, and both bodies: never a header, so never a key. One process at a time writes a recording.
"""

import hashlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path

GOOD = "good"


class Recording:
    """The recorded attempts of one endpoint, and the good reply to each request that has one.

    Raises:
        ValueError: if a line of the file is not an attempt; a torn last line, left by a kill, is dropped.
    """

    def __init__(self, path: Path, read_only: bool) -> None:
        self.path = path
        attempts = list(read_attempts(path)) if path.exists() else []
        self._replies = {attempt["id"]: attempt["reply"] for attempt in attempts if attempt["outcome"] == GOOD}
        self._asked = {attempt["id"] for attempt in attempts}
        self._batched = {(attempt["id"], attempt["batch"]) for attempt in attempts if "batch" in attempt}
        self._lock = threading.Lock()
        self._file = None
        if not read_only:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Unbuffered: one line is one write, so a kill loses at most the line being written.
            self._file = path.open("ab", buffering=0)
            cut_torn_line(path)

    def reply(self, request_id: str) -> dict | None:
        """The good reply recorded for this request, or None."""
        return self._replies.get(request_id)

    def asked(self, request_id: str) -> bool:
        """Whether any attempt at this request was recorded when the recording was opened."""
        return request_id in self._asked

    def has(self, request_id: str, batch: str) -> bool:
        """Whether this request's attempt in this batch is recorded."""
        return (request_id, batch) in self._batched

    def add(
        self, request_id: str, request: dict, outcome: str, reply: dict | str, seconds: float, batch: str | None = None
    ) -> None:
        """Append one attempt; a good reply answers its request from now on."""
        attempt = {"id": request_id, "outcome": outcome, "seconds": round(seconds, 4)}
        attempt |= {} if batch is None else {"batch": batch}
        line = json.dumps(attempt | {"request": request, "reply": reply}).encode() + b"\n"
        assert self._file is not None, "a read-only recording cannot be extended"
        with self._lock:
            self._file.write(line)
            if outcome == GOOD:
                assert isinstance(reply, dict)
                self._replies[request_id] = reply

    def close(self) -> None:
        """Close the file; recorded replies can still be read."""
        if self._file is not None:
            self._file.close()


def request_id(request: dict) -> str:
    """Identify a request by a hash of its body, independent of the order of its keys."""
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()


def read_attempts(path: Path) -> Iterator[dict]:
    """Yield every recorded attempt in the order in which they ended; skips a torn last line, left by a kill.

    Raises:
        ValueError: if a line of the file is not an attempt.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                break
            try:
                attempt = json.loads(line)
                complete = {"id", "outcome", "request", "reply"} <= attempt.keys()
            except (ValueError, AttributeError):
                complete = False
            if not complete:
                raise ValueError(
                    f"{path}, line {number} is not a recorded attempt; delete that line, the rest stays valid"
                )
            yield attempt


def cut_torn_line(path: Path) -> None:
    """Remove a last line that a kill left without its end."""
    # Truncated, not skipped: otherwise the next attempt would be appended to the torn line.
    with path.open("r+b") as file:
        file.truncate(file.read().rfind(b"\n") + 1)
