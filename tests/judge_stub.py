"""A small OpenAI-compatible judge on loopback: records its requests and answers them with the test's script.

The script gets the request's body and how often that body was sent before, and returns a reply (a dict) or a `Fault`.
"""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from focalpo.judging.endpoint import Endpoint


@dataclass
class Fault:
    """A reply that is not a verdict: a status, a raw body, headers, and seconds to wait before sending."""

    status: int = 200
    body: bytes = b"{}"
    headers: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass
class Stub:
    """A running stub: its URL, and the body, path and headers of every request, in order of arrival."""

    url: str
    requests: list[dict] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    headers: list[Message] = field(default_factory=list)

    @property
    def authorizations(self) -> list[str | None]:
        return [each["authorization"] for each in self.headers]

    def times(self) -> Counter:
        return Counter(json.dumps(body, sort_keys=True) for body in self.requests)


def completion(text: str, logprobs: dict[str, float] | None = None) -> dict:
    """A chat completion as OpenAI's and vLLM's servers send it."""
    top = [{"token": token, "logprob": value, "bytes": None} for token, value in (logprobs or {}).items()]
    return {
        "id": "stub",
        "object": "chat.completion",
        "created": 0,
        "model": "stub",
        "choices": [
            {
                "index": 0,
                "finish_reason": "stop",
                "message": {"role": "assistant", "content": text},
                "logprobs": {"content": [{**top[0], "top_logprobs": top}]} if top else None,
            }
        ],
        "usage": {"prompt_tokens": 10, "completion_tokens": 1, "total_tokens": 11},
    }


def opened(url: str | None, folder: Path, **changed: object) -> Endpoint:
    """An endpoint at `url`, recording into `folder/records.jsonl`."""
    settings = {"api_key_env": None, "concurrency": 4, "timeout_seconds": 5.0, "max_attempts": 4} | changed
    return Endpoint(base_url=url, records=folder / "records.jsonl", **settings)


class Server(ThreadingHTTPServer):
    """Takes all connections that are opened at once, on a busy machine too."""

    daemon_threads = True
    request_queue_size = 128


@contextmanager
def judge_stub(script: Callable[[dict, int], dict | Fault]) -> Iterator[Stub]:
    """Serve `script` on a free port until the block ends."""
    stub = Stub("")
    seen: Counter = Counter()
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            key = json.dumps(body, sort_keys=True)
            with lock:
                stub.requests.append(body)
                stub.paths.append(self.path)
                stub.headers.append(self.headers)
                before, seen[key] = seen[key], seen[key] + 1
            answer = script(body, before)
            fault = answer if isinstance(answer, Fault) else Fault(body=json.dumps(answer).encode())
            time.sleep(fault.seconds)
            lines = [f"HTTP/1.1 {fault.status} x", f"content-length: {len(fault.body)}"]
            lines += [f"{name}: {value}" for name, value in fault.headers.items()]
            try:
                self.wfile.write("\r\n".join(lines).encode() + b"\r\n\r\n" + fault.body)
            except (BrokenPipeError, ConnectionResetError):
                pass  # the client timed out and closed the connection

        def log_message(self, *_: object) -> None:
            pass

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        stub.url = f"http://127.0.0.1:{server.server_port}/v1"
        yield stub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
