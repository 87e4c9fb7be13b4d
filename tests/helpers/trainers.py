"""Trainers of tiny models."""

import torch
from builders import sentences, tiny_model
from datasets import Dataset

from mocose_hf import MoCoSETrainer, MoCoSETrainingArguments

SELECTION = {"eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "load_best_model_at_end": True}

BATCH = 4


def training_arguments(output_dir, **fields) -> MoCoSETrainingArguments:
    settings = {
        "output_dir": str(output_dir),
        "per_device_train_batch_size": BATCH,
        "learning_rate": 1e-3,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
    }
    return MoCoSETrainingArguments(**settings | fields)


def make_trainer(
    output_dir, tokenizer, model=None, count=24, texts=None, pairs=None, callbacks=None, test_tasks=(), **fields
):
    return MoCoSETrainer(
        model=tiny_model() if model is None else model,
        args=training_arguments(output_dir, **fields),
        train_dataset=Dataset.from_dict(texts or {"text": sentences(count)}),
        eval_dataset=pairs,
        processing_class=tokenizer,
        callbacks=callbacks,
        test_tasks=test_tasks,
    )


def scored_pairs(count: int = 12) -> Dataset:
    made = sentences(2 * count, seed=9)
    scores = [round(5 * i / (count - 1), 1) for i in range(count)]
    return Dataset.from_dict({"score": scores, "sentence1": made[:count], "sentence2": made[count:]})


def differing(first: dict, second: dict) -> list[str]:
    assert first.keys() == second.keys()
    return [name for name in first if not torch.equal(first[name], second[name])]
