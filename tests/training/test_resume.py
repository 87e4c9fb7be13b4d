"""An interrupted run ends in the same bits as an uninterrupted one."""

import datasets
import pytest
import torch
from builders import sentences, tiny_model
from datasets import Dataset
from resuming import BEST, run
from same_state import differences
from trainers import make_trainer, scored_pairs, training_arguments
from transformers import BertTokenizer, TrainerCallback

from mocose_hf import MoCoSEForPreTraining, MoCoSETrainer
from mocose_hf.training import checkpoint as checkpointing
from mocose_hf.training.checkpoint import find_checkpoint, read_manifest
from mocose_hf.training.resume import compare_runs, describe_run, resolve_resume_checkpoint

BY_EPOCH = {"logging_strategy": "epoch", "eval_strategy": "epoch", "save_steps": 7}
CASES = {
    "middle of an epoch": ({}, [(6,)]),
    "between checkpoint and line of the log": ({"logging_steps": 10, "num_train_epochs": 2}, [(11,)]),
    "first step after an epoch": ({"num_train_epochs": 2, "save_steps": 7}, [(8,)]),
    "end of an epoch that is logged and scored": ({"num_train_epochs": 2} | BY_EPOCH, [(8,)]),
    "second epoch": ({"num_train_epochs": 3}, [(12,)]),
    "twice in a row": ({"num_train_epochs": 2}, [(6,), (11,)]),
    "twice from one checkpoint": ({}, [(6,), (5,)]),
    "before the first checkpoint": ({}, [(2,)]),
    "inside accumulation": (
        {"gradient_accumulation_steps": 3, "num_train_epochs": 3, "save_steps": 1},
        [(5, 1), (8, 2)],
    ),
    "best kept": (BEST, [(4,), (6,)]),
    "workers": ({"dataloader_num_workers": 2, "num_train_epochs": 2}, [(6,), (11,)]),
}


@pytest.mark.parametrize(("fields", "kills"), CASES.values(), ids=CASES)
def test_a_run_that_was_killed_ends_in_the_same_bits(tmp_path, tokenizer, fields, kills):
    pairs = {"pairs": scored_pairs()} if "eval_strategy" in fields else {}
    whole = run(tmp_path / "whole", tokenizer, **fields, **pairs)
    broken = run(tmp_path / "broken", tokenizer, kills, reseed=kills != [(2,)], **fields, **pairs)
    last = f"checkpoint-{whole.state.max_steps}"
    assert broken.state.global_step == whole.state.max_steps
    assert differences(tmp_path / "whole" / last, tmp_path / "broken" / last) == []
    state, other = whole.model.state_dict(), broken.model.state_dict()
    assert [name for name in state if not torch.equal(state[name], other[name])] == []


def test_a_run_with_a_queue_in_bfloat16_that_was_killed_ends_in_the_same_bits(tmp_path, tokenizer):
    config = {"queue_dtype": "bfloat16"}
    whole = run(tmp_path / "whole", tokenizer, config=config)
    run(tmp_path / "broken", tokenizer, [(6,)], config=config)
    last = f"checkpoint-{whole.state.max_steps}"
    assert whole.model.queue.rows.dtype == torch.bfloat16
    assert differences(tmp_path / "whole" / last, tmp_path / "broken" / last) == []
    with pytest.raises(ValueError, match="`queue_dtype` was bfloat16 and is float32 now"):
        run(tmp_path / "whole", tokenizer)


def test_a_finished_run_trains_no_step(tmp_path, tokenizer):
    whole = run(tmp_path, tokenizer)
    again = run(tmp_path, tokenizer, seed=5)
    assert again.state.global_step == whole.state.max_steps
    state, other = whole.model.state_dict(), again.model.state_dict()
    assert [name for name in state if not torch.equal(state[name], other[name])] == []


def test_the_logged_loss_is_that_of_transformers(tmp_path, tokenizer):
    sums = []

    class Losses(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **kwargs):
            sums.append(logs.get("loss", logs.get("train_loss")))

    model = tiny_model()
    losses = []
    model.register_forward_hook(lambda module, inputs, output: losses.append(output.loss.item()))
    fields = {"gradient_accumulation_steps": 2, "logging_steps": 2, "num_train_epochs": 2}
    make_trainer(tmp_path, tokenizer, model, callbacks=[Losses()], **fields).train()
    assert len(losses) == 12
    assert sums[:3] == pytest.approx([sum(losses[i : i + 4]) / 4 for i in (0, 4, 8)])
    assert sums[3] == pytest.approx(sum(losses) / 12)


