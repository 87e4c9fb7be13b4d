"""One order of rows for any number of processes and workers, and a resume that ends in the same bits."""

import gzip
import json
import pickle
import random
import shutil
import sys
import tracemalloc
from itertools import chain, islice
from pathlib import Path

import pytest
import torch
from accelerate.data_loader import IterableDatasetShard
from builders import REPOSITORY, sentences, tiny_model
from datasets import Dataset
from processes import start_processes
from safetensors.torch import load_file
from text_files import content_of, write
from torch.utils.data import DataLoader, IterableDataset
from transformers import TrainerCallback

from mocose_hf import MoCoSETrainer, MoCoSETrainingArguments, SentenceStream
from mocose_hf.data import readers
from mocose_hf.data.collator import SentenceCollator
from mocose_hf.data.sentences import read_sentences
from mocose_hf.data.streaming import HubDataset, InfiniteStream, RowStream, SkipSeenCollator
from mocose_hf.errors import InputError, input_error_line

sys.path.insert(0, str(REPOSITORY))

import run_mocose

BATCH = 4

many_workers = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")


def take(stream, count: int) -> list:
    return list(islice(stream, count))


def ids(rows) -> list[int | None]:
    return [None if row is None else row["sentence_id"] for row in rows]


def joined(parts) -> list:
    return list(chain.from_iterable(parts))


def numbers(count: int) -> RowStream:
    return RowStream([{"text": str(i)} for i in range(count)], shuffle_buffer_size=7, seed=3)


@pytest.mark.parametrize("zipped", ["", ".gz"])
@pytest.mark.parametrize("kind", [".txt", ".csv", ".tsv", ".jsonl", ".parquet"])
def test_a_buffer_of_one_keeps_the_order_of_read_sentences(tmp_path, kind, zipped):
    made = sentences(30)
    path = write(tmp_path, kind + zipped, content_of(kind, {"text": [*made[:9], " ", *made[9:]]}))
    read = read_sentences(path).dataset.to_list()
    assert take(SentenceStream(path, shuffle_buffer_size=1), 60) == read * 2


def test_pairs_are_streamed_and_halves_of_them_dropped(tmp_path):
    columns = {"text": ["a", "b", "c"], "other": ["x", " ", "z"]}
    stream = SentenceStream(write(tmp_path, ".csv", content_of(".csv", columns)), key_column="other")
    rows = sorted(take(stream, 2), key=lambda row: row["sentence_id"])
    assert rows == [
        {"text": "a", "sentence_id": 0, "key_text": "x"},
        {"text": "c", "sentence_id": 1, "key_text": "z"},
    ]


def test_triplets_and_several_positives_are_streamed(tmp_path):
    columns = {"text": ["a", "b", "c"], "one": ["x", " ", ""], "two": ["y", "", "z"], "worse": ["w", "v", " "]}
    path = write(tmp_path, ".csv", content_of(".csv", columns))
    stream = SentenceStream(path, key_column=["one", "two"], negative_column="worse", shuffle_buffer_size=1)
    assert take(stream, 3) == [
        {"text": "a", "sentence_id": 0, "key_text": "x", "negative_text": "w"},
        {"text": "a", "sentence_id": 0, "key_text": "y", "negative_text": "w"},
        {"text": "c", "sentence_id": 1, "key_text": "z", "negative_text": ""},
    ]


def test_duplicates_are_kept_and_have_numbers_of_their_own(tmp_path):
    stream = SentenceStream(write(tmp_path, ".txt", "a\n\na\nb\n"), shuffle_buffer_size=1)
    assert [(row["text"], row["sentence_id"]) for row in take(stream, 3)] == [("a", 0), ("a", 1), ("b", 2)]


@pytest.mark.parametrize("buffer_size", [1, 2, 7, 22, 1000])
def test_each_pass_gives_every_row_once(text_file, buffer_size):
    rows = take(SentenceStream(text_file, shuffle_buffer_size=buffer_size), 66)
    texts = sentences(22)
    for start in (0, 22, 44):
        assert sorted(ids(rows[start : start + 22])) == list(range(22))
    assert all(texts[row["sentence_id"]] == row["text"] for row in rows)


