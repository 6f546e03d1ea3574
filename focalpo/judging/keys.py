"""A judge's key: read from the environment, sent in a header, removed from what the judge sends back."""

import os
import re
import urllib.parse

NO_KEY = "none"
"""Sent to a local server, because the OpenAI client requires a key."""
SHORTEST_SECRET = 8
"""Characters. A shorter key, such as `x` or `token`, is a local server's placeholder and may occur in any reply."""
HERE = ("127.0.0.1", "localhost", "::1")


def api_key(variable: str | None) -> str:
    """The key in an environment variable; a placeholder without a variable.

    Raises:
        ValueError: if the variable holds no key.
    """
    if variable is None:
        return NO_KEY
    key = os.environ.get(variable)
    if not key:
        raise ValueError(f"environment variable {variable} holds no key for the judge; export it or replay a recording")
    return key


def without_key(text: str, key: str) -> str:
    """The text without the key, also with its characters escaped as JSON writers may do: `\\/`, `\\u002b`.

    Some servers quote the key that they refuse; it must reach neither the recording nor an error message.
    """
    if len(key) < SHORTEST_SECRET:
        return text
    return re.sub("".join(rf"(?:\\?{re.escape(c)}|\\u(?i:{ord(c):04x}))" for c in key), "[key]", text)


def open_to_listeners(base_url: str | None, variable: str | None) -> str | None:
    """A warning if the key would travel unencrypted to another machine, else None."""
    address = urllib.parse.urlsplit(base_url or "")
    if variable is None or address.scheme != "http" or is_here(base_url or ""):
        return None
    return f"the judge's key is sent unencrypted to {address.hostname}; use https, or a tunnel to 127.0.0.1"


def is_here(base_url: str) -> bool:
    """Whether an address is of this machine."""
    return urllib.parse.urlsplit(base_url).hostname in HERE
