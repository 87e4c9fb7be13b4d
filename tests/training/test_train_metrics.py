"""The log's means: worked by hand, over all processes, and the same to the last bit over interruptions."""

import json
import struct
from types import SimpleNamespace

import pytest
import torch

from mocose_hf.training.checkpoint import TRAIN_METRICS_FILE as FILE
from mocose_hf.training.train_metrics import NAMES, TrainMetrics, measure

CPU = torch.device("cpu")


def forwards(count: int, processes: int = 1, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(processes, len(NAMES), generator=generator) * 3 for _ in range(count)]


def log_of(rows) -> TrainMetrics:
    log = TrainMetrics()
    for forward in rows:
        log.add(forward)
    return log


def bits(values) -> list[bytes]:
    return [struct.pack("<d", value) for value in values]


def test_means_are_over_the_forwards_and_the_processes():
    first = torch.tensor([[1.0, 0.0, 0.25, 2.0], [3.0, 1.0, 0.75, 4.0]])
    second = torch.tensor([[4.0, 1.0, 0.0, 1.0], [6.0, 0.0, 1.0, 1.0]])
    assert log_of([first, second]).pop_means() == {
        "loss": 3.5,
        "contrastive_accuracy": 0.5,
        "query_std": 0.5,
        "key_std": 2.0,
    }


def test_each_line_begins_anew_and_nothing_counted_gives_no_line():
    log = log_of([torch.full((1, 4), 2.0), torch.full((1, 4), 4.0)])
    assert log.pop_means()["loss"] == 3.0
    assert log.pop_means() == {}
    log.add(torch.full((1, 4), 8.0))
    assert log.pop_means()["loss"] == 8.0
    assert TrainMetrics().pop_means() == {}


def test_the_mean_loss_is_over_all_forwards_and_not_over_lines():
    log = TrainMetrics()
    assert log.mean_loss() == 0.0
    for loss in (1.0, 2.0, 3.0):
        log.add(torch.full((1, 4), loss))
    assert log.mean_loss() == 2.0
    log.pop_means()
    assert log.mean_loss() == 2.0
    log.add(torch.full((1, 4), 10.0))
    assert log.mean_loss() == 4.0
    assert log.mean_loss() == 4.0
    assert log.pop_means()["loss"] == 10.0


def test_two_processes_count_alike_whichever_comes_first():
    rows = forwards(20, processes=2)
    there, back = log_of(rows), log_of([row.flip(0) for row in rows])
    assert bits([there.mean_loss()]) == bits([back.mean_loss()])
    assert bits(there.pop_means().values()) == bits(back.pop_means().values())


def test_a_row_of_the_first_process_counts_as_much_as_one_of_the_last():
    row = torch.zeros(3, 4)
    for process in range(3):
        only = row.clone()
        only[process] = 3.0
        assert log_of([only]).pop_means() == dict.fromkeys(NAMES, 1.0)


@pytest.mark.parametrize("cut", range(12))
@pytest.mark.parametrize("line", [1, 3, 5, 100])
def test_what_is_saved_continues_to_the_last_bit(tmp_path, cut, line):
    rows = forwards(11, processes=3)

    def tell(interrupted: bool) -> list[bytes]:
        log, told = TrainMetrics(), []
        for number, row in enumerate(rows):
            if interrupted and number == cut:
                log.save(tmp_path)
                log = log_of(forwards(5, seed=9))
                log.pop_means()
                log.add(rows[0])
                log.load(tmp_path, CPU)
            log.add(row)
            if (number + 1) % line == 0:
                told += log.pop_means().values()
        return bits([*told, log.mean_loss(), *log.pop_means().values(), log.mean_loss()])

    assert tell(interrupted=True) == tell(interrupted=False)


def test_saving_changes_nothing_and_gives_the_same_text_again(tmp_path):
    log = log_of(forwards(7))
    log.pop_means()
    log.add(forwards(1, seed=3)[0])
    log.save(tmp_path)
    text = (tmp_path / FILE).read_text()
    again = TrainMetrics()
    again.load(tmp_path, CPU)
    again.save(tmp_path)
    assert (tmp_path / FILE).read_text() == text
    assert json.loads(text)["logged_forwards"] == 7
    assert bits(again.pop_means().values()) == bits(log.pop_means().values())


def test_a_log_without_forwards_is_saved_too(tmp_path):
    TrainMetrics().save(tmp_path)
    log = log_of(forwards(3))
    log.load(tmp_path, CPU)
    assert log.pop_means() == {}
    assert log.mean_loss() == 0.0


def test_a_run_that_starts_forgets_the_one_before():
    log = log_of(forwards(3))
    log.pop_means()
    log.add(forwards(1)[0])
    log.load(None, CPU)
    assert (log.pop_means(), log.mean_loss()) == ({}, 0.0)


def test_what_was_counted_is_no_view_of_what_was_given():
    row = torch.ones(1, 4)
    log = log_of([row])
    row.zero_()
    assert log.pop_means()["loss"] == 1.0


def test_measured_are_loss_share_of_hits_and_deviations_over_the_batch():
    outputs = SimpleNamespace(
        is_top1=torch.tensor([True, False, True, False]),
        query_embeddings=torch.tensor([[1.0, 0.0], [-1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]]),
        key_embeddings=torch.tensor([[2.0, 1.0], [0.0, 1.0], [2.0, 5.0], [0.0, 5.0]]),
    )
    loss = torch.tensor(1.5, requires_grad=True)
    row = measure(loss, outputs)
    assert row.shape == (1, len(NAMES))
    assert row.dtype == torch.float32
    assert not row.requires_grad
    assert row.tolist() == [[1.5, 0.5, 0.5, 1.5]]


def test_measured_in_half_precision_is_reported_in_float32():
    half = torch.ones(2, 3, dtype=torch.bfloat16)
    outputs = SimpleNamespace(is_top1=half > 2, query_embeddings=half, key_embeddings=half)
    assert measure(torch.tensor(1.0, dtype=torch.bfloat16), outputs).dtype == torch.float32
