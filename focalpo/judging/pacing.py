"""How fast a judge may be asked: one pace for all threads, learned from its refusals and its rate-limit headers.

    429, retry-after: 6            --> no request for 6 s, and a longer interval between requests
    x-ratelimit-remaining-... 0    --> no request until the limit is reset
    every other reply              --> a slightly shorter interval, down to none

A refusal does not count as an attempt: a request waits for its turn as long as some requests get through.
"""

import email.utils
import math
import re
import threading
import time
from collections.abc import Mapping

FIRST_INTERVAL = 0.02
"""Seconds between requests after the first refusal; doubled by each later one."""
LONGEST_INTERVAL = 60.0
FASTER = 0.9
"""Twice as fast after 7 answers: one refusal in ten that no pace avoids does not slow it down for good."""
LONGEST_WAIT_SECONDS = 3600.0
"""A judge that asks for a longer pause has a limit by the day, or another one that waiting here does not solve."""
LONGEST_RESET_SECONDS = 60.0
"""The longest pause for a limit that is used up while nothing was refused yet; a refusal tells more."""
DURATION = re.compile(r"([\d.]+)(ms|s|m|h|d)")
UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
LONGEST_SLEEP_SECONDS = 1.0
"""After that a thread checks again whether the pace has ended."""
EPOCH = 1e9
"""Larger numbers of seconds are points in time; a thousand times larger ones are points in time in milliseconds."""


class RefusedError(ValueError):
    """The judge refuses requests for longer than is worth waiting for."""


class Pace:
    """When the next request may be sent, shared by all threads.

    Args:
        patience_seconds: how long the judge may refuse every request before `slower` raises RefusedError.
    """

    def __init__(self, patience_seconds: float) -> None:
        self._patience = patience_seconds
        self._interval = 0.0
        self._next = self._held_until = self._slowed = -math.inf
        self._answered: float | None = None
        self._lock = threading.Lock()

    def wait(self) -> float:
        """Wait for a turn; returns the time at which the request is sent."""
        while True:
            with self._lock:
                now, turn = time.monotonic(), max(self._next, self._held_until)
                if self._answered is None:
                    self._answered = now
                if turn <= now:
                    self._next = now + self._interval
                    return now
            time.sleep(min(turn - now, LONGEST_SLEEP_SECONDS))

    def slower(self, sent: float, pause: float) -> None:
        """A request sent at `sent` was refused; send none for `pause` seconds.

        Raises:
            RefusedError: if the pause is too long, or nothing got through for too long.
        """
        with self._lock:
            now = time.monotonic()
            if pause > LONGEST_WAIT_SECONDS:
                raise RefusedError(f"it asks to wait for {pause / 3600:.1f} h")
            if self._answered is not None and now - self._answered > self._patience:
                raise RefusedError(f"it has refused every request for {now - self._answered:.0f} s")
            self._held_until = max(self._held_until, now + pause)
            if sent >= self._slowed:  # sent at the present pace; others in flight with it add no information
                self._interval = min(max(2 * self._interval, FIRST_INTERVAL), LONGEST_INTERVAL)
                self._slowed = now

    def end(self) -> None:
        """Release all waiting threads: no more requests will be sent."""
        with self._lock:
            self._interval, self._next, self._held_until = 0.0, -math.inf, -math.inf

    def faster(self, pause: float) -> None:
        """A request got through; send none for `pause` seconds, because the limit is used up (0: it is not)."""
        with self._lock:
            self._answered = time.monotonic()
            self._held_until = max(self._held_until, self._answered + min(pause, LONGEST_RESET_SECONDS))
            self._interval *= FASTER
            if self._interval < FIRST_INTERVAL / 2:
                self._interval = 0.0


def retry_after(headers: Mapping[str, str]) -> float:
    """The pause in seconds that a refusal asks for, in any of its forms: milliseconds, seconds, fractions, a date."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        if (seconds := _number(headers.get(name, ""))) is not None:
            return max(seconds * unit, 0.0)
    try:
        date = email.utils.parsedate_to_datetime(headers.get("retry-after", ""))
        return max(date.timestamp() - time.time(), 0.0)
    except (ValueError, OverflowError):
        return 0.0


def used_up(headers: Mapping[str, str], tokens: int) -> float:
    """Seconds until a limit is reset that has no room for another request of so many tokens; 0: there is room."""
    pause = 0.0
    for kind, needed in (("requests", 1), ("tokens", tokens)):
        left = _number(headers.get(f"x-ratelimit-remaining-{kind}", ""))
        if left is not None and left < needed:
            pause = max(pause, _duration(headers.get(f"x-ratelimit-reset-{kind}", "")))
    return pause


def _duration(text: str) -> float:
    """Seconds of `6m0s`, `20ms`, `1.5` or of a point in time, by its distance from now; 0 for anything else."""
    seconds = _number(text)
    if seconds is None:
        return sum(float(number) * UNITS[unit] for number, unit in DURATION.findall(text) if _number(number))
    if seconds > EPOCH:
        return max((seconds / 1000 if seconds > 1000 * EPOCH else seconds) - time.time(), 0.0)
    return max(seconds, 0.0)


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
