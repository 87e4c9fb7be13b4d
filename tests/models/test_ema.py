import math
from itertools import pairwise

import pytest
import torch

from mocose_hf import cosine_ema_decay, maximum_traceable_distance, update_ema
from mocose_hf.models.ema import constant_distance_ema_decay


def bits(tensor: torch.Tensor) -> list[int]:
    return tensor.view(torch.int32).flatten().tolist()


def random_tensors(seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for shape in [(3, 4), (5,), (), (2, 1, 3)]]


# cosine_ema_decay


@pytest.mark.parametrize(("step", "decay"), [(1, 0.7866116524), (2, 0.875), (3, 0.9633883476), (4, 1.0)])
def test_cosine_decay_of_four_steps_worked_by_hand(step, decay):
    # cos(π/4) = 0.7071067812: 1 − 0.25 · 1.7071067812 / 2, then 1 − 0.25 / 2, then 1 − 0.25 · 0.2928932188 / 2
    assert cosine_ema_decay(step, 4, 0.75) == pytest.approx(decay, abs=1e-10)


@pytest.mark.parametrize(("start", "end"), [(0.75, 1.0), (0.0, 1.0), (0.85, 0.95), (0.9, 0.9)])
@pytest.mark.parametrize("total_steps", [1, 2, 7, 1000])
def test_cosine_decay_is_a_squared_half_angle_cosine(total_steps, start, end):
    for step in range(1, total_steps + 1):
        weight_of_start = math.cos(math.pi * step / (2 * total_steps)) ** 2
        expected = weight_of_start * start + (1 - weight_of_start) * end
        assert cosine_ema_decay(step, total_steps, start, end) == pytest.approx(expected, abs=1e-12)


def test_cosine_decay_counts_steps_from_one():
    assert cosine_ema_decay(1, 1, 0.75) == 1.0
    assert cosine_ema_decay(1, 2, 0.75) == pytest.approx(0.875, abs=1e-12)
    assert cosine_ema_decay(1, 100, 0.75) > 0.75


def test_cosine_decay_is_symmetric_about_half_the_horizon():
    for step in range(1, 20):
        pair = cosine_ema_decay(step, 20, 0.6, 0.9) + cosine_ema_decay(20 - step, 20, 0.6, 0.9)
        assert pair == pytest.approx(0.6 + 0.9, abs=1e-12)


def test_cosine_decay_rises_at_every_step():
    decays = [cosine_ema_decay(step, 50, 0.75) for step in range(1, 51)]
    assert all(earlier < later for earlier, later in pairwise(decays))


@pytest.mark.parametrize("end", [1.0, 0.95])
@pytest.mark.parametrize("step", [10, 11, 15, 20, 21, 30, 40, 10**9])
def test_cosine_decay_is_held_at_its_end_past_the_horizon(step, end):
    assert cosine_ema_decay(step, 10, 0.75, end) == end


def test_cosine_decay_ends_at_one_by_default():
    assert cosine_ema_decay(10, 10, 0.5) == 1.0
    assert cosine_ema_decay(3, 10, 0.5) == cosine_ema_decay(3, 10, 0.5, 1.0)


@pytest.mark.parametrize(
    "arguments",
    [
        (0, 10, 0.75),
        (-1, 10, 0.75),
        (1, 0, 0.75),
        (1, -5, 0.75),
        (1, 10, -0.01),
        (1, 10, 1.01),
        (1, 10, math.nan),
        (1, 10, 0.75, -0.01),
        (1, 10, 0.75, 1.01),
        (1, 10, 0.75, math.nan),
        (20, 10, 2.0),
    ],
)
def test_cosine_decay_rejects_bad_arguments(arguments):
    with pytest.raises(ValueError, match=r"`(step|start)`"):
        cosine_ema_decay(*arguments)


# maximum_traceable_distance


@pytest.mark.parametrize(
    ("ema_decay", "queue_size", "batch_size", "distance"),
    [(0.75, 64, 64, 5.0), (0.85, 512, 64, 14.67), (0.95, 256, 256, 21.0), (0.5, 0, 8, 2.0), (0.0, 12, 8, 2.5)],
)
def test_traceable_distance_is_that_of_the_paper(ema_decay, queue_size, batch_size, distance):
    assert maximum_traceable_distance(ema_decay, queue_size, batch_size) == pytest.approx(distance, abs=0.005)


def test_traceable_distance_of_a_target_that_never_moves_is_infinite():
    assert maximum_traceable_distance(1.0, 0, 64) == math.inf


@pytest.mark.parametrize("arguments", [(-0.1, 8, 8), (1.1, 8, 8), (math.nan, 8, 8), (0.5, -1, 8), (0.5, 8, 0)])
def test_traceable_distance_rejects_bad_arguments(arguments):
    with pytest.raises(ValueError, match=r"`(ema_decay|queue_size)`"):
        maximum_traceable_distance(*arguments)


# update_ema


def test_update_worked_by_hand():
    target = [torch.tensor([2.0, -4.0])]
    update_ema(target, [torch.tensor([10.0, 4.0])], 0.75)
    assert target[0].tolist() == [4.0, -2.0]


@pytest.mark.parametrize("decay", [0.0, 0.1, 0.5, 0.85, 0.999, 1.0])
def test_update_is_the_slow_loops(decay):
    target, online = random_tensors(0), random_tensors(1)
    expected = [
        [decay * t + (1 - decay) * o for t, o in zip(ts.flatten().tolist(), os.flatten().tolist(), strict=True)]
        for ts, os in zip(target, online, strict=True)
    ]
    update_ema(target, online, decay)
    for moved, values in zip(target, expected, strict=True):
        assert moved.flatten().tolist() == pytest.approx(values, abs=1e-6)


