"""What a checkpoint may hold: numbers, of the shapes that are needed, and nothing that runs."""

import os
import pickle
import random
import shutil
from pathlib import Path

import pytest
import torch
from attacks import FORMATS, Attack, save_plain, save_zip
from builders import tiny_model
from safetensors.torch import load_file, save_file
from same_state import differences
from trainers import make_trainer

from mocose_hf.errors import InputError
from mocose_hf.training.checkpoint import (
    WEIGHTS_FILE,
    load_weights,
    read_manifest,
    read_state,
    validate_pickles,
    validate_weights,
    write_manifest,
)

PICKLES = ("optimizer.pt", "scheduler.pt", "rng_state.pth", "scaler.pt", "global_step3/rank_0.pt")


class Module:
    """Names a class that is harmless in itself, but is not a number."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tokenizer) -> Path:
    """The output directory of a tiny training, with checkpoints at steps 3 and 6."""
    folder = tmp_path_factory.mktemp("trained")
    make_trainer(folder, tokenizer, save_strategy="steps", save_steps=3).train()
    return folder


@pytest.fixture
def checkpoint(trained, tmp_path) -> Path:
    return Path(shutil.copytree(trained / "checkpoint-3", tmp_path / "checkpoint-3"))


def test_what_training_saves_passes(checkpoint):
    state = torch.load(checkpoint / "rng_state.pth", weights_only=False)
    assert type(state["numpy"][1]).__module__ == "numpy"
    validate_pickles(checkpoint)
    validate_weights(tiny_model(), checkpoint)
    assert read_state(checkpoint).global_step == 3


@pytest.mark.parametrize("save", FORMATS)
@pytest.mark.parametrize("name", PICKLES)
def test_code_in_a_pickle_is_refused_and_not_run(checkpoint, tmp_path, name, save):
    marker, file = tmp_path / "marker", checkpoint / name
    file.parent.mkdir(exist_ok=True)
    save({"state": {}, "_": Attack(marker)}, file)
    with pytest.raises(InputError, match="none of its code was run") as caught:
        validate_pickles(checkpoint)
    assert not marker.exists()
    assert str(caught.value).startswith(f"{file}: ")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600
    (pickle.loads(file.read_bytes()) if save is save_plain else torch.load(file, weights_only=False))
    assert marker.exists(), "the file would not have done anything"


@pytest.mark.parametrize("save", FORMATS)
def test_resuming_neither_loads_nor_runs_code_in_a_pickle(checkpoint, tmp_path, tokenizer, save):
    run, marker = read_manifest(checkpoint), tmp_path / "marker"
    save({"python": Attack(marker)}, checkpoint / "rng_state.pth")
    write_manifest(checkpoint, run)
    trainer = make_trainer(tmp_path, tokenizer, save_strategy="steps", save_steps=3)
    with pytest.raises(InputError, match=r"rng_state\.pth: holds more than tensors and numbers"):
        trainer.train(resume_from_checkpoint=True)
    assert trainer.state.global_step == 0
    assert not marker.exists()


def test_pickles_that_training_has_no_use_for_are_not_opened(trained, checkpoint, tmp_path, tokenizer):
    run = read_manifest(checkpoint)
    for name in ("training_args.bin", "pytorch_model.bin"):
        save_zip(Attack(tmp_path / "marker"), checkpoint / name)
    write_manifest(checkpoint, run)
    make_trainer(tmp_path, tokenizer, tiny_model(seed=5), save_strategy="steps", save_steps=3).train(True)
    assert not (tmp_path / "marker").exists()
    assert differences(trained / "checkpoint-6", tmp_path / "checkpoint-6") == []


@pytest.mark.parametrize(
    "value",
    [Module(), {"a": [Module()]}, random.Random(0), os.getcwd, torch.nn.Linear(1, 1), Path("x")],
    ids=["object", "nested", "random", "function", "module", "path"],
)
def test_anything_but_numbers_and_their_containers_is_refused(tmp_path, value):
    save_zip(value, tmp_path / "optimizer.pt")
    with pytest.raises(InputError, match="holds more than tensors and numbers"):
        validate_pickles(tmp_path)


def test_a_class_that_is_allowed_by_name_passes(tmp_path):
    save_zip({"a": Module()}, tmp_path / "optimizer.pt")
    validate_pickles(tmp_path, allowed=[Module])
    with pytest.raises(InputError):
        validate_pickles(tmp_path)


@pytest.mark.parametrize(
    "damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"\x80" * 40, lambda b: b"PK"]
)
@pytest.mark.parametrize("name", ["optimizer.pt", "rng_state.pth"])
def test_a_damaged_pickle_is_refused_in_one_line(checkpoint, name, damage):
    file = checkpoint / name
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(InputError, match="or is damaged") as caught:
        validate_pickles(checkpoint)
    assert "\n" not in str(caught.value)


def test_weights_come_back_to_the_last_bit(checkpoint):
    model = tiny_model(seed=5)
    load_weights(model, checkpoint)
    saved, state = load_file(checkpoint / WEIGHTS_FILE), model.state_dict()
    assert len(saved) > 30
    assert [name for name in saved if not torch.equal(saved[name], state[name])] == []
    shared = "target.encoder.embeddings.word_embeddings.weight"
    assert torch.equal(state[shared], saved[shared.replace("target.encoder", "mocose.encoder")])


def refused_weights(checkpoint, change) -> str:
    """Return what is said of weights that were changed, and check that the model is left alone."""
    weights = load_file(checkpoint / WEIGHTS_FILE)
    change(weights)
    save_file(weights, checkpoint / WEIGHTS_FILE)
    model = tiny_model(seed=5)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(InputError) as caught:
        load_weights(model, checkpoint)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert str(caught.value).startswith(f"{checkpoint / WEIGHTS_FILE}: ")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_missing_extra_and_misshapen_weights_are_named_with_both_shapes(checkpoint):
    rows = tuple(load_file(checkpoint / WEIGHTS_FILE)["queue.rows"].shape)
    said = refused_weights(checkpoint, lambda weights: weights.update(surplus=torch.zeros(2, 3)))
    assert "`surplus`" in said
    assert "(2, 3)" in said
    assert "None" in said
    said = refused_weights(checkpoint, lambda weights: [weights.pop("surplus"), weights.pop("queue.rows")])
    assert "`queue.rows`" in said
    assert str(rows) in said
    assert "None" in said
    said = refused_weights(checkpoint, lambda weights: weights.update({"queue.rows": torch.zeros(3, 32)}))
    assert "`queue.rows` has the shape (3, 32)" in said
    assert f"{rows} is needed" in said


def test_a_scalar_is_not_taken_for_a_missing_weight(checkpoint):
    said = refused_weights(checkpoint, lambda weights: weights.update({"queue.rows": torch.tensor(1.0)}))
    assert "`queue.rows` has the shape ()" in said


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-1], lambda b: b[:100], lambda b: b[:4], lambda b: b"", lambda b: b"\xff" * 64, None]
)
def test_a_damaged_or_missing_weights_file_is_reported_in_one_line(checkpoint, damage):
    file = checkpoint / WEIGHTS_FILE
    content = file.read_bytes()
    file.unlink()
    if damage is not None:
        file.write_bytes(damage(content))
    with pytest.raises(InputError, match="cannot be read") as caught:
        validate_weights(tiny_model(), checkpoint)
    assert str(caught.value).startswith(f"{file}: ")
    assert "\n" not in str(caught.value)
