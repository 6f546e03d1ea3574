"""The claims of FocalPO's abstract, and the verdict on each at each scale, by rule, from the published tables.

    eval/claims.yaml + docs/ --> Claims --> verdicts_of() --> {claim: {scale: Verdict}}

Supported, not supported, inconclusive (with the difference that would have shown), or not tested (no such table).
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from focalpo.reporting.claim_verdict import UNTESTED, Verdict
from focalpo.reporting.claims_about_pairs import ended_right, fixed_rarely, margins_of_right
from focalpo.reporting.claims_about_scores import ahead, ahead_of_all, ahead_with_one_gamma
from focalpo.reporting.claims_about_weights import absolute_weight, dpo_weight, relative_weight
from focalpo.reporting.published import Published
from focalpo.stages.reading import read_yaml

FIX = "correct it, or restore it from the checkout"


@dataclass(frozen=True, slots=True)
class Scale:
    """Where a claim is tested: its title, the folders of docs/ with its table and its gammas, and how they are made."""

    title: str
    table: str
    gamma: str
    command: str


@dataclass(frozen=True, slots=True)
class Claim:
    """A claim in one line, what would decide it, and the name of the rule that does."""

    says: str
    needs: str
    rule: str


@dataclass(frozen=True, slots=True)
class Claims:
    """The whole file; `sentences` are those of the abstract with the claims that each makes, by number."""

    source: str
    subject: str
    compared: str
    gamma: float
    variants: list[str]
    rarely: float
    scales: dict[str, Scale]
    sentences: dict[int, dict]
    claims: dict[str, Claim]

    def sentences_of(self, claim: str) -> list[int]:
        """The numbers of the sentences that make a claim."""
        return [number for number, sentence in self.sentences.items() if claim in sentence["claims"]]


DERIVED: dict[str, Callable[[Claims], Verdict]] = {
    "dpo_weight": lambda c: dpo_weight(),
    "relative_weight": lambda c: relative_weight(c.gamma),
    "absolute_weight": lambda c: absolute_weight(c.gamma),
}
"""Rules about the loss itself, which hold at every scale."""
MEASURED: dict[str, Callable[[Claims, Published], Verdict]] = {
    "ahead": lambda c, table: ahead(table, c.subject),
    "ahead_of_all": lambda c, table: ahead_of_all(table, c.subject, c.variants),
    "rarely_fixed": lambda c, table: fixed_rarely(table, c.compared, c.rarely),
    "wider_margins": lambda c, table: margins_of_right(table, c.subject, c.compared),
    "more_right": lambda c, table: ended_right(table, c.subject, c.compared),
}
BY_GAMMA: dict[str, Callable[[Claims, Published], Verdict]] = {
    "ahead_with_one_gamma": lambda c, table: ahead_with_one_gamma(table, c.subject),
}


def read_claims(file: Path) -> Claims:
    """Read eval/claims.yaml.

    Raises:
        ValueError: when a key is missing or unknown, or a sentence or a rule names what does not exist.
    """
    values = read_yaml(file, FIX)
    names = {field.name for field in fields(Claims)}
    if values.keys() != names:
        raise ValueError(f"{file} must have exactly the keys {', '.join(sorted(names))}; {FIX}")
    for part, shape in (("scales", Scale), ("claims", Claim)):
        expected = {field.name for field in fields(shape)}
        wrong = [name for name, each in values[part].items() if each.keys() != expected]
        if wrong:
            raise ValueError(f"{file}: {part}.{wrong[0]} must have exactly {', '.join(sorted(expected))}; {FIX}")
        values[part] = {name: shape(**each) for name, each in values[part].items()}
    found = Claims(**values)
    named = {claim for sentence in found.sentences.values() for claim in sentence["claims"]}
    if named != found.claims.keys():
        raise ValueError(
            f"{file}: sentences and claims differ in {', '.join(sorted(named ^ found.claims.keys()))}; {FIX}"
        )
    for name, claim in found.claims.items():
        if claim.rule not in DERIVED | MEASURED | BY_GAMMA:
            raise ValueError(f"{file}: claims.{name} has the rule {claim.rule!r}, which does not exist; {FIX}")
    return found


def verdicts_of(claims: Claims, tables: Mapping[str, Published]) -> dict[str, dict[str, Verdict]]:
    """The verdict on every claim at every scale; `tables` are the published ones by name."""
    return {
        name: {scale: _verdict(claims, claim.rule, each, tables) for scale, each in claims.scales.items()}
        for name, claim in claims.claims.items()
    }


def _verdict(claims: Claims, rule: str, scale: Scale, tables: Mapping[str, Published]) -> Verdict:
    if rule in DERIVED:
        return DERIVED[rule](claims)
    name = scale.gamma if rule in BY_GAMMA else scale.table
    if name not in tables:
        return Verdict(UNTESTED, f"docs/{name}/ has no table yet: {scale.command}", math.nan, "")
    return (BY_GAMMA | MEASURED)[rule](claims, tables[name])
