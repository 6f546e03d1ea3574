"""A loopback HTTP server with OpenAI's API: JSON request in, `complete(request)` out, with faults on demand.

Standard library only. It does not depend on the pocket world: `complete` is the judge.
"""

import itertools
import json
import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any

HOST = "127.0.0.1"
SLOW_SECONDS = 2.0
FAULT_KINDS = ("429", "500", "garbage", "truncated", "slow")


@dataclass(frozen=True, slots=True)
class Faults:
    """How often requests fail, by kind; which ones fail is a pure function of the seed and the request's number.

    `429` and `500` are HTTP errors, `garbage` is a well-formed reply without a verdict, `truncated` is half of a good
    reply's JSON, `slow` is a good reply after 2 seconds.
    """

    rates: tuple[tuple[str, float], ...] = ()
    seed: int = 0

    @classmethod
    def parse(cls, text: str, seed: int) -> "Faults":
        """Parse a setting such as `429=0.1,500=0.1,garbage=0.1,slow=0.05`; the empty text means no faults.

        Raises:
            ValueError: for an unknown kind, a share that is not a probability, or shares whose sum exceeds 1.
        """
        rates = {}
        for item in filter(None, text.split(",")):
            kind, _, share = item.partition("=")
            try:
                rates[kind] = float(share)
            except ValueError:
                rates[kind] = -1.0
            if kind not in FAULT_KINDS or not 0 <= rates[kind] <= 1:
                kinds = ", ".join(FAULT_KINDS)
                raise ValueError(f"{item!r} is not a fault; write KIND=SHARE, with KIND of {kinds} and SHARE in [0, 1]")
        if sum(rates.values()) > 1 + 1e-9:
            raise ValueError(f"the sum of the shares of {text!r} exceeds 1; lower them")
        return cls(tuple(rates.items()), seed)

    def strike(self, number: int) -> str | None:
        """The fault of request `number`, or None."""
        draw = random.Random(f"pocket fault {self.seed} {number}").random()
        for kind, share in self.rates:
            draw -= share
            if draw < 0:
                return kind
        return None


class Server(ThreadingHTTPServer):
    """Serves `complete` on a loopback port, one thread per connection.

    Raises:
        OSError: if the port is taken.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port: int, model: str, complete: Callable[..., dict[str, Any]], faults: Faults) -> None:
        self.model, self.complete, self.faults = model, complete, faults
        self.numbers = itertools.count()  # `next` is atomic: threads need no lock
        super().__init__((HOST, port), _Handler)

    def server_bind(self) -> None:
        """Bind without HTTPServer's lookup of the host's full name, which can hang for seconds without a resolver."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = HOST, self.server_address[1]

    @property
    def url(self) -> str:
        """The base URL for clients."""
        return f"http://{HOST}:{self.server_port}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore a client that hangs up, as one with a short timeout does on purpose; print a traceback otherwise."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # head and body are sent in one packet

    def do_GET(self) -> None:
        if self.path != "/v1/models":
            return self._fail(404, f"no such path: GET {self.path}; use /v1/models")
        card = {"id": self.server.model, "object": "model", "created": 0, "owned_by": "focalpo"}
        self._reply(200, {"object": "list", "data": [card]})

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal():
            self.close_connection = True  # the body cannot be skipped
            return self._fail(411, "the request needs a Content-Length")
        body = self.rfile.read(int(length))
        if self.path != "/v1/chat/completions":
            return self._fail(404, f"no such path: POST {self.path}; use /v1/chat/completions")
        fault = self.server.faults.strike(next(self.server.numbers))
        if fault == "429":
            return self._fail(429, "rate limit reached; retry after a moment", {"retry-after-ms": "20"})
        if fault == "500":
            return self._fail(500, "internal error of the judge; retry")
        if fault == "slow":
            time.sleep(SLOW_SECONDS)
        try:
            reply = self.server.complete(json.loads(body), garbage=fault == "garbage")
        except ValueError as error:
            return self._fail(400, str(error))
        self._reply(200, reply, share=0.5 if fault == "truncated" else 1.0)

    def _fail(self, status: int, message: str, headers: dict[str, str] | None = None) -> None:
        self._reply(status, {"error": {"message": message, "type": "pocket_judge", "code": str(status)}}, headers)

    def _reply(
        self, status: int, content: dict[str, Any], headers: dict[str, str] | None = None, share: float = 1.0
    ) -> None:
        body = json.dumps(content).encode()
        body = body[: int(share * len(body))]
        self.send_response(status)
        fields = {"Content-Type": "application/json", "Content-Length": str(len(body))} | (headers or {})
        for name, value in fields.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (the base class's name)
        """Log nothing: thousands of judgements are normal."""
