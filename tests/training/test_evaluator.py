"""Evaluators of sentence-transformers score the model in training."""

import sys

import pytest
import torch
from builders import sentences, tiny_model
from datasets import Dataset
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.evaluation import (
    EmbeddingSimilarityEvaluator,
    InformationRetrievalEvaluator,
    SentenceEvaluator,
)
from trainers import BATCH, SELECTION, scored_pairs, training_arguments

from mocose_hf import MoCoSETrainer, export_sentence_encoder
from mocose_hf.errors import InputError
from mocose_hf.evaluation import as_sentence_transformer

SETTINGS = [
    {},
    {"normalize": True, "truncate_dim": 12},
    {"do_lower_case": True, "prompts": {"query": "old ", "p": "red "}, "default_prompt_name": "p"},
    {"prompts": {"query": "the old "}, "include_prompt": False},
    {"max_seq_length": 6, "similarity_fn_name": "dot"},
]


def similarity_evaluator(name="dev") -> EmbeddingSimilarityEvaluator:
    pairs = scored_pairs()
    return EmbeddingSimilarityEvaluator(pairs["sentence1"], pairs["sentence2"], pairs["score"], name=name)


def retrieval_evaluator() -> InformationRetrievalEvaluator:
    texts = sentences(12, seed=4)
    corpus = {str(i): text for i, text in enumerate(texts)}
    queries = {str(i): " ".join(text.split()[:2]) for i, text in enumerate(texts)}
    return InformationRetrievalEvaluator(queries, corpus, {name: {name} for name in corpus}, name="docs")


def make_trainer(folder, tokenizer, evaluator, pairs=None, model=None, **fields) -> MoCoSETrainer:
    return MoCoSETrainer(
        model=tiny_model(pooling_mode="mean") if model is None else model,
        args=training_arguments(folder, **{"max_steps": 4, **fields}),
        train_dataset=Dataset.from_dict({"text": sentences(4 * BATCH)}),
        eval_dataset=pairs,
        processing_class=tokenizer,
        evaluator=evaluator,
    )


@pytest.mark.parametrize("settings", SETTINGS)
def test_the_live_model_embeds_as_the_model(settings, tokenizer):
    model = tiny_model(pooling_mode="mean", **settings)
    live = as_sentence_transformer(model, tokenizer)
    texts = ["A CAT", "the old dog sees a bird near the river today", "tree"]
    names = [None, *(["query"] if "prompts" in settings else [])]
    for name in names:
        expected = torch.as_tensor(model.encode(texts, tokenizer, prompt_name=name))
        torch.testing.assert_close(live.encode(texts, prompt_name=name, convert_to_tensor=True), expected)
    live.encode(texts)
    assert live.similarity_fn_name == settings.get("similarity_fn_name", "cosine")
    assert live[0].mocose is model.mocose  # nothing was copied


def test_evaluators_score_each_evaluation_as_an_exported_model(tokenizer, tmp_path):
    evaluators = [similarity_evaluator(), retrieval_evaluator()]
    trainer = make_trainer(tmp_path / "out", tokenizer, evaluators, eval_strategy="steps", eval_steps=2)
    trainer.train()
    lines = [line for line in trainer.state.log_history if "eval_dev_spearman_cosine" in line]
    assert [line["step"] for line in lines] == [2, 4]
    assert lines[0]["eval_dev_pearson_cosine"] != lines[1]["eval_dev_pearson_cosine"]
    export_sentence_encoder(trainer.model, tokenizer, tmp_path / "exported")
    exported = SentenceTransformer(str(tmp_path / "exported"), device="cpu")
    for evaluator in (similarity_evaluator(), retrieval_evaluator()):
        for name, value in evaluator(exported).items():
            assert lines[-1][f"eval_{name}"] == pytest.approx(value, abs=1e-5), name
    assert list((tmp_path / "out" / "eval").glob("*.csv"))


class RisingScore(SentenceEvaluator):
    """Return one number, which is best at one step."""

    def __init__(self, best_step: int):
        super().__init__()
        self.best_step = best_step

    def __call__(self, model, output_path=None, epoch=-1, steps=-1) -> float:
        model.encode(["a cat"])
        return float(steps == self.best_step)


def test_a_metric_of_the_evaluator_selects_the_best_checkpoint(tokenizer, tmp_path):
    options = {**SELECTION, "metric_for_best_model": "evaluator", "max_steps": 6}
    trainer = make_trainer(tmp_path, tokenizer, RisingScore(best_step=4), scored_pairs(), **options)
    trainer.train()
    assert trainer.state.best_model_checkpoint.endswith("checkpoint-4")
    assert "eval_dev_spearman" in next(line for line in trainer.state.log_history if "eval_evaluator" in line)


def test_an_evaluator_does_not_change_the_training(tokenizer, tmp_path):
    ends = []
    for name, evaluator in (("without", None), ("with", similarity_evaluator())):
        options = {} if evaluator is None else {"eval_strategy": "steps", "eval_steps": 1}
        trainer = make_trainer(tmp_path / name, tokenizer, evaluator, **options)
        trainer.train()
        ends.append(trainer.model.state_dict())
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())


def test_an_evaluator_needs_its_library_and_a_tokenizer(tokenizer, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="processing_class"):
        make_trainer(tmp_path, None, similarity_evaluator())
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(InputError, match=r"\[sentence-transformers\]"):
        make_trainer(tmp_path, tokenizer, RisingScore(1))
