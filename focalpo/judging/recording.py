"""Every request to a judge and every reply, as JSON lines; a request that was answered well is answered from there.

A line holds the request's id, the attempt's outcome ("good" or what was wrong), the seconds it took, and both bodies:
never a header, so never a key. One process writes a recording at a time.
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
        ValueError: when a line of the file is no attempt; a torn last line, left by a kill, is dropped.
    """

    def __init__(self, path: Path, read_only: bool) -> None:
        self.path = path
        attempts = read_attempts(path) if path.exists() else ()
        self._replies = {attempt["id"]: attempt["reply"] for attempt in attempts if attempt["outcome"] == GOOD}
        self._lock = threading.Lock()
        self._file = None
        if not read_only:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Unbuffered: one line is one write, so a kill loses at most the line being written.
            self._file = path.open("ab", buffering=0)
            _cut_torn_line(path)

    def reply(self, request_id: str) -> dict | None:
        """The good reply recorded for this request."""
        return self._replies.get(request_id)

    def add(self, request_id: str, request: dict, outcome: str, reply: dict | str, seconds: float) -> None:
        """Append one attempt; a good one answers its request from now on."""
        attempt = {"id": request_id, "outcome": outcome, "seconds": round(seconds, 4)}
        line = json.dumps(attempt | {"request": request, "reply": reply}).encode() + b"\n"
        assert self._file is not None, "a read-only recording is never added to"
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
    """The name of a request: a hash of its body, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()


def read_attempts(path: Path) -> Iterator[dict]:
    """Every recorded attempt, in the order in which they ended; a torn last line, left by a kill, is no attempt.

    Raises:
        ValueError: when a line of the file is no attempt.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                break
            try:
                attempt = json.loads(line)
                whole = {"id", "outcome", "request", "reply"} <= attempt.keys()
            except (ValueError, AttributeError):
                whole = False
            if not whole:
                raise ValueError(
                    f"{path}, line {number} is no recorded attempt; delete that line, the rest stays valid"
                )
            yield attempt


def _cut_torn_line(path: Path) -> None:
    # Cut, not skipped: the next attempt would be glued to it.
    with path.open("r+b") as file:
        file.truncate(file.read().rfind(b"\n") + 1)
