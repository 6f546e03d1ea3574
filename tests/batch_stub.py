"""A stand-in for a server with /files and /batches, in memory: answers each request of a batch by the test's script."""

import itertools
import json
import re
from collections.abc import Callable

import httpx2

from tests.judge_stub import Fault

Script = Callable[[dict, int], dict | Fault]


class BatchServer:
    """Batches end at the second look; `script` answers a request, by its body and how often it was sent before.

    `ends` gives the status of each batch in order (default completed); a batch that is not completed has answers to the
    first half of its requests. `expected_key` must come with every call.
    """

    def __init__(
        self, script: Callable[[dict, int], dict | Fault], expected_key: str, ends: tuple[str, ...] = ()
    ) -> None:
        self.script, self.key, self.ends = script, f"Bearer {expected_key}", ends
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, dict] = {}
        self.sent: list[list[str]] = []
        self.seen: dict[str, int] = {}
        self.die_at: str | None = None
        self._numbers = itertools.count()

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        assert request.headers["authorization"] == self.key
        path = request.url.path.removeprefix("/v1")
        if self.die_at == f"{request.method} {path.split('/')[1]}":
            raise KeyboardInterrupt
        if request.method == "POST" and path == "/files":
            return self._reply(self._upload(request.read()))
        if request.method == "POST" and path == "/batches":
            return self._reply(self._create(json.loads(request.read())))
        if path == "/batches":
            listed = list(self.batches.values())
            return self._reply({"object": "list", "data": listed, "has_more": False})
        if path.startswith("/batches/"):
            return self._reply(self._look(path.removeprefix("/batches/")))
        return httpx2.Response(200, content=self.files[path.split("/")[2]])

    def _upload(self, body: bytes) -> dict:
        name = f"file-{next(self._numbers)}"
        (content,) = re.findall(rb'filename="requests.jsonl".*?\r\n\r\n(.*?)\r\n--', body, re.DOTALL)
        assert b'name="purpose"\r\n\r\nbatch' in body
        self.files[name] = content
        return {"id": name, "object": "file", "bytes": len(content), "created_at": 0, "filename": "requests.jsonl",
                "purpose": "batch", "status": "processed"}  # fmt: skip

    def _create(self, asked: dict) -> dict:
        assert asked["endpoint"] == "/v1/chat/completions" and asked["completion_window"] == "24h"
        rows = [json.loads(line) for line in self.files[asked["input_file_id"]].splitlines()]
        assert {(row["method"], row["url"]) for row in rows} == {("POST", "/v1/chat/completions")}
        self.sent.append([row["custom_id"] for row in rows])
        name = f"batch_{len(self.batches)}"
        self.batches[name] = asked | {"id": name, "object": "batch", "created_at": 0, "status": "validating"}
        return self.batches[name]

    def _look(self, name: str) -> dict:
        batch = self.batches[name]
        if batch["status"] == "validating":
            batch["status"] = "in_progress"
        elif batch["status"] == "in_progress":
            number = int(name.removeprefix("batch_"))
            batch["status"] = self.ends[number] if number < len(self.ends) else "completed"
            self._answer(batch)
        return batch

    def _answer(self, batch: dict) -> None:
        if batch["status"] == "failed":
            error = {"code": "model_not_found", "message": "The provided model is not supported by the Batch API."}
            batch["errors"] = {"object": "list", "data": [error]}
            return
        rows = [json.loads(line) for line in self.files[batch["input_file_id"]].splitlines()]
        done = rows if batch["status"] == "completed" else rows[: len(rows) // 2]
        lines: dict[str, list[dict]] = {"output_file_id": [], "error_file_id": []}
        for row in done:
            before = self.seen[row["custom_id"]] = self.seen.get(row["custom_id"], -1) + 1
            answer = self.script(row["body"], before)
            failed = isinstance(answer, Fault)
            response = {"status_code": answer.status if failed else 200, "request_id": "r",
                        "body": json.loads(answer.body) if failed else answer}  # fmt: skip
            kind = "error_file_id" if failed else "output_file_id"
            lines[kind].append({"id": "x", "custom_id": row["custom_id"], "response": response, "error": None})
        for row in rows[len(done) :]:
            error = {"code": "batch_expired", "message": "This request could not be executed in time."}
            lines["error_file_id"].append({"id": "x", "custom_id": row["custom_id"], "response": None, "error": error})
        for kind, found in lines.items():
            if found:
                batch[kind] = f"file-{next(self._numbers)}"
                self.files[batch[kind]] = "".join(json.dumps(line) + "\n" for line in found[::-1]).encode()

    @staticmethod
    def _reply(value: dict) -> httpx2.Response:
        return httpx2.Response(200, json=value)