def test_going_on_with_other_text_or_options_is_refused_by_name(tmp_path, tokenizer):
    run(tmp_path, tokenizer)
    with pytest.raises(ValueError, match=r"`ema_decay` was 0\.85 and is 0\.9 now; `learning_rate` was 0\.001 and is"):
        run(tmp_path, tokenizer, learning_rate=2e-3, ema_decay=0.9)
    trainer = make_trainer(tmp_path, tokenizer, texts={"text": sentences(30, seed=1)}, learning_rate=1e-3)
    with pytest.raises(ValueError, match="was trained on other text"):
        trainer.train(resume_from_checkpoint=True)


def test_another_number_of_processes_is_reported_and_allowed(tmp_path, tokenizer):
    trainer = run(tmp_path, tokenizer, save_total_limit=3)
    given = (trainer.train_dataset, trainer.state.max_steps, trainer.processing_class, trainer.data_collator)
    described = describe_run(trainer.args, trainer.model, *given)
    checkpoint = tmp_path / "checkpoint-3"
    assert read_manifest(checkpoint) == described
    assert compare_runs(checkpoint, described) == []
    (said,) = compare_runs(checkpoint, described | {"world_size": 2})
    assert "made by 1 processes and is resumed by 2" in said
    assert "no longer equal bit for bit" in said
    for name, value in {"device": "cuda", "cpu_threads": 97, "torch_version": "1.0"}.items():
        (said,) = compare_runs(checkpoint, described | {name: value})
        assert f"`{name}` was {described[name]} and is {value} now. Random numbers or rounding may differ" in said


def test_every_trajectory_option_of_the_model_and_the_arguments_is_described(tmp_path, tokenizer):
    trainer = make_trainer(tmp_path, tokenizer)
    described = describe_run(trainer.args, trainer.model, trainer.train_dataset, 6)
    named = {"temperature", "in_batch_negatives", "pooling_mode", "learning_rate", "seed", "bf16", "ema_decay"}
    assert named | {"max_steps", "global_batch_size", "training_data"} <= described.keys()


@pytest.mark.parametrize(("name", "value"), [("num_attention_heads", 4), ("layer_norm_eps", 1e-3)])
def test_resuming_with_another_encoder_of_the_same_shapes_is_refused(tmp_path, tokenizer, name, value):
    run(tmp_path, tokenizer)
    model = tiny_model(encoder={name: value}, encoder_dropout_prob=0.1)
    settings = {"save_strategy": "steps", "save_steps": 3, "logging_steps": 4, "learning_rate": 1e-3}
    trainer = make_trainer(tmp_path, tokenizer, model, count=30, **settings)
    with pytest.raises(ValueError, match=f"`{name}` of the encoder was .* and is {value} now"):
        trainer.train(resume_from_checkpoint=True)


def test_resuming_with_another_attention_is_refused(tmp_path, tokenizer):
    run(tmp_path, tokenizer)
    model = tiny_model(encoder_dropout_prob=0.1)
    model.mocose.encoder.set_attn_implementation("eager")
    settings = {"save_strategy": "steps", "save_steps": 3, "logging_steps": 4, "learning_rate": 1e-3}
    trainer = make_trainer(tmp_path, tokenizer, model, count=30, **settings)
    with pytest.raises(ValueError, match="`attn_implementation` was sdpa and is eager now"):
        trainer.train(resume_from_checkpoint=True)


def test_resuming_with_another_tokenizer_is_refused(tmp_path, tokenizer, encoder_dir):
    run(tmp_path, tokenizer)
    other = BertTokenizer.from_pretrained(encoder_dir, do_lower_case=False)
    with pytest.raises(ValueError, match=r"`tokenizer` was \w+ and is \w+ now"):
        run(tmp_path, other)


class TokenRows(torch.utils.data.Dataset):
    """Tokens made beforehand, without a column of text."""

    def __init__(self, seed=0, random=False):
        generator = torch.Generator().manual_seed(seed)
        self._rows = torch.randint(5, 100, (30, 7), generator=generator)
        self._random = random

    def __len__(self):
        return len(self._rows)

    def __getitem__(self, number):
        row = self._rows[number].clone()
        if self._random:
            row[1] = torch.randint(5, 100, ())
        return {"input_ids": row, "attention_mask": torch.ones_like(row)}


DATASETS = {
    "torch's": lambda seed: TokenRows(seed),
    "datasets' without text": lambda seed: Dataset.from_list(
        [{name: value.tolist() for name, value in row.items()} for row in map(TokenRows(seed).__getitem__, range(30))]
    ),
    "list": lambda seed: [TokenRows(seed)[number] for number in range(30)],
}


def stack(rows):
    return {
        name: torch.stack([torch.as_tensor(row[name]) for row in rows]) for name in ("input_ids", "attention_mask")
    }