def test_order_follows_seed_and_pass_and_touches_no_other_generator(text_file):
    torch_state, python_state = torch.get_rng_state(), random.getstate()
    order = {seed: ids(take(SentenceStream(text_file, seed=seed), 44)) for seed in (1, 2)}
    assert order[1] == ids(take(SentenceStream(text_file, seed=1), 44))
    passes = [tuple(order[seed][start : start + 22]) for seed in (1, 2) for start in (0, 22)]
    assert len(set(passes)) == 4
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert random.getstate() == python_state


def test_a_stream_reaches_a_worker_that_was_not_forked_from_it(text_file):
    stream = SentenceStream(text_file, seed=4)
    stream.start_at(3, global_batch_size=4)
    assert take(pickle.loads(pickle.dumps(stream)), 60) == take(stream, 60)


def test_seed_of_the_run_is_that_of_a_stream_without_its_own(text_file):
    own, given = SentenceStream(text_file, seed=5), SentenceStream(text_file)
    given.start_at(seed_of_run=5)
    own.start_at(seed_of_run=6)
    assert ids(take(given, 44)) == ids(take(own, 44))


def test_a_row_is_drawn_from_no_further_ahead_than_the_buffer(tmp_path):
    order = ids(take(RowStream([{"text": ""}] * 500, shuffle_buffer_size=20), 500))
    assert all(row - place < 20 for place, row in enumerate(order))
    assert max(place - row for place, row in enumerate(order)) > 40  # some wait long


