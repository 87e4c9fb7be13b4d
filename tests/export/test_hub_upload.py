"""Uploads to the hub, with the hub replaced."""

import pytest
from huggingface_hub import HfApi
from huggingface_hub.utils import filter_repo_objects
from trainers import make_trainer
from transformers import AutoConfig

from mocose_hf.errors import SaveError
from mocose_hf.export.hub_upload import upload_output_dir


def test_upload_has_no_checkpoints_pickles_training_text_and_paths(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(HfApi, "upload_folder", lambda self, **options: calls.append(options))
    upload_output_dir(tmp_path, "me/model")
    assert calls[0]["repo_id"] == "me/model"
    names = ["README.md", "model.safetensors", "mocose/config.json", "checkpoint-5/model.safetensors", "a.bin", "b.pt"]
    names += ["report.html", "run_record.json", "training_args.json", "trainer_state.json", "search/i/texts.arrow"]
    kept = list(filter_repo_objects(names, ignore_patterns=calls[0]["ignore_patterns"]))
    assert kept == ["README.md", "model.safetensors", "mocose/config.json"]
    assert calls[0]["revision"] is None


def test_upload_makes_the_branch_that_is_named(tmp_path, monkeypatch):
    calls = []
    for method in ("create_branch", "upload_folder"):
        monkeypatch.setattr(HfApi, method, lambda self, method=method, **options: calls.append((method, options)))
    upload_output_dir(tmp_path, "me/model", revision="better")
    (first, branch), (second, upload) = calls
    assert (first, branch["branch"], branch["exist_ok"]) == ("create_branch", "better", True)
    assert (second, upload["revision"]) == ("upload_folder", "better")


class NoRoute(Exception):
    """An error of an HTTP client, which is not an `OSError`."""


def test_an_upload_that_fails_says_how_to_repeat_it(tmp_path, monkeypatch):
    def upload_folder(self, **options):
        raise NoRoute("no route to host")

    monkeypatch.setattr(HfApi, "upload_folder", upload_folder)
    with pytest.raises(SaveError) as raised:
        upload_output_dir(tmp_path, "me/model")
    message = str(raised.value)
    assert message.startswith(f"{tmp_path}: is complete but cannot be uploaded (no route to host); ")
    assert f"hf upload me/model {tmp_path} '--exclude=checkpoint-*'" in message


def test_a_push_of_the_trainer_has_the_plain_encoder_at_the_root(tmp_path, tokenizer, monkeypatch):
    calls = []
    monkeypatch.setattr(HfApi, "upload_folder", lambda self, **options: calls.append(options))
    trainer = make_trainer(tmp_path / "out", tokenizer)
    trainer.hub_model_id = "me/model"
    trainer.push_to_hub("Better", revision="refs/pr/1")
    (upload,) = calls
    assert (upload["repo_id"], upload["commit_message"], upload["revision"]) == ("me/model", "Better", "refs/pr/1")
    assert AutoConfig.from_pretrained(upload["folder_path"]).model_type == "bert"
    assert (tmp_path / "out" / "modules.json").is_file()
    assert AutoConfig.from_pretrained(tmp_path / "out", subfolder="mocose").model_type == "mocose"