def own_trainer(folder, dataset, collator=stack):
    settings = {"save_strategy": "steps", "save_steps": 3, "save_total_limit": None}
    args = training_arguments(folder, **settings)
    return MoCoSETrainer(model=tiny_model(), args=args, train_dataset=dataset, data_collator=collator)


@pytest.mark.parametrize("make", DATASETS.values(), ids=DATASETS)
def test_resuming_on_other_rows_with_an_own_collator_is_refused(tmp_path, make):
    own_trainer(tmp_path, make(0)).train()
    assert own_trainer(tmp_path, make(0)).train(resume_from_checkpoint=str(tmp_path / "checkpoint-3")).global_step == 7
    with pytest.raises(ValueError, match="was trained on other text"):
        own_trainer(tmp_path, make(1)).train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))


def test_resuming_with_another_collator_is_refused(tmp_path):
    own_trainer(tmp_path, TokenRows()).train()
    with pytest.raises(ValueError, match="`data_collator` was stack and is Another now"):
        own_trainer(tmp_path, TokenRows(), type("Another", (), {"__call__": lambda self, rows: stack(rows)})()).train(
            resume_from_checkpoint=True
        )


def test_resuming_on_rows_that_cannot_be_compared_is_refused(tmp_path):
    dataset = TokenRows(random=True)
    own_trainer(tmp_path, dataset).train()
    with pytest.raises(ValueError, match="cannot tell whether the training set is the one of that run; give it an"):
        own_trainer(tmp_path, dataset).train(resume_from_checkpoint=True)
    dataset.fingerprint = "version 1"
    own_trainer(tmp_path / "named", dataset).train()
    own_trainer(tmp_path / "named", dataset).train(resume_from_checkpoint=str(tmp_path / "named" / "checkpoint-3"))


def test_resuming_on_another_iterable_is_reported(tmp_path, tokenizer, told):
    def trainer(seed):
        rows = datasets.IterableDataset.from_generator(lambda: ({"text": text} for text in sentences(30, seed=seed)))
        return MoCoSETrainer(
            model=tiny_model(),
            args=training_arguments(tmp_path, max_steps=6, save_strategy="steps", save_steps=3),
            train_dataset=rows,
            processing_class=tokenizer,
        )

    trainer(0).train()
    trainer(0).train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert "The stream has changed" not in told.text
    trainer(1).train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert "The stream has changed" in told.text


def ids_after_training(model, folder, tokenizer, texts):
    """Train two steps on other ids of the texts and return the ids in the queue as that training found them."""
    found = []

    class Look(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step == 0:
                found.extend(model.queue.sentence_ids().tolist())

    make_trainer(folder, tokenizer, model, texts={"text": texts}, max_steps=2, callbacks=[Look()]).train()
    return found


def test_sentence_ids_of_another_text_are_forgotten(tmp_path, tokenizer):
    """The ids are row numbers, so those of another text would mask true negatives; the keys stay."""
    first, second = sentences(24), sentences(24, seed=1)
    trainer = make_trainer(tmp_path, tokenizer, tiny_model(mask_same_sentence=True), texts={"text": first})
    trainer.train()
    trainer.save_model(str(tmp_path / "model"))
    held = trainer.model.queue.sentence_ids().tolist()
    assert min(held) >= 0
    for texts, expected in {"same": (first, held), "other": (second, [-1] * len(held))}.values():
        model = MoCoSEForPreTraining.from_pretrained(tmp_path / "model")
        keys = model.queue.stored_keys()
        assert ids_after_training(model, tmp_path / "again", tokenizer, texts) == expected
        assert len(keys) == len(held)
    assert ids_after_training(trainer.model, tmp_path / "again", tokenizer, second) == [-1] * len(held)


def test_a_checkpoint_that_was_found_before_is_hashed_once(tmp_path, tokenizer, monkeypatch):
    run(tmp_path, tokenizer, save_total_limit=3)
    hashed = []
    file_entry = checkpointing.file_entry

    def count(path, **options):
        hashed.append(path.name)
        return file_entry(path, **options)

    found = find_checkpoint(tmp_path, str(tmp_path / "checkpoint-3"))
    monkeypatch.setattr(checkpointing, "file_entry", count)
    trainer = make_trainer(tmp_path, tokenizer, tiny_model(encoder_dropout_prob=0.1), count=30, max_steps=3)
    start = resolve_resume_checkpoint(found, read_manifest(found.path), trainer.args, trainer.model)
    assert start.checkpoint == found.path
    assert hashed == []
    resolve_resume_checkpoint(found.path, read_manifest(found.path), trainer.args, trainer.model)
    assert "model.safetensors" in hashed
