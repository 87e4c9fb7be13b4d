"""What processes need of each other, and how one ends."""

import json
import subprocess
import sys

import pytest
import torch
from accelerate.parallelism_config import ParallelismConfig
from builders import REPOSITORY, sentences, tiny_model
from datasets import Dataset
from processes import start_processes
from safetensors.torch import load_file
from trainers import make_trainer, training_arguments

from mocose_hf import MoCoSETrainer, MoCoSETrainingArguments, maximum_traceable_distance
from mocose_hf.data.collator import SentenceCollator

TALKING = "distributed.init_process_group('gloo', store=distributed.HashStore(), rank=0, world_size=1)\n"


@pytest.mark.parametrize("talking", ["", TALKING], ids=["alone", "with others"])
def test_a_process_ends_with_its_code_and_all_that_is_to_be_done_at_the_end(tmp_path, talking):
    script = tmp_path / "script.py"
    script.write_text(
        "import atexit, threading, time\n"
        "from torch import distributed\n"
        "from mocose_hf.parallel.collectives import end_process\n"
        "atexit.register(print, 'registered')\n"
        f"{talking}"
        "threading.Thread(target=lambda: (time.sleep(0.3), print('thread'))).start()\n"
        "print('main')\n"
        "end_process(75)\n"
    )
    done = subprocess.run([sys.executable, script], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, timeout=120)
    assert done.returncode == 75
    assert done.stdout.split("\n") == ["main", "thread", "registered", ""]


def test_a_process_that_talked_to_others_leaves_its_interpreter_as_it_is(tmp_path):
    """Where torch's threads could abort it: nothing of Python's runs after the last function registered at exit."""
    script = tmp_path / "script.py"
    script.write_text(
        "from torch import distributed\n"
        "from mocose_hf.parallel.collectives import end_process\n"
        "class Told:\n"
        "    def __del__(self, write=print):\n"
        "        write('taken apart')\n"
        "told = Told()\n"
        f"{TALKING}"
        "end_process(0)\n"
    )
    done = subprocess.run([sys.executable, script], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.fixture
def two_processes(monkeypatch):
    monkeypatch.setattr(MoCoSETrainingArguments, "world_size", property(lambda args: 2))


@pytest.mark.slow
def test_two_processes_that_split_each_batch_end_as_one_process_does(tmp_path, encoder_dir):
    """Of 16 rows a batch, 8 go to each process; η and d_trace follow from the 16 keys that enter the queue."""
    changes = {"training": {"accelerator_config": {"split_batches": True}, "ema_schedule": "constant_distance"}}
    for processes in (1, 2):
        own = tmp_path / str(processes)
        arguments = (encoder_dir, own, 16, json.dumps(changes))
        start_processes("train_on_processes.py", processes, *arguments, log_folder=own)
    one = load_file(tmp_path / "1" / "rank0.safetensors")
    first, second = (load_file(tmp_path / "2" / f"rank{rank}.safetensors") for rank in (0, 1))
    assert (one["processes"].item(), first["processes"].item()) == (1, 2)
    expected = maximum_traceable_distance(0.85, queue_size=20, batch_size=16)
    torch.testing.assert_close(first["d_trace"], torch.full_like(one["d_trace"], expected))
    for name in one.keys() - {"processes"}:
        torch.testing.assert_close(first[name], one[name], atol=1e-6, rtol=0, msg=name)
        assert torch.equal(first[name], second[name]), name


def test_rows_of_a_batch_are_counted_once(tmp_path, two_processes):
    args = training_arguments(tmp_path, per_device_train_batch_size=64)
    assert (args.global_batch_size, args.local_batch_size) == (128, 64)
    args = training_arguments(
        tmp_path, per_device_train_batch_size=64, accelerator_config={"split_batches": True, "even_batches": False}
    )
    assert (args.global_batch_size, args.local_batch_size) == (64, 32)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"accelerator_config": {"split_batches": True}, "per_device_train_batch_size": 5}, "give a multiple of 2"),
        ({"accelerator_config": {"dispatch_batches": True}}, "sets dispatch_batches, which joins batches"),
    ],
)
def test_batches_that_processes_cannot_share_raise_an_error(tmp_path, two_processes, fields, reason):
    with pytest.raises(ValueError, match=reason):
        training_arguments(tmp_path, **fields)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"accelerator_config": {"use_seedable_sampler": False}}, "a resumed run sees other batches"),
        ({"dataloader_in_order": False, "dataloader_num_workers": 2}, "batches come in an order of chance"),
        ({"parallelism_config": ParallelismConfig()}, "`parallelism_config` is not supported"),
    ],
)
def test_an_order_of_batches_that_no_resumed_run_has_raises_an_error(tmp_path, fields, reason):
    with pytest.raises(ValueError, match=reason):
        training_arguments(tmp_path, **fields)


def test_a_last_batch_that_processes_cannot_share_raises_an_error(tmp_path, tokenizer, two_processes):
    with pytest.raises(ValueError, match=r"cannot share the last batch of 6 rows exactly \(30 rows, 8 a batch\)"):
        make_trainer(tmp_path, tokenizer, count=30, dataloader_drop_last=False)
    assert make_trainer(tmp_path, tokenizer, count=24, dataloader_drop_last=False) is not None


class TwoViews:
    """A collator that makes two rows of each text."""

    def __init__(self, tokenizer):
        self._collate = SentenceCollator(tokenizer)

    def __call__(self, rows):
        return self._collate([row for row in rows for _ in range(2)])


def test_distances_follow_from_the_keys_that_an_own_collator_makes(tmp_path, tokenizer):
    """A batch of 4 rows makes 8 keys; the last one, of 2 rows, does not count."""
    settings = {"save_strategy": "steps", "save_steps": 5, "dataloader_drop_last": False, "logging_steps": 2}

    def trainer(**fields):
        return MoCoSETrainer(
            model=tiny_model(),
            args=training_arguments(tmp_path, **settings | fields),
            train_dataset=Dataset.from_dict({"text": sentences(22)}),
            processing_class=tokenizer,
            data_collator=TwoViews(tokenizer),
        )

    expected = maximum_traceable_distance(0.85, queue_size=16, batch_size=8)
    trainer().train()
    resumed = trainer()
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
    distances = [line["d_trace"] for line in resumed.state.log_history if "d_trace" in line]
    assert distances == [pytest.approx(expected)] * 3
