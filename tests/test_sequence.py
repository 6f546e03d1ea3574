"""Ranks that share a micro-batch: their parts. That they train as one is in test_ranks_at_scale.py."""

from dataclasses import replace

import pytest
import torch

from focalpo.training.packing import pack
from focalpo.training.sequence import exchanging, part_of
from tests.tiny import SETTINGS, random_trees

BRANCHES = ("chosen", "rejected")


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_parts_have_every_row_and_every_response_token_once(ranks: int) -> None:
    whole = pack(random_trees(5, seed=2), BRANCHES)
    parts = [part_of(whole, ranks, place) for place in range(ranks)]
    count = whole.tokens.shape[1]
    for name in ("tokens", "positions"):
        rows = torch.cat([getattr(part, name)[0] for part in parts])
        assert len({getattr(part, name).shape for part in parts}) == 1 and len(rows) - count < ranks
        assert torch.equal(rows[:count], getattr(whole, name)[0]) and not rows[count:].any()
    hidden = torch.randn(count, 3)
    predicted, labels = hidden.new_zeros(len(whole.owners), 3), torch.zeros_like(whole.labels)
    for place, part in enumerate(parts):
        first = place * part.tokens.shape[1]
        predicted[part.part.places] += hidden[first + part.predictors]
        labels[part.part.places] += part.labels
        assert part.part.whole == count and torch.equal(part.owners, whole.owners)
    assert torch.equal(predicted, hidden[whole.predictors]) and torch.equal(labels, whole.labels)


def test_one_rank_has_the_whole_micro_batch() -> None:
    whole = pack(random_trees(2), BRANCHES)
    assert part_of(whole, 1, 0) is whole


def test_heads_that_cannot_be_dealt_evenly_are_refused() -> None:
    part = part_of(pack(random_trees(2), BRANCHES), 4, 0).part
    states = torch.zeros(2, 8, 4)
    with pytest.raises(ValueError, match="train.sequence_ranks=4 does not divide the model's 2 heads"):
        exchanging(lambda *_: states, states, states, states, part)


@pytest.mark.parametrize(("batch", "together", "problems"), [(8, 4, 0), (8, 3, 1), (6, 2, 1), (6, 3, 2)])
def test_settings_name_what_does_not_go_with_the_ranks(batch: int, together: int, problems: int) -> None:
    settings = replace(SETTINGS, global_batch=batch, sequence_ranks=together)
    assert len(settings.problems_with(4)) == problems and not settings.problems_with(0)
