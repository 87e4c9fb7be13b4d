"""The figures of a batch's negatives, worked by hand and against loops in plain Python."""

import math

import pytest
import torch
from slow_queue_metrics import NONE, slow_weights

from mocose_hf.models.losses import contrastive_logits
from mocose_hf.models.negative_queue import NegativeQueue
from mocose_hf.training.queue_monitor.metrics import (
    MOST_BINS,
    AgeBins,
    Groups,
    means_by_group,
    negative_columns,
    recomputed_columns,
    spread_evenly,
    weigh_negatives,
)


def unit_rows(count: int, seed: int, dim: int = 6) -> torch.Tensor:
    return torch.nn.functional.normalize(
        torch.randn(count, dim, generator=torch.Generator().manual_seed(seed)), dim=-1
    )


def chunked(logits, size):
    return [logits[:, first : first + size] for first in range(0, logits.shape[1], size)]


# Ages


@pytest.mark.parametrize(
    ("size", "per_step", "count", "width"),
    [(512, 64, 8, 1), (512, 16, 32, 1), (528, 16, 17, 2), (100, 64, 2, 1), (65536, 64, 32, 32), (0, 64, 0, 1)],
)
def test_bins_cover_the_ages_of_a_full_queue_at_the_least_width(size, per_step, count, width):
    bins = AgeBins.of_queue(size, per_step)
    assert (bins.count, bins.width) == (count, width)
    assert bins.count <= MOST_BINS
    assert bins.first_ages() == [1 + width * i for i in range(count)]


def test_a_bin_holds_its_ages_and_the_last_one_all_older():
    bins = AgeBins(3, 2)
    assert bins.numbers(torch.tensor([1, 2, 3, 4, 5, 6, 7, 90])).tolist() == [0, 0, 1, 1, 2, 2, 2, 2]


def test_slots_are_distinguished_by_age_random_rows_and_empty_ones():
    queue = NegativeQueue(9, 4, init_size=2)
    for step in (1, 2, 4):
        queue.enqueue(unit_rows(2, step, 4), step=step)
    groups = Groups(AgeBins(4, 1))
    assert (groups.initial, groups.batch, groups.other, groups.count) == (4, 5, 6, 7)
    assert groups.of_slots(queue.enqueued_at, 5).tolist() == [4, 4, 3, 3, 2, 2, 0, 0, -1]
    queue.enqueue(unit_rows(3, 5, 4), step=5)
    assert groups.of_slots(queue.enqueued_at, 6).tolist() == [0, 0, 3, 3, 3, 3, 1, 1, 0]


def test_keys_of_another_run_have_no_age_in_this_one():
    groups = Groups(AgeBins(4, 1))
    assert groups.of_slots(torch.tensor([700, 3, 2, -1]), 3).tolist() == [4, 4, 0, -1]


# Weights


@pytest.mark.parametrize("scale", [1.0, 20.0])
@pytest.mark.parametrize("size", [1, 3, 5, 100])
def test_weights_are_those_of_a_loop(size, scale):
    generator = torch.Generator().manual_seed(3)
    logits = scale * torch.randn(5, 17, generator=generator)
    logits[0, 4:9], logits[1, 5:] = NONE, NONE
    logits[2, [0, 1, 3, *range(4, 17)]] = NONE  # only its own key is left
    labels = torch.tensor([0, 1, 2, 3, 4])
    groups = torch.randint(0, 4, (17,), generator=generator)
    query_ids, column_ids = torch.tensor([7, 8, 9, 10, -1]), torch.tensor([7, 8, 9, 10, -1, *[7, 8, -1, 10] * 3])
    own = logits.gather(1, labels[:, None])[:, 0]
    negatives = logits.scatter(1, labels[:, None], NONE)
    found = weigh_negatives(chunked(negatives, size), own, groups, 4, query_ids, column_ids)
    lists = (labels.tolist(), groups.tolist(), 4, query_ids.tolist(), column_ids.tolist())
    expected = slow_weights(logits.double(), *lists)
    assert found.shares.tolist() == pytest.approx(expected["shares"], rel=1e-5, abs=1e-9)
    for name in expected.keys() - {"shares"}:
        assert getattr(found, name) == pytest.approx(expected[name], rel=1e-5), name
    assert expected["false_negative_rate"] > 0


