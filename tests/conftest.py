"""Fixtures of all tests; no test touches a network."""

import gc
import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch
from builders import sentences, tiny_bert_config, write_tokenizer
from transformers import BertModel, BertTokenizer
from transformers.utils import logging


def pytest_collection_finish() -> None:
    """Keep what was imported out of garbage collections, of which each `Trainer.train` makes one."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def encoder_dir(tmp_path_factory) -> Path:
    """A directory with a tiny BERT and its tokenizer, as `--model_name_or_path` takes it."""
    directory = tmp_path_factory.mktemp("encoder")
    write_tokenizer(directory)
    torch.manual_seed(7)
    BertModel(tiny_bert_config()).save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def tokenizer(encoder_dir):
    return BertTokenizer.from_pretrained(encoder_dir)


@pytest.fixture
def told(caplog):
    """Record what is said to transformers' loggers, which hand nothing on of themselves."""
    logging.enable_propagation()
    caplog.set_level("WARNING")
    yield caplog
    logging.disable_propagation()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data that MOCOSE_DATA names."""
    folder = os.environ.get("MOCOSE_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("MOCOSE_DATA names no folder of real data")
    return Path(folder)


@pytest.fixture
def text_file(tmp_path) -> Path:
    """22 sentences: a pass is five and a half batches, two are eleven."""
    path = tmp_path / "sentences.txt"
    path.write_text("\n".join(sentences(22)) + "\n", encoding="utf-8")
    return path
