"""Train from Python with a recipe and a development set, and write the plain encoder.

python examples/train_with_a_recipe.py ENCODER examples/data/sentences.txt examples/data/pairs.tsv out
"""

import sys
from dataclasses import fields

import yaml
from datasets import Dataset

from mocose_hf import (
    MoCoSEForPreTraining,
    MoCoSETrainer,
    MoCoSETrainingArguments,
    export_sentence_encoder,
    load_tokenizer,
    read_sentences,
)
from mocose_hf.recipes import RECIPES


def read_pairs(path: str) -> Dataset:
    """Read lines of a score and two sentences, separated by tabs."""
    with open(path, encoding="utf-8") as file:
        scores, first, second = zip(*(line.rstrip("\n").split("\t") for line in file), strict=True)
    return Dataset.from_dict({"score": [float(score) for score in scores], "sentence1": first, "sentence2": second})


def main(encoder: str, text: str, pairs: str, output_dir: str) -> dict:
    """Train by the recipe domain-topics and return the scores of the best checkpoint."""
    recipe = yaml.safe_load(RECIPES["domain-topics"].read_text(encoding="utf-8"))
    recipe["learning_rate"] = float(recipe["learning_rate"])  # YAML reads 3e-4 as text
    training = {field.name for field in fields(MoCoSETrainingArguments)} & set(recipe)
    model = MoCoSEForPreTraining.from_encoder_pretrained(
        encoder, pooling_mode="mean", **{name: value for name, value in recipe.items() if name not in training}
    )
    arguments = {name: recipe[name] for name in training}
    arguments |= {"eval_strategy": "steps", "load_best_model_at_end": True}
    trainer = MoCoSETrainer(
        model=model,
        args=MoCoSETrainingArguments(output_dir, **arguments),
        train_dataset=read_sentences(text).dataset,
        eval_dataset=read_pairs(pairs),
        processing_class=load_tokenizer(encoder),
    )
    trainer.train()
    export_sentence_encoder(trainer.model, trainer.processing_class, output_dir)
    return trainer.evaluate()


if __name__ == "__main__":
    print(main(*sys.argv[1:]))
