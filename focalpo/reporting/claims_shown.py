"""The claims with their verdicts, for README, for a terminal and for the paper."""

from collections.abc import Mapping
from textwrap import fill

from focalpo.reporting.claim_verdict import ALGEBRA, Verdict
from focalpo.reporting.claims import Claims
from focalpo.reporting.tex import as_tex, tabular

WIDTH = 100
Verdicts = Mapping[str, Mapping[str, Verdict]]


def as_markdown_claims(claims: Claims, verdicts: Verdicts) -> str:
    """One line per claim, one column per scale."""
    header = ["what the abstract claims", *(scale.title for scale in claims.scales.values())]
    lines = [header, ["---"] * len(header), *_rows(claims, verdicts)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def as_terminal_claims(claims: Claims, verdicts: Verdicts) -> str:
    """Every claim with what would decide it, its verdict at each scale, and why."""
    parts = [f"Claims: {claims.source}."]
    for name, claim in claims.claims.items():
        sentences = ", ".join(map(str, claims.sentences_of(name)))
        lines = [f"{claim.says} (sentence {sentences})", f"  needs {claim.needs}"]
        for scale, found in verdicts[name].items():
            if found.source == ALGEBRA:  # the same at every scale
                lines.append(f"  {found.short}: {found.why}")
                break
            where = f" [{found.source}]" if found.source else ""
            lines.append(f"  {claims.scales[scale].title}: {found.short}: {found.why}{where}")
        parts.append("\n".join(fill(line, WIDTH, subsequent_indent="    ") for line in lines))
    return "\n\n".join(parts)


def as_latex_claims(claims: Claims, verdicts: Verdicts) -> str:
    """The table of the paper: each claim, its sentences of the abstract, a verdict per scale."""
    header = ["Claim", "from", *(scale.title for scale in claims.scales.values())]
    body = [
        [
            claim.says,
            ", ".join(map(str, claims.sentences_of(name))),
            *(found.short for found in verdicts[name].values()),
        ]
        for name, claim in claims.claims.items()
    ]
    widths = "L{5.8cm}c" + "L{2.9cm}" * len(claims.scales)
    return tabular(widths, [as_tex(each) for each in header], [[as_tex(each) for each in line] for line in body])


def _rows(claims: Claims, verdicts: Verdicts) -> list[list[str]]:
    return [[claim.says, *(found.short for found in verdicts[name].values())] for name, claim in claims.claims.items()]
