"""Compare losses of sentence-transformers' trainer on pairs at equal CPU time.

    python benchmarks/compare_pairs.py --pairs packages_train.tsv --test packages_test.tsv --encoder DIR \
        --output runs.csv --methods mnrl:rate=1e-4 momentum:rate=1e-4,queue_size=2048,in_batch_weight=1

A method is a loss, and settings after the colon: `rate`, `dropout` of the encoder, and arguments of the loss. Each
trains for the same CPU seconds, which include the filling of a queue, but not evaluation and imports. 1,500 pairs of
the training file are held out to choose settings, and `--test` scores on the test file too. The score is MRR@10 × 100
among all texts of the held-out pairs or of the test file. Each run appends a line to the CSV file. A run whose line is
there is skipped, so the command resumes.
"""

import argparse
import csv
import math
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from csv_lines import append_lines
from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from transformers import TrainerCallback

from mocose_hf.evaluation import RetrievalTask, read_retrieval_task
from mocose_hf.sentence_transformers import MomentumCallback, MomentumContrastLoss

MAX_TOKENS = 128
DEVELOPMENT_PAIRS = 1_500
LOSSES = {"mnrl": MultipleNegativesRankingLoss, "momentum": MomentumContrastLoss}


@dataclass(frozen=True)
class Run:
    """One line of the CSV file; scores are MRR@10 × 100, nan if not measured."""

    method: str
    cpu_seconds: float
    batch: int
    seed: int
    steps: int
    seconds_per_step: float
    dev: float
    test: float


class EndAfter(TrainerCallback):
    """End a training after some CPU seconds, and let the learning rate fall to 0 by then.

    Args:
        seconds: CPU seconds of the process.
        warmup: Fraction of them in which the rate rises.
    """

    def __init__(self, seconds: float, warmup: float = 0.1):
        self.seconds, self.warmup, self.used = seconds, warmup, 0.0

    def on_train_begin(self, args, state, control, **kwargs):
        """Start the clock."""
        self.start = time.process_time()

    def on_pre_optimizer_step(self, args, state, control, optimizer=None, **kwargs):
        """Set the rate by the clock: warm-up, then half a cosine."""
        done = min(1.0, (time.process_time() - self.start) / self.seconds)
        factor = done / self.warmup if done < self.warmup else (1 + math.cos(math.pi * done)) / 2
        for group in optimizer.param_groups:
            group["lr"] = args.learning_rate * factor

    def on_step_end(self, args, state, control, **kwargs):
        """Stop if the time is up."""
        self.used = time.process_time() - self.start
        control.should_training_stop = self.used >= self.seconds


def parse_method(text: str) -> tuple[type, float, float | None, dict]:
    """Return loss, learning rate, dropout (None for the encoder's own) and arguments of the loss."""
    name, _, rest = text.partition(":")
    options = dict(part.split("=") for part in rest.split(",") if part)
    values = {key: {"true": True, "false": False}.get(value, value) for key, value in options.items()}
    numbers = {key: value if isinstance(value, bool) else _number(value) for key, value in values.items()}
    return LOSSES[name], numbers.pop("rate"), numbers.pop("dropout", None), numbers


def _number(text: str) -> int | float:
    return int(text) if text.isdigit() else float(text)


def read_pairs(path: Path, held_out: set[str]) -> list[tuple[str, str]]:
    """Return the pairs of a file, in a random but fixed order, without those whose query or text is held out."""
    rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()[1:]]
    rows = [(query.strip(), text.strip()) for query, text in rows]
    order = np.random.RandomState(0).permutation(len(rows))
    return [rows[i] for i in order if all(rows[i]) and not held_out & set(rows[i])]


def score(model: SentenceTransformer, task: RetrievalTask) -> float:
    """Return MRR@10 × 100 of a model on a task."""

    def embeddings(texts, role=None):
        return torch.as_tensor(model.encode(list(texts), batch_size=64, show_progress_bar=False))

    embeddings.similarity_fn_name = "cosine"
    return task.score(embeddings)[f"{task.name}_mrr_at_10"]


def train(
    method: str, seconds: float, batch: int, seed: int, encoder: str, pairs: list[tuple[str, str]], tasks
) -> Run:
    """Train by a method and return its line."""
    loss_class, rate, dropout, options = parse_method(method)
    torch.manual_seed(seed)
    model = SentenceTransformer(encoder, device="cpu")
    model.max_seq_length = MAX_TOKENS
    if dropout is not None:
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = dropout
    loss = loss_class(model, **options)
    start = time.process_time()
    if options.get("reshaping_weight"):
        loss.fill_queue([text for _, text in pairs[: loss.queue.size]])
    clock = EndAfter(seconds - (time.process_time() - start))
    callbacks = [clock] + ([MomentumCallback(loss)] if isinstance(loss, MomentumContrastLoss) else [])
    with tempfile.TemporaryDirectory() as folder:
        args = SentenceTransformerTrainingArguments(
            folder, per_device_train_batch_size=batch, learning_rate=rate, seed=seed, num_train_epochs=100,
            save_strategy="no", logging_strategy="no", report_to="none", use_cpu=True, disable_tqdm=True,
        )  # fmt: skip
        data = Dataset.from_dict({"query": [q for q, _ in pairs], "text": [t for _, t in pairs]})
        trainer = SentenceTransformerTrainer(model, args, data, loss=loss, callbacks=callbacks)
        trainer.train()
    steps = trainer.state.global_step
    scores = [round(score(model, task), 2) if task else math.nan for task in tasks]
    return Run(method, seconds, batch, seed, steps, round(clock.used / steps, 3), *scores)


def main(argv=None) -> list[Run]:
    """Run the methods that the CSV file lacks, and return all of its lines for them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=Path, required=True, help="tab-separated file with columns query and text")
    parser.add_argument("--test", type=Path, help="file of the same kind to score on too")
    parser.add_argument("--encoder", required=True, help="directory of the start")
    parser.add_argument("--output", type=Path, required=True, help="CSV file of the runs")
    parser.add_argument("--methods", nargs="+", required=True, help="such as mnrl:rate=1e-4")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="seeds of each method (default: 0)")
    parser.add_argument("--cpu_seconds", type=float, default=100.0, help="of each training (default: 100)")
    parser.add_argument("--batch_size", type=int, default=64, help="pairs of a step (default: 64)")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    known = {}
    if options.output.is_file():
        with options.output.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                known[row["method"], float(row["cpu_seconds"]), int(row["batch"]), int(row["seed"])] = row
    keys = [
        (method, options.cpu_seconds, options.batch_size, seed) for seed in options.seeds for method in options.methods
    ]
    with tempfile.TemporaryDirectory() as folder:
        test = read_retrieval_task(options.test) if options.test else None
        held_out = {text for pair in read_pairs(options.test, set()) for text in pair} if test else set()
        rows = read_pairs(options.pairs, held_out)
        path = Path(folder) / "development.tsv"
        lines = ["query\ttext", *("\t".join(pair) for pair in rows[:DEVELOPMENT_PAIRS])]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        tasks = (read_retrieval_task(path), test)
        for key in keys:
            if key not in known:
                run = train(*key, options.encoder, rows[DEVELOPMENT_PAIRS:], tasks)
                append_lines(options.output, [asdict(run)])
                print(run, flush=True)
                known[key] = asdict(run)
    return [known[key] for key in keys]


if __name__ == "__main__":
    main()