def test_shares_are_the_gradient_that_torch_finds():
    logits = (5 * torch.randn(4, 12, generator=torch.Generator().manual_seed(0))).requires_grad_()
    labels = torch.arange(4)
    torch.nn.functional.cross_entropy(logits, labels).backward()
    gradient = logits.grad.scatter(1, labels[:, None], 0.0)
    groups = torch.arange(12) % 3
    ids = torch.full((12,), -1)
    chunks = negative_columns(logits.detach(), labels)
    found = weigh_negatives(chunks, logits.detach().diagonal(), groups, 3, ids[:4], ids)
    expected = torch.stack([gradient[:, groups == group].sum() for group in range(3)]) / gradient.sum()
    torch.testing.assert_close(found.shares.float(), expected)
    assert found.false_negative_rate is None
    assert found.false_negative_share is None


@pytest.mark.parametrize("value", [0.0, 20.0, -20.0, 1e4])
def test_negatives_that_are_all_alike_are_all_effective(value):
    logits = torch.full((3, 50), value)
    own = torch.zeros(3)
    groups = (torch.arange(50) >= 10).long()
    found = weigh_negatives(chunked(logits, 7), own, groups, 2, torch.tensor([1, 2, 3]), torch.zeros(50).long())
    assert found.effective == pytest.approx(50, rel=1e-5)
    assert found.count == 50
    assert found.shares.tolist() == pytest.approx([0.2, 0.8])
    assert found.false_negative_rate == 0


def test_one_negative_far_above_the_others_is_the_only_effective_one():
    logits = torch.zeros(2, 30)
    logits[:, 4] = 40.0
    found = weigh_negatives(
        [logits], torch.zeros(2), torch.zeros(30).long(), 1, *[torch.zeros(n).long() for n in (2, 30)]
    )
    assert found.effective == pytest.approx(1, abs=1e-6)


def test_no_negatives_are_reported_as_such():
    own, ids = torch.zeros(2), torch.zeros(2).long()
    found = weigh_negatives([torch.full((2, 2), NONE)], own, ids, 1, ids, ids)
    assert (found.shares, found.effective, found.count, found.false_negative_rate) == (None, None, 0, None)
    assert found.loss == 0


@pytest.mark.parametrize("in_batch", [True, False])
def test_logits_computed_again_are_those_that_are_held(monkeypatch, in_batch):
    monkeypatch.setattr("mocose_hf.training.queue_monitor.metrics._COLUMNS_AT_ONCE", 4)
    queries, keys, rows = unit_rows(3, 1), unit_rows(3, 2), unit_rows(11, 3)
    log_weights = torch.zeros(11)
    log_weights[2], log_weights[5] = NONE, math.log(3)
    held = contrastive_logits(queries, keys, rows, 0.05, None, in_batch, log_weights)
    wanted = torch.cat(list(negative_columns(held, torch.arange(3))), dim=1)
    again = list(recomputed_columns(queries, keys, rows, log_weights, 0.05, in_batch))
    torch.testing.assert_close(torch.cat(again, dim=1), wanted)
    assert max(chunk.shape[1] for chunk in again) == 4
    assert wanted.diagonal().tolist() == [NONE] * 3


# Samples


def test_a_sample_is_spread_evenly_with_both_ends():
    assert spread_evenly(torch.arange(10), 4).tolist() == [0, 3, 6, 9]
    assert spread_evenly(torch.arange(3), 4).tolist() == [0, 1, 2]
    assert spread_evenly(torch.arange(0), 4).tolist() == []
    assert spread_evenly(torch.arange(9), 0).tolist() == []
    many = spread_evenly(torch.arange(1 << 20), 256).diff()
    assert many.max() - many.min() <= 1


def test_means_by_group():
    values, groups = torch.tensor([1.0, 3.0, 5.0, 8.0]), torch.tensor([0, 2, 2, 0])
    assert means_by_group(values, groups, 4) == ([4.5, None, 4.0, None], [2, 0, 2, 0])
