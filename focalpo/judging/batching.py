"""Requests to a judge in batches of an OpenAI-style server: half the price, replies within a day.

    rounds of the same calls: requests without a reply wait --> one batch per model --> files, /v1/batches --> replies

What was sent is written down before and after it is sent (batches.jsonl), so that a run that was killed asks for the
batches that are under way and pays for nothing twice. A row that failed, or that an expired batch left out, waits for
the next round.
"""

import hashlib
import json
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import openai

from focalpo.judging.price import BATCH_SHARE, Spending, most_usd
from focalpo.judging.recording import cut_torn_line
from focalpo.judging.replies import Attempt, Check, read_body, read_status
from focalpo.stages.reading import first_line, read_json_rows

BATCHES = "batches.jsonl"
URL = "/v1/chat/completions"
MOST_REQUESTS = 50_000
MOST_BYTES = 150 << 20
"""A batch may have 50,000 requests and 200 MB (read: the API reference of /batches)."""
POLL_SECONDS = 30.0
ENDED = ("completed", "failed", "expired", "cancelled")


class BatchError(ValueError):
    """A batch cannot be sent or asked for."""


@dataclass(frozen=True, slots=True)
class Row:
    """What came of one request of a batch."""

    batch: str
    status: int | None
    body: object
    error: str

    def attempt(self, asked: dict, check: Check) -> Attempt:
        """The row as an attempt of a request with the body `asked`."""
        if self.status is None:
            return Attempt(f"not in the batch: {self.error}")
        failed = read_status(self.status, json.dumps(self.body), asked)
        return failed or read_body(self.body, check)


class Batches:
    """The requests that wait for the next batch, and the replies that came in earlier ones.

    Args:
        folder: has the file of what was sent.
        clean: removes the key from a text.
    """

    def __init__(self, client: openai.OpenAI, folder: Path, spending: Spending, clean: Callable[[str], str]) -> None:
        self._client, self._spending, self._clean = client, spending, clean
        self._path = folder / BATCHES
        self.waiting: dict[str, dict] = {}
        self.replies: dict[str, Row] = {}
        self._fetched: set[str] = set()
        if self._path.exists():
            cut_torn_line(self._path)

    def run(self) -> None:
        """Send what waits and fetch every reply.

        Raises:
            BatchError: in one line, if the server refuses; what was sent is fetched by the next run.
        """
        with self._one_line():
            for part in self._parts():
                self._send(part)
            self.waiting.clear()
            self._fetch()

    def resume(self) -> None:
        """Fetch the replies of batches that an earlier run has sent.

        Raises:
            BatchError: in one line, if the server refuses.
        """
        with self._one_line():
            self._fetch()

    @contextmanager
    def _one_line(self) -> Iterator[None]:
        try:
            yield
        except openai.APIError as error:
            raise BatchError(
                f"{self._clean(first_line(error))[:300]}; run again, it goes on with the batches that were sent"
            ) from None

    def _fetch(self) -> None:
        """Wait for every batch that was sent and not fetched, and keep its replies."""
        for token, sent in self._open().items():
            if token in self._fetched:
                continue
            batch_id = sent.get("batch") or self._adopted(token)
            if batch_id is None:  # killed before it was sent
                self._note({"token": token, "done": "never sent"})
                continue
            batch = self._client.batches.retrieve(batch_id)
            while batch.status not in ENDED:
                time.sleep(POLL_SECONDS)
                batch = self._client.batches.retrieve(batch_id)
            if batch.status == "failed":
                self._note({"token": token, "done": batch.status})
                errors = (batch.errors.data if batch.errors else None) or []
                said = "; ".join(str(error.message) for error in errors[:3])
                raise BatchError(f"batch {batch_id} failed: {self._clean(said)[:300]}; correct this and run again")
            self._keep(batch_id, batch, sent["requests"])
            self._fetched.add(token)

    def settle(self) -> None:
        """Note that the fetched replies are recorded, so that no later run fetches their batches again."""
        for token in self._fetched:
            self._note({"token": token, "done": "fetched"})
        self._fetched.clear()
        self.replies.clear()

    def _parts(self) -> Iterable[list[str]]:
        """What waits in parts of one model, of the server's size and within the budget."""
        by_model: dict[str, list[str]] = {}
        for name, body in self.waiting.items():
            by_model.setdefault(str(body["model"]), []).append(name)
        most, fits = 0.0, False
        for names in by_model.values():
            part, size = [], 0
            for name in names:
                bound, line = most_usd(self.waiting[name], self._spending.price) * BATCH_SHARE, len(self._line(name))
                if not self._spending.affords(most + bound):
                    break
                if len(part) == MOST_REQUESTS or size + line > MOST_BYTES:
                    yield part
                    part, size = [], 0
                part, size, most, fits = [*part, name], size + line, most + bound, True
            if part:
                yield part
        if self.waiting and not fits:
            raise BatchError("the budget is used up; raise judge.endpoint.budget_usd and run again")

    def _line(self, name: str) -> str:
        return json.dumps({"custom_id": name, "method": "POST", "url": URL, "body": self.waiting[name]}) + "\n"

    def _send(self, names: list[str]) -> None:
        token = uuid.uuid4().hex
        content = "".join(map(self._line, names)).encode()
        self._note({"token": token, "requests": names, "sha256": hashlib.sha256(content).hexdigest()})
        file = self._client.files.create(file=("requests.jsonl", content), purpose="batch")
        batch = self._client.batches.create(
            input_file_id=file.id, endpoint=URL, completion_window="24h", metadata={"token": token}
        )
        self._note({"token": token, "batch": batch.id})
        print(f"batch {batch.id}: {len(names)} requests sent, replies come within 24 h", flush=True)

    def _adopted(self, token: str) -> str | None:
        """The id of a batch that the server created before a killed run could write it down."""
        listed = self._client.batches.list(limit=100)  # iterating fetches page after page
        return next((batch.id for batch in listed if (batch.metadata or {}).get("token") == token), None)

    def _keep(self, batch_id: str, batch: openai.types.Batch, names: Iterable[str]) -> None:
        found: dict[str, Row] = {}
        for file in filter(None, (batch.output_file_id, batch.error_file_id)):
            for line in self._client.files.content(file).text.splitlines():
                if line.strip():
                    row = json.loads(self._clean(line))
                    found[str(row.get("custom_id"))] = _row(batch_id, row)
        lost = Row(batch_id, None, None, f"the batch is {batch.status}")
        self.replies |= {name: found.get(name, lost) for name in names}

    def _open(self) -> dict[str, dict]:
        """What was sent and not fetched, by token."""
        found: dict[str, dict] = {}
        for note in read_json_rows(self._path) if self._path.exists() else ():
            found[note["token"]] = found.get(note["token"], {}) | note
        return {token: sent for token, sent in found.items() if "done" not in sent}

    def _note(self, note: dict) -> None:
        with self._path.open("ab", buffering=0) as file:  # one line is one write: a kill tears at most the last line
            file.write(json.dumps(note).encode() + b"\n")


def _row(batch: str, row: dict) -> Row:
    response, error = row.get("response") or {}, row.get("error") or {}
    said = f"{error.get('code')}: {error.get('message')}" if isinstance(error, dict) and error else str(error or "")
    return Row(batch, response.get("status_code"), response.get("body"), said)