@many_workers
@pytest.mark.parametrize("start", [0, 3])
@pytest.mark.parametrize("workers", [0, 1, 2, 3])
@pytest.mark.parametrize("processes", [1, 2])
def test_batches_are_the_same_for_any_number_of_workers_and_processes(text_file, workers, processes, start):
    expected = ids(take(SentenceStream(text_file, shuffle_buffer_size=10), 12 * 6))
    stream = SentenceStream(text_file, shuffle_buffer_size=10)
    stream.start_at(start, global_batch_size=6)
    parts = []
    for process in range(processes):
        part = stream
        if processes > 1:
            part = IterableDatasetShard(stream, 6 // processes, num_processes=processes, process_index=process)
        loader = DataLoader(part, batch_size=6 // processes, collate_fn=ids, num_workers=workers)
        parts.append(list(islice(loader, 12)))
    batches = [joined(batch) for batch in zip(*parts, strict=True)]
    assert batches[:start] == [[None] * 6] * start
    assert joined(batches[start:]) == expected[6 * start :]


@pytest.mark.parametrize("start", range(0, 41, 3))
def test_starting_later_continues_as_if_from_the_start(start):
    expected = take(numbers(9), 200)
    stream = numbers(9)
    stream.start_at(start, global_batch_size=4)
    rows = take(stream, 200)
    assert rows[: 4 * start] == [None] * (4 * start)
    assert rows[4 * start :] == expected[4 * start :]


def test_passes_that_were_trained_on_are_not_read_again():
    class Counting(InfiniteStream):
        passes = 0

        def one_pass(self):
            self.passes += 1
            return iter([{"sentence_id": i} for i in range(10)])

    expected = ids(take(Counting(shuffle_buffer_size=4), 1010))
    stream = Counting(shuffle_buffer_size=4)
    stream.start_at(1003, global_batch_size=1)
    assert ids(islice(stream, 1003, 1010)) == expected[1003:]
    assert stream.passes == 2  # the first, for its length, and the one that goes on


def test_replayed_rows_are_not_tokenised(tokenizer):
    collate = SentenceCollator(tokenizer)
    replay = SkipSeenCollator(collate)
    assert replay([None, None]) == {}
    rows = [{"text": "a cat", "sentence_id": 3}]
    assert replay(rows)["sentence_ids"].tolist() == collate(rows)["sentence_ids"].tolist() == [3]


@pytest.mark.parametrize("content", ["", "a\n\nb\nc\n"])
def test_fewer_rows_than_a_batch_are_refused(tmp_path, content):
    path = write(tmp_path, ".txt", content or "\n")
    stream = SentenceStream(path)
    with pytest.raises(InputError, match=r"file\.txt: \d rows to train on, but one batch takes 4"):
        stream.validate_first_batch(4)
    stream.start_at(global_batch_size=4)
    with pytest.raises(InputError, match=r"file\.txt: \d rows to train on"):
        take(stream, 100)
    if content:
        assert stream.validate_first_batch(3) == {"text": "a", "sentence_id": 0}


@pytest.mark.parametrize("workers", [0, 2])
def test_a_row_that_cannot_be_read_is_reported_in_one_line(tmp_path, workers):
    good = "\n".join(sentences(50)).encode()
    path = write(tmp_path, ".txt", good + b"\ncaf\xe9\n" + good)
    stream = SentenceStream(path, shuffle_buffer_size=5)
    stream.start_at(global_batch_size=4)
    seen = []
    with pytest.raises(InputError) as raised:
        seen.extend(DataLoader(stream, batch_size=4, collate_fn=ids, num_workers=workers))
    line = input_error_line(raised.value)
    assert line.startswith(f"{path}, line 51: not UTF-8 at byte 4 of the line; ")
    assert "\n" not in line
    assert len(seen) == 11  # 45 of 50 rows have left the buffer by then


def test_fingerprint_is_that_of_the_file_and_says_what_it_is_of(text_file):
    first = SentenceStream(text_file).fingerprint
    assert "first and last MiB" in first
    assert SentenceStream(text_file, shuffle_buffer_size=1).fingerprint == first
    text_file.write_text(text_file.read_text() + "a cat\n")
    assert SentenceStream(text_file).fingerprint != first


def test_memory_does_not_grow_with_the_file(tmp_path):
    path = tmp_path / "large.txt"
    with path.open("w") as file:
        file.writelines(f"{i:060d} a cat sees the dog\n" for i in range(50_000))
    stream = SentenceStream(path, shuffle_buffer_size=100)
    tracemalloc.start()
    try:
        for _ in islice(stream, 100_000):
            pass
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2**20 < path.stat().st_size / 3


def test_a_hub_dataset_is_streamed(monkeypatch):
    asked = []

    def load_dataset(*args, **options):
        asked.append((args, options))
        return Dataset.from_dict({"sentence": ["a", None, "b", " ", "a"]}).to_iterable_dataset(num_shards=2)

    monkeypatch.setattr(readers, "load_dataset", load_dataset)
    source = HubDataset("someone/texts", "small", "test", "v2")
    stream = SentenceStream(source, text_column="sentence", shuffle_buffer_size=1)
    assert [(row["text"], row["sentence_id"]) for row in take(stream, 4)] == [("a", 0), ("b", 1), ("a", 2), ("a", 0)]
    assert asked == [(("someone/texts", "small"), {"split": "test", "revision": "v2", "streaming": True})]
    assert stream.fingerprint.startswith("someone/texts/small/test/v2 (")
    with pytest.raises(InputError, match=r"someone/texts \(test\): no column `text`, the columns are: sentence"):
        SentenceStream(source).validate_first_batch(1)


@many_workers
@pytest.mark.parametrize("workers", [0, 2, 3])
def test_rows_of_datasets_are_all_seen_in_each_worker(workers):
    rows = Dataset.from_dict({"text": sentences(20)}).to_iterable_dataset(num_shards=3)
    stream = RowStream(rows)
    stream.start_at(global_batch_size=4)
    loader = DataLoader(stream, batch_size=4, collate_fn=ids, num_workers=workers)
    assert joined(islice(loader, 10)) == [*range(20), *range(20)]


def arguments(output_dir, **fields) -> MoCoSETrainingArguments:
    settings = {
        "output_dir": str(output_dir),
        "per_device_train_batch_size": BATCH,
        "max_steps": 12,
        "learning_rate": 1e-3,
        "logging_steps": 1,
        "save_strategy": "steps",
        "save_steps": 1,
        "save_total_limit": None,
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
    }
    return MoCoSETrainingArguments(**settings | fields)


def make_trainer(output_dir, tokenizer, dataset, model_seed=0, callbacks=None, data_collator=None, **fields):
    return MoCoSETrainer(
        model=tiny_model(model_seed),
        args=arguments(output_dir, **fields),
        train_dataset=dataset,
        processing_class=tokenizer,
        callbacks=callbacks,
        data_collator=data_collator,
    )


def flat(value, name: str = "") -> dict:
    """Return the leaves of nested dicts and lists by their path."""
    if isinstance(value, dict):
        return {k: v for key, inner in value.items() for k, v in flat(inner, f"{name}.{key}").items()}
    if isinstance(value, (list, tuple)):
        return {k: v for key, inner in enumerate(value) for k, v in flat(inner, f"{name}.{key}").items()}
    return {name: value}


def checkpoint_state(folder: Path) -> dict:
    """Return all that a checkpoint holds, but for what depends on the clock or is named after the folder."""
    state = dict(load_file(folder / "model.safetensors"))
    for name in sorted(p.name for p in folder.glob("*.p*") if p.name != "training_args.bin"):
        state |= flat(torch.load(folder / name, weights_only=False), name)
    told = json.loads((folder / "trainer_state.json").read_text())
    return state | flat({key: told[key] for key in ("log_history", "epoch", "global_step", "max_steps")}, "state")


def differing(first: dict, second: dict) -> list[str]:
    """Return the names of what is not the same to the last bit."""
    assert first.keys() == second.keys()
    names = []
    for name, value in first.items():
        other = second[name]
        if isinstance(value, torch.Tensor):
            same = value.dtype == other.dtype and torch.equal(value, other)
        elif hasattr(value, "tobytes"):
            same = value.tobytes() == other.tobytes()
        else:
            same = value == other
        if not same:
            names.append(name)
    return names


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_resumed_run_ends_in_the_same_bits(tmp_path, tokenizer, text_file, accumulation, workers):
    fields = {"gradient_accumulation_steps": accumulation, "dataloader_num_workers": workers}

    def run(name, checkpoint=None, **more):
        stream = SentenceStream(text_file, shuffle_buffer_size=9)
        trainer = make_trainer(tmp_path / name, tokenizer, stream, model_seed=9, **fields | more)
        if checkpoint is not None:
            trainer.model.load_state_dict(tiny_model(77).state_dict())  # nothing of the start is left
        trainer.train(resume_from_checkpoint=checkpoint and str(checkpoint))

    whole = tmp_path / "whole"
    run("whole")
    expected = checkpoint_state(whole / "checkpoint-12")
    assert len([name for name in expected if name.endswith(".loss")]) == 12
    assert {"queue.row_ids", "target.pooler.weight"} <= expected.keys()
    # In the middle of a pass, inside the batch that two passes share, and where a pass begins with a batch.
    for step in (3, 6, 11):
        run(f"from-{step}", whole / f"checkpoint-{step}")
        assert differing(expected, checkpoint_state(tmp_path / f"from-{step}" / "checkpoint-12")) == []
    run("twice", tmp_path / "from-3" / "checkpoint-7")
    assert differing(expected, checkpoint_state(tmp_path / "twice" / "checkpoint-12")) == []


def test_batches_of_the_run_are_those_of_the_stream_and_replay_tokenises_none(tmp_path, tokenizer, text_file):
    class Recording(SentenceCollator):
        seen: list[list[int]] = []

        def __call__(self, rows):
            self.seen.append(ids(rows))
            return super().__call__(rows)

    def run(checkpoint=None, **fields):
        collator = Recording(tokenizer)
        collator.seen = []
        stream = SentenceStream(text_file)
        make_trainer(tmp_path / "out", tokenizer, stream, data_collator=collator, **fields).train(checkpoint)
        return collator.seen

    seen = run(seed=5)
    expected = ids(take(SentenceStream(text_file, seed=5), 13 * BATCH))
    assert joined(seen) == expected[: BATCH * len(seen)]
    assert len(seen) in (12, 13)  # one may be read ahead
    shutil.copytree(tmp_path / "out" / "checkpoint-8", tmp_path / "checkpoint-8")
    assert run(str(tmp_path / "checkpoint-8"), seed=5) == seen[8:]


@pytest.mark.parametrize("workers", [0, 2])
def test_any_iterable_dataset_trains_and_resumes(tmp_path, tokenizer, workers):
    class Texts(IterableDataset):
        def __iter__(self):
            return ({"text": text} for text in sentences(22))

    table = Dataset.from_dict({"text": sentences(22)})
    made = {"torch": Texts(), "datasets": table.to_iterable_dataset(num_shards=3)}
    ends = {}
    for name, dataset in made.items():
        for part, checkpoint in (("whole", None), ("resumed", str(tmp_path / f"{name}-whole" / "checkpoint-7"))):
            folder = tmp_path / f"{name}-{part}"
            trainer = make_trainer(folder, tokenizer, dataset, dataloader_num_workers=workers)
            trainer.train(resume_from_checkpoint=checkpoint)
            ends[name, part] = checkpoint_state(folder / "checkpoint-12")
        assert differing(ends[name, "whole"], ends[name, "resumed"]) == []
    assert differing(ends["torch", "whole"], ends["datasets", "whole"]) == []
    assert ends["torch", "whole"]["queue.row_ids"].tolist() != [0] * 16


def test_rows_may_bring_ids_and_key_texts(tmp_path, tokenizer):
    rows = [{"text": text, "key_text": "a cat", "sentence_id": 100 + i} for i, text in enumerate(sentences(8))]
    dataset = Dataset.from_list(rows).to_iterable_dataset()
    trainer = make_trainer(tmp_path, tokenizer, dataset, max_steps=4, save_strategy="no")
    trainer.train()
    assert set(trainer.model.queue.sentence_ids().tolist()) == set(range(100, 108))


@pytest.mark.parametrize(
    ("column", "rows", "fields", "told"),
    [
        ("text", 22, {"max_steps": -1}, "`max_steps` must be given"),
        ("text", 22, {"dataloader_drop_last": False}, "`dataloader_drop_last` must stay true"),
        ("text", 3, {}, "The training set: 3 rows to train on, but one batch takes 4"),
        ("sentence", 22, {}, "no column `text`, only sentence"),
    ],
)
def test_what_cannot_be_streamed_is_refused_before_training(tmp_path, tokenizer, column, rows, fields, told):
    dataset = Dataset.from_dict({column: sentences(rows)}).to_iterable_dataset()
    with pytest.raises(InputError, match=told):
        make_trainer(tmp_path / "out", tokenizer, dataset, **fields)
    assert not (tmp_path / "out").exists()


def test_progress_of_a_resumed_run_counts_on(tmp_path, tokenizer, text_file):
    class Epochs(TrainerCallback):
        seen: dict[int, float] = {}

        def on_step_end(self, args, state, control, **kwargs):
            self.seen[state.global_step] = state.epoch

    make_trainer(tmp_path / "whole", tokenizer, SentenceStream(text_file)).train()
    epochs = Epochs()
    resumed = make_trainer(tmp_path / "resumed", tokenizer, SentenceStream(text_file), callbacks=[epochs])
    resumed.train(str(tmp_path / "whole" / "checkpoint-9"))
    assert epochs.seen == {10: 10 / 12, 11: 11 / 12, 12: 1.0}


@pytest.fixture
def command(encoder_dir, text_file, tmp_path):
    """Call the command with options that keep it tiny; returns its output directory."""

    def run(*options: str, code: int = 0, output_dir: str = "out", file: Path = text_file) -> Path:
        argv = ["--model_name_or_path", str(encoder_dir), "--train_file", str(file), "--streaming"]
        argv += ["--output_dir", str(tmp_path / output_dir), "--per_device_train_batch_size", "4"]
        argv += ["--queue_size", "16", "--queue_init_size", "4", "--use_cpu", "--disable_tqdm", "true"]
        assert run_mocose.main([*argv, "--max_steps", "12", "--save_steps", "1", *options]) == code
        return tmp_path / output_dir

    return run


def test_the_command_streams_says_so_and_resumes(command, text_file, capsys, caplog):
    out = command("--save_total_limit", "20")
    assert f"{text_file}: streamed, shuffled among 10,000 rows; blank rows" in capsys.readouterr().out
    card = (out / "README.md").read_text()
    assert f"Data, fingerprint: `{SentenceStream(text_file).fingerprint}`" in card
    assert "sha256: `" not in card
    assert "`max_steps`" in card
    assert "num_train_epochs" not in card
    resumed = command("--resume_from_checkpoint", str(out / "checkpoint-7"), output_dir="resumed")
    assert differing(*(load_file(folder / "mocose" / "model.safetensors") for folder in (out, resumed))) == []
    command("--resume_from_checkpoint", "true", output_dir="resumed")
    assert "no step is left to train" in caplog.text


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_bad_row_ends_the_run_in_one_line_and_leaves_the_checkpoint(command, tmp_path, capsys, workers):
    path = tmp_path / "bad.jsonl.gz"
    lines = [json.dumps({"text": text}) for text in sentences(40)]
    with gzip.open(path, "wt") as file:
        file.write("\n".join([*lines[:30], '{"text": "a ca', *lines[30:]]))
    options = ("--shuffle_buffer_size", "4", "--dataloader_num_workers", workers)
    out = command(*options, file=path, code=2)
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"run_mocose.py: {path}, line 31: not valid JSON")
    assert "Traceback" not in error
    checkpoints = sorted(int(p.name.removeprefix("checkpoint-")) for p in out.glob("checkpoint-*"))
    assert checkpoints[-1] >= 4
    with gzip.open(path, "wt") as file:
        file.write("\n".join([*lines[:30], '{"text": "a cat"}', *lines[30:]]))
    command(*options, "--resume_from_checkpoint", "true", file=path)
    assert load_file(out / "model.safetensors")


@pytest.mark.slow
def test_two_processes_train_on_the_batches_of_one(tmp_path, encoder_dir, text_file):
    for processes, batch, workers in ((1, 8, 0), (2, 4, 2)):
        start_processes(
            "stream_on_processes.py",
            processes,
            encoder_dir,
            text_file,
            tmp_path / str(processes),
            batch,
            workers,
            log_folder=tmp_path,
        )
    one, two = (checkpoint_state(tmp_path / str(n) / "checkpoint-12") for n in (1, 2))
    assert torch.equal(one["queue.row_ids"], two["queue.row_ids"])
    weights = load_file(tmp_path / "1" / "checkpoint-12" / "model.safetensors")
    for name in weights:
        torch.testing.assert_close(two[name], one[name], atol=1e-6, rtol=0, msg=name)


@pytest.mark.slow
def test_two_processes_resume_to_the_same_bits(tmp_path, encoder_dir, text_file):
    start_processes("stream_on_processes.py", 2, encoder_dir, text_file, tmp_path / "whole", 4, 0, log_folder=tmp_path)
    start = tmp_path / "whole" / "checkpoint-7"
    start_processes(
        "stream_on_processes.py", 2, encoder_dir, text_file, tmp_path / "resumed", 4, 2, start, log_folder=tmp_path
    )
    ends = [checkpoint_state(tmp_path / name / "checkpoint-12") for name in ("whole", "resumed")]
    assert any(name.startswith("rng_state_1.pth") for name in ends[0])
    assert differing(*ends) == []
