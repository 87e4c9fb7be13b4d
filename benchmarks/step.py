"""Compare a training step with one of sentence-transformers' unsupervised SimCSE recipe, in one run.

Both train the same encoder on the same sentences with the same batch, optimizer and precision, each under its own
trainer: `MoCoSETrainer` here, `MultipleNegativesRankingLoss` with each sentence as its own positive there. Rounds of
the two are interleaved and CPU seconds are counted, so that other work on the machine weighs on both alike.
"""

import argparse
import statistics
import tempfile

from cpu_time import WARM_UP_STEPS, CpuTime
from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from transformers.utils import logging

from mocose_hf import (
    MoCoSEForPreTraining,
    MoCoSETrainer,
    MoCoSETrainingArguments,
    load_tokenizer,
    read_sentences,
)


def common_arguments(options, folder: str) -> dict:
    """Return the training arguments that both trainers get."""
    return {
        "output_dir": folder,
        "max_steps": options.steps + WARM_UP_STEPS,
        "per_device_train_batch_size": options.batch_size,
        "learning_rate": 3e-5,
        "weight_decay": 1e-6,
        "dataloader_drop_last": True,
        "save_strategy": "no",
        "logging_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": options.use_cpu,
    }


def mocose_step(options, sentences: list[str], folder: str) -> float:
    """Train with momentum contrast; return CPU seconds per step."""
    timer = CpuTime()
    model = MoCoSEForPreTraining.from_encoder_pretrained(options.model_name_or_path, pooling_mode="cls")
    MoCoSETrainer(
        model=model,
        args=MoCoSETrainingArguments(**common_arguments(options, folder), max_seq_length=options.max_seq_length),
        train_dataset=Dataset.from_dict({"text": sentences}),
        processing_class=load_tokenizer(options.model_name_or_path),
        callbacks=[timer],
    ).train()
    return timer.seconds


def ranking_loss_step(options, sentences: list[str], folder: str) -> float:
    """Train with in-batch negatives and dropout as the only difference of the views; return CPU seconds per step."""
    timer = CpuTime()
    model = SentenceTransformer(options.model_name_or_path, device="cpu" if options.use_cpu else None)
    model.max_seq_length = options.max_seq_length
    SentenceTransformerTrainer(
        model=model,
        args=SentenceTransformerTrainingArguments(**common_arguments(options, folder)),
        train_dataset=Dataset.from_dict({"anchor": sentences, "positive": sentences}),
        loss=MultipleNegativesRankingLoss(model),
        callbacks=[timer],
    ).train()
    return timer.seconds


def main() -> None:
    """Run the rounds and print medians, spread and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model_name_or_path", required=True)
    parser.add_argument("--train_file", default="examples/data/sentences.txt")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--max_seq_length", type=int, default=32)
    parser.add_argument("--steps", type=int, default=6, help="measured steps per round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--use_cpu", action="store_true")
    options = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    sentences = list(read_sentences(options.train_file).dataset["text"])
    seconds: dict[str, list[float]] = {"MoCoSE": [], "MultipleNegativesRankingLoss": []}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(options.rounds):
            seconds["MoCoSE"].append(mocose_step(options, sentences, folder))
            seconds["MultipleNegativesRankingLoss"].append(ranking_loss_step(options, sentences, folder))
    print(f"{'':30}  CPU s per step: median (least to most) of {options.rounds} rounds")
    for name, values in seconds.items():
        print(f"{name:30}  {statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})")
    ratios = [a / b for a, b in zip(*seconds.values(), strict=True)]
    print(f"{'ratio':30}  {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
