"""Who a judge is, by its name or address: part of the key of what it judged. Imports no client: plans name judges."""

import shlex
import urllib.parse
from collections.abc import Iterator

STARTED = ("pocket", "vllm")
"""First words of a command that starts a judge, in place of an address."""
FAULT_ARGUMENTS = ("--faults", "--fault-seed", "--port")


def judge_name(name: str | None, base_url: str | None) -> str:
    """Who judges, for the stage's key: the given name, or else the address or the command that starts the judge.

    What of an address may be a secret (user, query) and what of a command changes no verdict is left out.
    """
    if name is not None or base_url is None:
        return name or "recorded replies"
    kind, *arguments = shlex.split(base_url) or [""]
    if kind == "pocket":
        return shlex.join([kind, *_without(arguments, FAULT_ARGUMENTS)])
    if kind in STARTED:
        return shlex.join([kind, *arguments])
    address = urllib.parse.urlsplit(base_url)
    return f"{address.scheme}://{address.netloc.rpartition('@')[2].lower()}{address.path.rstrip('/')}"


def _without(arguments: list[str], names: tuple[str, ...]) -> Iterator[str]:
    """Arguments without the named ones and their values, given as `--name value` or `--name=value`."""
    rest = iter(arguments)
    for each in rest:
        if each in names:
            next(rest, None)
        elif each.partition("=")[0] not in names:
            yield each
