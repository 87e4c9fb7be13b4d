import math
import subprocess
import sys

import pytest

from mocose_hf import MoCoSEConfig
from mocose_hf.models.ema import maximum_traceable_distance
from mocose_hf.study.paper_studies import PAPER_STUDIES
from mocose_hf.study.traceable_distance import solve


def test_the_paper_s_best_setting_is_among_those_of_its_distance():
    settings = {found.queue_size: found for found in solve(1 / (1 - 0.85) + 8, batch_size=64)}

    assert settings[512].ema_decay == pytest.approx(0.85)
    assert list(settings) == [0, 64, 128, 256, 512]
    assert settings[0].ema_decay == pytest.approx(1 - 1 / (1 / 0.15 + 8))


@pytest.mark.parametrize("distance", [1.0, 1.5, 2.0, 7.67, 21.0, 1000.0])
def test_each_setting_gives_the_distance_by_the_paper_s_formula(distance):
    for found in solve(distance, batch_size=32):
        assert 0.0 <= found.ema_decay < 1.0
        assert found.queue_size % 32 == 0
        assert 1 / (1 - found.ema_decay) + found.queue_size / 32 == pytest.approx(distance)
        assert found.d_trace == pytest.approx(distance)


def test_a_target_that_copies_the_online_branch_is_the_least_distance():
    (found,) = solve(1.0, batch_size=8)
    assert (found.ema_decay, found.queue_size) == (0.0, 0)


def test_given_ratios_are_used_if_possible():
    assert [found.queue_size for found in solve(5.0, 10, ratios=[3, 4, 5])] == [30, 40]


def test_each_setting_can_be_used_as_it_is():
    for found in solve(40.0, batch_size=10):
        MoCoSEConfig(queue_size=found.queue_size, queue_init_size=found.queue_init_size)
    assert found.queue_init_size == 320 // 4


def test_the_sentences_say_which_queues_they_allow():
    notes = {found.queue_size: found.note for found in solve(40.0, batch_size=64, num_sentences=1000)}

    assert notes[0] == ""
    assert notes[64] == "holds 6.40% of the sentences; set mask_same_sentence for several epochs"
    assert notes[2048].startswith("too large for 1,000 sentences")
    assert all(note == "" for note in (found.note for found in solve(40.0, 64)))
    (whole,) = solve(40.0, 10, num_sentences=100, ratios=[9])
    assert whole.note.startswith("holds 90.00%")  # 90 queued keys and a batch of 10: each sentence once
    (more,) = solve(40.0, 10, num_sentences=99, ratios=[9])
    assert more.note.startswith("too large for 99 sentences")


@pytest.mark.parametrize(("distance", "batch"), [(0.5, 64), (math.inf, 64), (math.nan, 64), (14.67, 0)])
def test_numbers_out_of_range_fail(distance, batch):
    with pytest.raises(ValueError, match=r"`d_trace`.*`batch_size`.*at least 1"):
        solve(distance, batch)


def test_the_distances_of_the_paper_studies_are_those_of_the_model():
    cells = PAPER_STUDIES["figure3"].cells
    for cell in cells:
        options = cell.options
        batch = options["per_device_train_batch_size"]
        distance = maximum_traceable_distance(options["ema_decay"], options["queue_size"], batch)
        assert cell.x == pytest.approx(distance, abs=0.005)
    assert len({cell.x for cell in cells}) > 5


def test_the_list_of_studies_starts_without_heavy_imports():
    code = (
        "import sys; from mocose_hf.study.cli import main; main(['list']); "
        "print('loaded:', *{'torch', 'transformers', 'optuna', 'datasets', 'pandas', 'scipy'} & set(sys.modules))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "table3" in output
    assert output.endswith("loaded:\n")
