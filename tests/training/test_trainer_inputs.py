"""What a trainer is given: lists, ids, collators, development pairs, and models that it builds itself."""

import pytest
import torch
from builders import sentences, tiny_model
from datasets import Dataset
from trainers import SELECTION, differing, make_trainer, scored_pairs, training_arguments
from transformers import DataCollatorWithPadding, TrainerCallback, default_data_collator

from mocose_hf import MoCoSETrainer
from mocose_hf.data.sentences import sentence_number


def trainer_of(folder, tokenizer, train_dataset, model=None, **options) -> MoCoSETrainer:
    fields = {name: options.pop(name) for name in list(options) if name not in ("data_collator", "eval_dataset")}
    return MoCoSETrainer(
        tiny_model() if model is None else model,
        training_arguments(folder, **fields),
        train_dataset=train_dataset,
        processing_class=tokenizer,
        **options,
    )


# Training text


def test_a_list_of_sentences_or_rows_trains_as_a_dataset_does(tmp_path, tokenizer):
    texts = sentences(24)
    kinds = {
        "dataset": Dataset.from_dict({"text": texts}),
        "list": texts,
        "tuple": tuple(texts),
        "column": Dataset.from_dict({"text": texts})["text"],
        "rows": [{"text": text} for text in texts],
    }
    states = []
    for name, rows in kinds.items():
        trainer = trainer_of(tmp_path / name, tokenizer, rows)
        trainer.train()
        states.append(trainer.model.state_dict())
    assert all(differing(states[0], state) == [] for state in states[1:])


@pytest.mark.parametrize(
    ("rows", "said"),
    [([], "is a list that is empty"), (["a", 5], "holds 5"), (["a", {"text": "b"}], "mixes sentences and rows")],
)
def test_a_list_of_anything_else_is_refused(tmp_path, tokenizer, rows, said):
    with pytest.raises(ValueError, match=f"`train_dataset` .*{said}"):
        trainer_of(tmp_path, tokenizer, rows)


@pytest.mark.parametrize("kind", ["class", "function"])
def test_a_collator_that_does_not_tokenise_is_refused_for_text(tmp_path, tokenizer, kind):
    collator = DataCollatorWithPadding(tokenizer) if kind == "class" else default_data_collator
    with pytest.raises(ValueError, match=r"^`data_collator` \w+ needs rows of tokens, but these are of text; leave"):
        trainer_of(tmp_path, tokenizer, Dataset.from_dict({"text": sentences(8)}), data_collator=collator)


def test_ids_that_are_strings_mask_as_numbers_do(tmp_path, tokenizer):
    texts = sentences(18) + sentences(18)[:6]
    numbers = [texts.index(text) for text in texts]
    states = []
    for name, ids in {"numbers": numbers, "strings": [f"id-{number}" for number in numbers]}.items():
        model = tiny_model(mask_same_sentence=True, encoder_dropout_prob=0.0, head_dropout_prob=0.0)
        rows = Dataset.from_dict({"text": texts, "sentence_id": ids})
        trainer = trainer_of(tmp_path / name, tokenizer, rows, model, queue_monitor_steps=1)
        trainer.train()
        states.append(model.state_dict())
        assert any("key_drift" in line for line in trainer.state.log_history)
    numbered, named = states
    different = differing(numbered, named)
    assert set(different) <= {"queue.row_ids", "queue.ids_text"}
    expected = torch.tensor([sentence_number(f"id-{n}") if n >= 0 else n for n in numbered["queue.row_ids"].tolist()])
    assert torch.equal(named["queue.row_ids"], expected)


def test_an_id_that_is_neither_number_nor_string_is_named(tmp_path, tokenizer):
    rows = Dataset.from_dict({"text": sentences(8), "sentence_id": [0.5] * 8})
    with pytest.raises(ValueError, match=r"^`sentence_id` is 0.5; give a whole number or a string"):
        trainer_of(tmp_path, tokenizer, rows).train()


# Development pairs


@pytest.mark.parametrize(
    ("pairs", "said"),
    [
        (
            Dataset.from_dict({"label": [1.0], "a": ["x"], "b": ["y"]}),
            "`eval_dataset` has no column `score`, only label",
        ),
        (
            {"a": scored_pairs(), "b": scored_pairs().remove_columns("sentence2")},
            "`eval_dataset` b has no column `sen",
        ),
        (["a"], "`eval_dataset` is a list; give a `datasets.Dataset`"),
        (
            scored_pairs().map(lambda row: {"score": 1.0}),
            "`eval_dataset` needs scores that are numbers and not all th",
        ),
    ],
)
def test_development_pairs_are_checked_before_training(tmp_path, tokenizer, pairs, said):
    with pytest.raises(ValueError, match=said):
        trainer_of(tmp_path, tokenizer, sentences(8), eval_dataset=pairs)


