"""The page's colours, and how far apart colours are: WCAG's contrast, and CIELAB."""

import re
from collections.abc import Sequence

from focalpo.reporting.page import WEB

CSS = (WEB / "report.css").read_text()
LIGHT, DARK = (dict(re.findall(r"--([\w-]+): (#\w{6})", part)) for part in CSS.split("@media (prefers-color", 1))
Colour = tuple[float, float, float]


def dot(one: Sequence[float], other: Sequence[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


def linear(colour: str) -> Colour:
    """Linear light of sRGB, each in [0, 1]."""
    red, green, blue = (int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5))
    return tuple(c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (red, green, blue))


def luminance(colour: str) -> float:
    return dot((0.2126, 0.7152, 0.0722), linear(colour))


def contrast(one: str, other: str) -> float:
    """WCAG's: from 1 to 21."""
    low, high = sorted(luminance(each) + 0.05 for each in (one, other))
    return high / low


def lab(colour: str) -> Colour:
    """CIELAB under D65."""
    rows = ((0.4124, 0.3576, 0.1805), (0.2126, 0.7152, 0.0722), (0.0193, 0.1192, 0.9505))
    xyz = [dot(row, linear(colour)) / white for row, white in zip(rows, (0.9505, 1, 1.089), strict=True)]
    x, y, z = (t ** (1 / 3) if t > 216 / 24389 else (24389 / 27 * t + 16) / 116 for t in xyz)
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)
