"""The pace of all threads: refusals and rate-limit headers are obeyed in all their forms, and nothing is given up."""

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from pathlib import Path

import httpx2
import pytest

from focalpo.judging import pacing
from focalpo.judging.endpoint import Endpoint, EndpointError
from focalpo.judging.pacing import Pace, RefusedError, retry_after, used_up
from tests.fake_clock import FakeClock, fake_clock
from tests.judge_stub import completion, opened

MINUTE, LIMIT = 60.0, 10
ROWS, THREADS = 805, 16


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    return fake_clock(monkeypatch)


def test_a_pause_is_read_in_all_its_forms(clock: FakeClock) -> None:
    forms = {
        "retry-after": {"7": 7.0, "0.25": 0.25, formatdate(clock.time() + 90, usegmt=True): 90.0, "-3": 0.0},
        "retry-after-ms": {"1500": 1.5},
    }
    for name, values in forms.items():
        for text, seconds in values.items():
            assert retry_after({name: text}) == pytest.approx(seconds)
    assert retry_after({"retry-after": "9", "retry-after-ms": "250"}) == 0.25
    past = formatdate(clock.time() - 90, usegmt=True)
    for text in (past, "\u00b2", "soon", "nan", "inf", "", "Wed, 99 Foo"):
        assert retry_after({"retry-after": text}) == 0.0
    assert retry_after({}) == 0.0


def test_a_limit_that_is_used_up_is_waited_for(clock: FakeClock) -> None:
    def headers(kind: str, left: str, reset: str) -> dict[str, str]:
        return {f"x-ratelimit-remaining-{kind}": left, f"x-ratelimit-reset-{kind}": reset}

    assert used_up(headers("requests", "0", "6m0s"), 1) == 360.0
    assert used_up(headers("requests", "0", "20ms"), 1) == pytest.approx(0.02)
    assert used_up(headers("requests", "0", "1h2m3.5s"), 1) == 3723.5
    assert used_up(headers("requests", "0", "12"), 1) == 12.0
    assert used_up(headers("requests", "0", str(clock.time() + 5)), 1) == pytest.approx(5.0)
    assert used_up(headers("requests", "0", str(1000 * (clock.time() + 5))), 1) == pytest.approx(5.0)
    assert used_up(headers("requests", "1", "6m0s"), 1) == 0.0
    assert used_up(headers("tokens", "999", "2s"), 1000) == 2.0
    assert used_up(headers("tokens", "1000", "2s"), 1000) == 0.0
    assert used_up(headers("requests", "0", "soon"), 1) == used_up({}, 1000) == 0.0


def test_refusals_of_one_moment_slow_the_pace_once_and_success_quickens_it(clock: FakeClock) -> None:
    pace = Pace(patience_seconds=3600.0)
    sent = pace.wait()
    clock.now = 1.0
    for _ in range(16):
        pace.slower(sent, pause=2.0)
    assert [pace.wait(), pace.wait() - 3.0] == pytest.approx([3.0, pacing.FIRST_INTERVAL])
    pace.slower(pace.wait(), pause=0.0)
    pace.wait()
    first = pace.wait()
    assert pace.wait() - first == pytest.approx(2 * pacing.FIRST_INTERVAL)
    for _ in range(60):
        pace.faster(pause=0.0)
    pace.wait()
    first = pace.wait()
    assert pace.wait() == first


def test_a_judge_that_refuses_for_too_long_is_given_up(clock: FakeClock) -> None:
    with pytest.raises(RefusedError, match=r"it asks to wait for 8\.0 h"):
        Pace(3600.0).slower(0.0, pause=8 * 3600)
    pace = Pace(patience_seconds=60.0)
    with pytest.raises(RefusedError, match=r"it has refused every request for \d+ s"):
        for _ in range(100):
            pace.slower(pace.wait(), pause=10.0)
    assert 60 < clock.now < 90


class Limited:
    """A judge that answers ten requests in any minute and refuses the others, in one of several ways."""

    def __init__(self, clock: FakeClock, way: str) -> None:
        self.clock, self.way = clock, way
        self.answered: list[float] = []
        self.refused = 0
        self._lock = threading.Lock()

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        with self._lock:
            now = self.clock.monotonic()
            recent = [then for then in self.answered if then > now - MINUTE]
            left = LIMIT - len(recent)
            free = recent[-LIMIT] + MINUTE - now if left <= 0 else 0.0
            if left <= 0:
                self.refused += 1
                return httpx2.Response(429, headers=self._headers(free), content=b"slow down")
            self.answered.append(now)
            counts = {"x-ratelimit-remaining-requests": str(left - 1), "x-ratelimit-reset-requests": f"{MINUTE:g}s"}
            headers = counts if self.way == "x-ratelimit" else {}
            return httpx2.Response(200, headers=headers, content=json.dumps(completion("yes")).encode())

    def _headers(self, free: float) -> dict[str, str]:
        date = formatdate(self.clock.time() + free + 1, usegmt=True)
        ways = {"seconds": f"{free + 1:.0f}", "fractions": f"{free:.3f}", "date": date}
        if self.way == "milliseconds":
            return {"retry-after-ms": f"{1000 * free:.0f}"}
        return {"retry-after": ways[self.way]} if self.way in ways else {}


def served_by(endpoint: Endpoint, judge: Callable[[httpx2.Request], httpx2.Response]) -> Endpoint:
    endpoint._http = httpx2.Client(transport=httpx2.MockTransport(judge))
    return endpoint


def ask(endpoint: Endpoint, number: int) -> None:
    messages = [{"role": "user", "content": f"question {number}"}]
    client = endpoint.client(lambda _: None)
    client.post("/chat/completions", cast_to=object, body={"model": "judge", "messages": messages})


@pytest.mark.parametrize("way", ["seconds", "fractions", "date", "milliseconds", "x-ratelimit", "nothing said"])
def test_at_ten_requests_a_minute_every_row_is_answered(clock: FakeClock, tmp_path: Path, way: str) -> None:
    """805 rows and 16 threads; two attempts a row, so that a refusal that counted as one would give rows up."""
    judge = Limited(clock, way)
    rows = ROWS if way in ("seconds", "nothing said") else 100
    with (
        served_by(opened("https://judge.example/v1", tmp_path, concurrency=THREADS, max_attempts=2), judge) as endpoint,
        ThreadPoolExecutor(THREADS) as pool,
    ):
        list(pool.map(lambda number: ask(endpoint, number), range(rows)))
    assert len(judge.answered) == rows and endpoint.counts.failed == 0
    assert endpoint.counts.calls == rows + judge.refused
    assert judge.refused < rows, "a request is refused less than once"


def test_an_endpoint_that_only_refuses_stops_with_one_line(clock: FakeClock, tmp_path: Path) -> None:
    def refuse(_: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(429, headers={"retry-after": "30000"}, content=b"daily limit")

    with served_by(opened("https://judge.example/v1", tmp_path), refuse) as endpoint:
        for _ in range(2):
            with pytest.raises(EndpointError, match=r"it asks to wait for 8.3 h \(HTTP 429: daily limit\); run again"):
                ask(endpoint, 1)
    assert endpoint.counts.calls == 1
