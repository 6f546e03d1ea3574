"""A stand-in for the hub and for raw.githubusercontent.com on loopback, which serves folders to their clients.

    /<model>/resolve/<revision>/<file>   /api/models/<model>/revision|tree/<revision>       and the same for datasets
    /raw/<owner>/<name>/<revision>/<file>

A repository answers only at its pinned revision; for any other the reply is "not found", as on the hub.
"""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

RESOLVE = re.compile(r"/(?P<kind>datasets/)?(?P<name>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
API = re.compile(
    r"/api/(?P<kind>models|datasets)/(?P<name>[^/]+/[^/]+)"
    r"(/(?P<what>revision|tree|paths-info)/(?P<revision>[^/]+)(/(?P<path>.+))?)?"
)
RAW = re.compile(r"/raw/(?P<name>[^/]+/[^/]+)/(?P<revision>[^/]+)/(?P<path>.+)")


@dataclass(frozen=True, slots=True)
class Repository:
    """A folder under a name; `revision` is the pinned commit, or None when none is pinned and the branch is used."""

    kind: str
    name: str
    revision: str | None
    folder: Path

    @property
    def commit(self) -> str:
        return self.revision or hashlib.sha1(self.name.encode()).hexdigest()

    def answers_at(self, revision: str | None) -> bool:
        # The client first resolves a branch to its commit, then requests that commit.
        return revision == self.commit or (self.revision is None and revision in (None, "main"))

    def files(self) -> list[str]:
        return sorted(str(path.relative_to(self.folder)) for path in self.folder.rglob("*") if path.is_file())

    def tree(self, under: str, deep: bool) -> list[dict]:
        """List a folder; with `deep`, everything below it too."""
        places = (self.folder / under).rglob("*") if deep else (self.folder / under).glob("*")
        return self.entries(sorted(str(place.relative_to(self.folder)) for place in places))

    def entries(self, names: list[str]) -> list[dict]:
        """The existing files and folders among the names, in the API's format."""
        return [_entry(name, self.folder / name) for name in names if (self.folder / name).exists()]


def _entry(name: str, place: Path) -> dict:
    if place.is_dir():
        return {"type": "directory", "path": name, "size": 0, "oid": hashlib.sha1(name.encode()).hexdigest()}
    return {"type": "file", "path": name, "size": place.stat().st_size, "oid": etag(place)}


def etag(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()


class Hub(ThreadingHTTPServer):
    """Serves repositories; `asked` collects the paths of all requests."""

    daemon_threads = True

    def __init__(self, repositories: list[Repository]) -> None:
        self.repositories = {(each.kind, each.name): each for each in repositories}
        self.asked: set[str] = set()
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(body=None)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers.get("content-length", 0))).decode())

    def _answer(self, body: str | None) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.asked.add(path)
        for pattern, reply in ((API, self._api), (RAW, self._file), (RESOLVE, self._file)):
            if found := pattern.fullmatch(path):
                return reply(found, body)
        self._missing("EntryNotFound")

    def _repository(self, found: re.Match) -> Repository | None:
        kind = {RAW: "raw", RESOLVE: (found.groupdict().get("kind") or "models").rstrip("/")}.get(found.re)
        repository = self.server.repositories.get((kind or found["kind"], found["name"]))
        if repository is None:
            self._missing("RepoNotFound")
        elif not repository.answers_at(found["revision"]):
            self._missing("RevisionNotFound")
        else:
            return repository
        return None

    def _file(self, found: re.Match, body: str | None) -> None:
        if (repository := self._repository(found)) is None:
            return
        file = repository.folder / found["path"]
        if not file.is_file():
            return self._missing("EntryNotFound", repository.commit)
        self._reply(200, file.read_bytes(), {"etag": f'"{etag(file)}"', "x-repo-commit": repository.commit})

    def _api(self, found: re.Match, body: str | None) -> None:
        if (repository := self._repository(found)) is None:
            return
        names = repository.files()
        if found["what"] == "paths-info":
            paths = parse_qs(body or "").get("paths", [])
            content: object = repository.entries(paths)
        elif found["what"] == "tree":
            deep = parse_qs(urlsplit(self.path).query).get("recursive", ["false"])[0].lower() in ("true", "1")
            content = repository.tree(found["path"] or "", deep)
        else:
            siblings = [{"rfilename": name} for name in names]
            content = {"id": found["name"], "sha": repository.commit, "private": False, "gated": False}
            content |= {"siblings": siblings, "tags": [], "downloads": 0, "likes": 0}
        self._reply(200, json.dumps(content).encode(), {"content-type": "application/json"})

    def _missing(self, code: str, commit: str | None = None) -> None:
        self._reply(404, b"", {"x-error-code": code} | ({"x-repo-commit": commit} if commit else {}))

    def _reply(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in (headers | {"content-length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@contextmanager
def serving(repositories: list[Repository]) -> Iterator[Hub]:
    """Run a hub until the block ends."""
    hub = Hub(repositories)
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()
