"""The address of a judge; a judge started here listens on loopback and stops when the context closes.

http://HOST:PORT/v1                      a running server: only its address
pocket --faults 429=0.1                  the pocket judge, with its own arguments
vllm MODEL --max-logprobs 20 ...         vLLM's OpenAI server, with its own arguments
"""

import contextlib
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

from focalpo.judging.endpoint import PATIENCE_SECONDS, Endpoint
from focalpo.judging.price import Price

START_SECONDS = {"pocket": 30, "vllm": 3600}
"""A 70B judge loads for many minutes; a server that cannot start exits by itself."""
STOP_SECONDS = 30


@contextlib.contextmanager
def endpoint_of(settings: dict, records: Path) -> Iterator[Endpoint]:
    """Open the endpoint that the plain values of `judge.endpoint` describe, recording into the file `records`."""
    with address_of(settings["base_url"]) as address, endpoint_at(address, settings, records) as endpoint:
        yield endpoint


def endpoint_at(
    address: str | None, settings: dict, records: Path, patience_seconds: float = PATIENCE_SECONDS
) -> Endpoint:
    """The endpoint at an address that the plain values of `judge.endpoint` describe otherwise."""
    others = {name: value for name, value in settings.items() if name not in ("base_url", "price")}
    price = Price(**settings["price"])
    return Endpoint(base_url=address, records=records, price=price, patience_seconds=patience_seconds, **others)


def is_pocket(base_url: str | None) -> bool:
    """Whether the judge is the pocket one."""
    return (base_url or "").split(" ")[0] == "pocket"


@contextlib.contextmanager
def address_of(base_url: str | None) -> Iterator[str | None]:
    """Yield the base URL of a judge; starts the judge here if `base_url` is a `pocket` or `vllm` command.

    Raises:
        ValueError: if the server does not start; includes the last line of its log.
    """
    kind, *arguments = shlex.split(base_url or "") or [""]
    if kind not in START_SECONDS:
        yield base_url
        return
    with tempfile.TemporaryDirectory() as folder:
        command, url_of = _vllm(arguments) if kind == "vllm" else _pocket(arguments, Path(folder) / "url")
        with (Path(folder) / "log").open("w") as log:
            server = subprocess.Popen(
                [sys.executable, "-m", "focalpo.processes.lifeline", str(os.getpid()), *command],
                stdout=log,
                stderr=log,
                start_new_session=True,  # its children stop with it, and Ctrl-C does not reach it: we stop it
            )
            try:
                yield _wait_until_ready(server, url_of, kind, Path(log.name))
            finally:
                _stop(server)


def _pocket(arguments: list[str], ready: Path) -> tuple[list[str], Callable[[], str | None]]:
    command = ["focalpo.pocket.judge", "--ready-file", str(ready), *arguments]
    return command, lambda: ready.read_text() if ready.is_file() else None


def _vllm(arguments: list[str]) -> tuple[list[str], Callable[[], str | None]]:
    if not arguments:
        raise ValueError("judge.endpoint.base_url=vllm names no model; write it as 'vllm MODEL ARGUMENTS'")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        host, port = free.getsockname()
    url = f"http://{host}:{port}/v1"

    def address() -> str | None:
        try:
            with urllib.request.urlopen(f"{url}/models", timeout=5):
                return url
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return None

    model, *rest = arguments
    ours = ["--host", host, "--port", str(port), "--load-format", "safetensors"]  # last, so that nothing is unpickled
    return ["vllm.entrypoints.openai.api_server", "--model", model, *rest, *ours], address


def _wait_until_ready(server: subprocess.Popen, url_of: Callable[[], str | None], kind: str, log: Path) -> str:
    deadline = time.monotonic() + START_SECONDS[kind]
    while True:
        ended = server.poll() is not None
        url = url_of()
        if url and not ended:
            return url
        if ended or time.monotonic() > deadline:
            lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
            raise ValueError(f"the {kind} judge did not start: {lines[-1] if lines else 'its log is empty'}")
        time.sleep(0.01)


def _stop(server: subprocess.Popen) -> None:
    """Stop the server and every process that it started: SIGTERM first, then SIGKILL."""
    for number, seconds in ((signal.SIGTERM, STOP_SECONDS), (signal.SIGKILL, STOP_SECONDS)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(seconds)
    assert server.poll() is not None