def test_repeated_updates_approach_the_online_branch_geometrically():
    target, online = [torch.zeros(3)], [torch.ones(3)]
    for step in range(1, 11):
        update_ema(target, online, 0.8)
        assert target[0].tolist() == pytest.approx([1 - 0.8**step] * 3, abs=1e-6)


def test_decay_zero_copies_to_the_bit():
    target, online = random_tensors(0), random_tensors(1)
    update_ema(target, online, 0.0)
    assert [bits(t) for t in target] == [bits(o) for o in online]


def test_decay_one_moves_nothing_to_the_bit():
    target, online = random_tensors(0), random_tensors(1)
    before = [bits(t) for t in target]
    update_ema(target, online, 1.0)
    assert [bits(t) for t in target] == before


@pytest.mark.parametrize(
    ("held", "online"), [(math.nan, 1.0), (math.inf, 1.0), (-3e38, 3e38), (1.0, -0.0), (1.0, 1e-45)]
)
def test_decay_zero_copies_to_the_bit_whatever_the_target_held(held, online):
    target = [torch.tensor([held, 1.0])]
    update_ema(target, [torch.tensor([online, 2.0])], 0.0)
    assert bits(target[0]) == bits(torch.tensor([online, 2.0]))


@pytest.mark.parametrize(
    ("held", "online"), [(1.0, math.nan), (1.0, math.inf), (-3e38, 3e38), (-0.0, 1.0), (1e-45, 1.0)]
)
def test_decay_one_moves_nothing_to_the_bit_whatever_the_online_holds(held, online):
    target = [torch.tensor([held, 1.0])]
    update_ema(target, [torch.tensor([online, 2.0])], 1.0)
    assert bits(target[0]) == bits(torch.tensor([held, 1.0]))


def test_update_changes_nothing_if_both_agree():
    target, online = random_tensors(0), random_tensors(0)
    update_ema(target, online, 0.85)
    assert [bits(t) for t in target] == [bits(o) for o in online]


def test_update_works_in_place_and_leaves_the_online_branch_alone():
    target, online = random_tensors(0), random_tensors(1)
    addresses, before = [t.data_ptr() for t in target], [bits(o) for o in online]
    update_ema(target, online, 0.5)
    assert [t.data_ptr() for t in target] == addresses
    assert [bits(o) for o in online] == before


def test_update_builds_no_graph():
    target, online = torch.nn.Parameter(torch.zeros(3)), torch.nn.Parameter(torch.ones(3))
    update_ema([target], [online], 0.5)
    assert target.grad_fn is None
    assert target.is_leaf
    assert target.tolist() == [0.5] * 3
    assert online.grad is None


def test_update_takes_any_iterable():
    target, online = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    update_ema(target.parameters(), online.parameters(), 0.0)
    assert torch.equal(target.weight, online.weight)
    assert torch.equal(target.bias, online.bias)


def test_update_of_nothing_is_nothing():
    update_ema([], [], 0.5)


def test_target_stays_in_float32_and_moves_under_a_bfloat16_online_branch():
    target = [torch.ones(2)]
    update_ema(target, [torch.full((2,), 2.0, dtype=torch.bfloat16)], 0.999)
    assert target[0].dtype == torch.float32
    assert target[0].tolist() == pytest.approx([1.001] * 2, abs=1e-6)


@pytest.mark.parametrize("decay", [-0.01, 1.01, math.nan])
def test_update_rejects_a_decay_outside_its_range(decay):
    target = [torch.zeros(2)]
    with pytest.raises(ValueError, match="`decay`"):
        update_ema(target, [torch.ones(2)], decay)
    assert target[0].tolist() == [0.0, 0.0]


@pytest.mark.parametrize(("targets", "onlines"), [(1, 2), (2, 1), (0, 1)])
def test_update_rejects_branches_of_different_number(targets, onlines):
    target = [torch.zeros(2) for _ in range(targets)]
    with pytest.raises(ValueError, match="zip"):
        update_ema(target, [torch.ones(2) for _ in range(onlines)], 0.5)
    assert all(t.tolist() == [0.0, 0.0] for t in target)


# constant_distance_ema_decay


def test_constant_distance_worked_by_hand():
    # d = 1/(1 − 0.75) + 8 = 12; with 2 batches in the queue 1/(1 − η) = 10
    assert constant_distance_ema_decay(0.75, queue_size=512, num_filled=128, batch_size=64) == pytest.approx(0.9)


@pytest.mark.parametrize("start", [0.0, 0.5, 0.99, 1.0])
def test_distance_is_that_of_the_full_queue_at_every_fill(start):
    full = maximum_traceable_distance(start, 100, 7)
    for fill in range(0, 101, 5):
        decay = constant_distance_ema_decay(start, 100, fill, 7)
        assert maximum_traceable_distance(decay, fill, 7) == pytest.approx(full)
    assert decay == pytest.approx(start)


@pytest.mark.parametrize("fill", [-1, 101])
def test_a_fill_that_the_queue_cannot_have_raises_an_error(fill):
    with pytest.raises(ValueError, match=r"`num_filled` lies in \[0, 100\]"):
        constant_distance_ema_decay(0.5, 100, fill, 10)
