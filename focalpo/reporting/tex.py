"""Pieces of LaTeX, made from numbers and words: escaped text, tables with booktabs; and what a log complains of.

Nothing here runs LaTeX.
"""

import re
from collections.abc import Sequence

# One pass, because the characters of an escape must not be escaped again.
ESCAPES = str.maketrans(
    {sign: f"\\{sign}" for sign in "&%#_${}"}
    | {sign: f"${sign}$" for sign in "<>|"}
    | {"\\": "\\textbackslash{}", "^": "\\textasciicircum{}", "~": "\\textasciitilde{}"}
)
FORMULAS = {
    "p^gamma (1 + gamma ln p)": "$p^\\gamma (1 + \\gamma \\ln p)$",
    "1 - p": "$1 - p$",
    "±": "\\ensuremath{\\pm}",
}
"""Words of ours that stand for a formula."""
MINUS = re.compile(r"(?<![\w$])([+-])(?=\d)")
COMPLAINTS = (
    r"^LaTeX Warning: (?:Reference|Citation) .* undefined.*",
    r"^Package natbib Warning: Citation .* undefined.*",
    r"^LaTeX Warning: There were (?:undefined|multiply-defined) .*",
    r"^LaTeX Warning: Label .* multiply defined.*",
    r"^LaTeX Warning: Float too large .*",
    r"^Overfull \\[hv]box .*",
    r"^Missing character: .*",
    r"^! .*",
)


def tex(text: str) -> str:
    """Escape LaTeX's special characters."""
    return text.translate(ESCAPES)


def as_tex(text: str) -> str:
    """Text as LaTeX, with minus signs before numbers and the formulas that it names."""
    parts = re.split("(" + "|".join(map(re.escape, FORMULAS)) + ")", text)
    return "".join(FORMULAS.get(part) or MINUS.sub(r"\\ensuremath{\1}", tex(part)) for part in parts)


def tabular(columns: str, header: Sequence[str], body: Sequence[Sequence[str]], above: str = "") -> str:
    """A table with booktabs; cells are LaTeX already, `above` is a line over the header."""
    lines = [" & ".join(cells) + " \\\\" for cells in (header, *body)]
    top = [above] if above else []
    return "\n".join(
        [f"\\begin{{tabular}}{{{columns}}}", "\\toprule", *top, lines[0], "\\midrule", *lines[1:], "\\bottomrule"]
        + ["\\end{tabular}"]
    )


def complaints(log: str) -> list[str]:
    """What a log of pdflatex says is wrong: undefined references and citations, overfull boxes, missing characters.

    The log must not be wrapped: `max_print_line` has to be large when LaTeX runs.
    """
    return re.findall("|".join(f"(?:{each})" for each in COMPLAINTS), log, re.M)
