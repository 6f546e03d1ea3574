"""The numbers of the paper's text as LaTeX macros, each with its source, and a check that none is typed by hand.

docs/paper/*.tex --> keys of \\val{...} --> numbers.tex
"""

import re
from collections.abc import Mapping

from focalpo.reporting.quoted import Sources, Unquotable, quote
from focalpo.reporting.tex import as_tex

VAL = re.compile(r"\\val\{([^{}#]*)\}")  # with a # it is in a definition, for any claim
GUARD = re.compile(r"\\if(table|pairs)\{([^{}]*)\}")
COMMENT = re.compile(r"(?<!\\)%.*")
EQUATION = re.compile(r"\\begin\{(equation|align)\*?\}.*?\\end\{\1\*?\}", re.S)
# What may hold digits in a sentence about results: names of files, references, lengths of figures, our own macros.
NAMED = re.compile(
    r"\\(?:val|cite[tp]?|ref|label|input|includegraphics|url|texttt|makecmd|iftable|ifpairs|begin|end|vspace|setlength)\*?"
    r"(?:\[[^\]]*\])*(?:\{[^{}]*\})+"
)


def numbers_tex(texts: Mapping[str, str], sources: Sources) -> str:
    """The macros that the texts ask for, one per line with its source; texts by file name.

    A key of a table that is not published has no macro: the text must ask by `\\iftable` or `\\ifpairs` first, or LaTeX
    fails on it.

    Raises:
        ValueError: when a key names nothing, with its file and line.
    """
    guarded = {name for text in texts.values() for _, name in GUARD.findall(text)}
    absent = {name for name in guarded if name not in sources.tables}
    without_pairs = {name for name in guarded - absent if not sources.tables[name].pairs}
    lines = [f"\\newtable{{{name}}}" for name in sources.tables]
    lines += [f"\\newpairs{{{name}}}" for name, table in sources.tables.items() if table.pairs]
    for key, place in (_of_claims(sources) | _asked(texts)).items():
        first, second, *_ = [*key.split("/"), ""]
        if first in absent or (first in without_pairs and second == "pairs"):
            continue
        try:
            found = quote(key, sources)
        except Unquotable as error:
            raise ValueError(
                f"docs/paper/{place}: {error}; correct the key, see focalpo/reporting/quoted.py"
            ) from error
        lines.append(f"\\newnumber{{{key}}}{{{as_tex(found.text)}}} % {found.source}")
    return "\n".join(lines) + "\n"


def typed_numbers(text: str) -> list[str]:
    """The lines of a text about results in which a number is typed by hand, with their numbers.

    Digits may stand in equations and in the arguments of references, file names and our macros only.
    """
    for pattern in (COMMENT, EQUATION, NAMED):
        text = pattern.sub(lambda found: "\n" * found[0].count("\n"), text)
    return [
        f"line {place}: {line.strip()}" for place, line in enumerate(text.splitlines(), 1) if re.search(r"\d", line)
    ]


def _of_claims(sources: Sources) -> dict[str, str]:
    """The keys of every verdict with its reason."""
    keys = (
        f"claim/{name}/{scale}{why}"
        for name, each in sources.verdicts.items()
        for scale in each
        for why in ("", "/why")
    )
    return dict.fromkeys(keys, "report.tex")


def _asked(texts: Mapping[str, str]) -> dict[str, str]:
    """The keys of all texts, each with the place that asks first."""
    found: dict[str, str] = {}
    for name, text in texts.items():
        for place, line in enumerate(text.splitlines(), 1):
            for key in VAL.findall(COMMENT.sub("", line)):
                found.setdefault(key, f"{name} line {place}")
    return found