@pytest.mark.parametrize(
    ("pairs", "metric", "said"),
    [
        (scored_pairs().filter(lambda row: 1 < row["score"] < 4), "dev_alignment", "needs pairs scored above 4"),
        (scored_pairs(), "loss", "choose one of dev_spearman, dev_alignment, dev_uniformity"),
        ({"a": scored_pairs()}, None, "choose one of a_dev_spearman, a_dev_alignment, a_dev_uniformity"),
    ],
)
def test_a_metric_that_is_not_scored_is_refused_before_training(tmp_path, tokenizer, pairs, metric, said):
    fields = SELECTION | {"metric_for_best_model": metric}
    with pytest.raises(ValueError, match=rf"^`metric_for_best_model` \w+: is not scored with .*{said}"):
        trainer_of(tmp_path, tokenizer, sentences(8), eval_dataset=pairs, **fields)


# Models that the trainer builds


def test_each_training_begins_with_a_new_model(tmp_path, tokenizer):
    given = make_trainer(tmp_path / "given", tokenizer, tiny_model(seed=3))
    given.train()
    expected = given.model.state_dict()
    built = []

    def model_init():
        built.append(tiny_model(seed=3))
        return built[-1]

    args = training_arguments(tmp_path / "built")
    trainer = MoCoSETrainer(args=args, train_dataset=sentences(24), processing_class=tokenizer, model_init=model_init)
    for _ in range(2):
        trainer.train()
        assert trainer.model is built[-1]
        assert differing(expected, trainer.model.state_dict()) == []


class Lengths(TrainerCallback):
    """Record the longest input of each training, which must follow the trial."""

    def __init__(self):
        self.longest = []

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        self.longest.append(0)
        model.mocose.encoder.register_forward_pre_hook(self._record, with_kwargs=True)

    def _record(self, module, args, kwargs):
        if module.training:
            self.longest[-1] = max(self.longest[-1], kwargs["input_ids"].shape[1])


@pytest.mark.parametrize("metric", ["dev_spearman", "dev_alignment"])
def test_a_search_finds_the_best_score_with_a_new_model_each_trial(tmp_path, tokenizer, metric):
    lengths, starts = Lengths(), []

    def model_init(trial):
        model = tiny_model(seed=3)
        starts.append(model.mocose.encoder.embeddings.word_embeddings.weight.detach().clone())
        return model

    trainer = MoCoSETrainer(
        args=training_arguments(tmp_path, metric_for_best_model=metric, save_total_limit=None, **SELECTION),
        train_dataset=sentences(24),
        eval_dataset=scored_pairs(),
        processing_class=tokenizer,
        model_init=model_init,
        callbacks=[lengths],
    )
    spaces = [{"max_seq_length": 4}, {"max_seq_length": 8}]

    def hp_space(trial):
        return spaces[trial.suggest_int("choice", trial.number % 2, trial.number % 2)]

    best = trainer.hyperparameter_search(hp_space, n_trials=2, backend="optuna")
    assert lengths.longest == [4, 8]
    assert all(torch.equal(start, starts[0]) for start in starts)
    assert {path.name for path in tmp_path.iterdir()} >= {"run-0", "run-1"}
    assert (tmp_path / "run-1" / "checkpoint-0" / "manifest.json").is_file()
    scores = [e[f"eval_{metric}"] for e in trainer.state.log_history if f"eval_{metric}" in e]  # of the second trial
    kept = max(scores) if metric == "dev_spearman" else min(scores)
    assert best.objective >= kept if metric == "dev_spearman" else best.objective <= kept


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"direction": "minimize"}, ValueError, "`direction` is minimize, but dev_spearman is to be maximized"),
        ({"compute_objective": sum}, ValueError, "`direction` is needed with `compute_objective`"),
        ({}, RuntimeError, "model_init"),
    ],
)
def test_a_search_that_cannot_work_is_refused(tmp_path, tokenizer, options, error, said):
    trainer = make_trainer(tmp_path, tokenizer, pairs=scored_pairs())
    with pytest.raises(error, match=said):
        trainer.hyperparameter_search(backend="optuna", **options)


@pytest.mark.parametrize("both", [True, False])
def test_a_trainer_takes_one_of_model_and_model_init(tmp_path, tokenizer, both):
    model = tiny_model() if both else None
    with pytest.raises(ValueError, match="needs a `model` or a `model_init`; give one of the two"):
        MoCoSETrainer(
            model, training_arguments(tmp_path), processing_class=tokenizer, model_init=tiny_model if both else None
        )
