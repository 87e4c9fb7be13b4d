"""A number that is not finite is told of, once, at the next look at the latest."""

import math

import pytest
import torch
from builders import WAITING, Operations

from mocose_hf.training.callbacks.nan_monitor import NaNMonitor

GOOD = [torch.zeros(2, 4), torch.ones(3, 5), torch.tensor(2.0)]
BAD = [
    [torch.zeros(2, 4), torch.ones(3, 5), torch.tensor(math.inf)],
    [torch.zeros(2, 4), torch.tensor([[0.0, math.nan]])],
    [torch.tensor(-math.inf)],
    [torch.tensor([1.0, math.inf, -math.inf])],
]


@pytest.mark.parametrize("bad", BAD)
def test_at_once_the_step_itself_is_refused(bad):
    monitor = NaNMonitor(late=False)
    monitor.record(1, GOOD)
    with pytest.raises(FloatingPointError, match="of step 2 is not finite"):
        monitor.record(2, bad)


@pytest.mark.parametrize("bad", BAD)
def test_late_it_is_the_next_look_that_names_the_step(bad):
    monitor = NaNMonitor(late=True)
    monitor.check()
    monitor.record(1, GOOD)
    monitor.check()
    monitor.record(2, bad)
    with pytest.raises(FloatingPointError, match="of step 2 is not finite"):
        monitor.check()
    monitor.check()


def test_every_step_before_a_recorded_one_is_checked():
    monitor = NaNMonitor(late=True)
    monitor.record(1, BAD[0])
    with pytest.raises(FloatingPointError, match="of step 1 is not finite"):
        monitor.record(2, GOOD)


def test_a_training_that_begins_forgets_the_one_before():
    monitor = NaNMonitor(late=True)
    monitor.record(1, BAD[0])
    monitor.reset()
    monitor.record(1, GOOD)
    monitor.check()


def test_recorded_numbers_are_reported_as_they_were():
    monitor = NaNMonitor(late=True)
    number = torch.tensor([math.nan])
    monitor.record(1, [number])
    number.zero_()
    with pytest.raises(FloatingPointError):
        monitor.check()


def test_noting_late_reads_nothing():
    with Operations() as used:
        NaNMonitor(late=True).record(1, GOOD)
    assert "cat" in used.names
    assert used.names & WAITING == set()
    with Operations() as used:
        NaNMonitor(late=False).record(1, GOOD)
    assert used.names & WAITING == {"_local_scalar_dense"}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_gpu_is_not_waited_for_until_the_look():
    monitor, parts = NaNMonitor(late=True), [part.cuda() for part in BAD[1]]
    torch.cuda.set_sync_debug_mode("error")
    try:
        monitor.record(1, parts)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    with pytest.raises(FloatingPointError, match="of step 1"):
        monitor.check()
