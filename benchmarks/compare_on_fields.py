"""Compare ways to adapt an encoder to the unlabelled text of a field at equal CPU time.

    python benchmarks/compare_on_fields.py --domains DIR --encoder DIR --name NAME --output runs.csv

Each method trains for as many CPU seconds as `--recipe domain` takes: the filling of the queue included, evaluation,
saving and imports not. Only `from-mlm` trains for the steps of its own recipe, which take longer. The development rows
score the start and both halves of a run, and the best of these is scored on the test rows. Neither rows are in the
training text. A method's rate is the best of its rates on the development rows with the first seed; the other seeds
take that rate. Every run appends a line to the CSV file, whose `test` is nan for rates that were not chosen. A run
whose line is there is skipped, so the command resumes. At the end it prints a table of the test scores.
"""

import argparse
import csv
import gc
import json
import math
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import mean, stdev
from unittest.mock import patch

import numpy as np
import torch
from csv_lines import append_lines
from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer import losses
from transformers import TrainerCallback

from mocose_hf import MoCoSETrainer
from mocose_hf.cli.train import main as mocose_train
from mocose_hf.evaluation import LabelTask, RetrievalTask, read_label_task, read_retrieval_task
from mocose_hf.evaluation.tfidf import TfidfModel

BATCH_SIZE = 64
MAX_TOKENS = 32
PARTS = 2
DEVELOPMENT_ROWS, TEST_ROWS = 800, 1_000
CALIBRATION_STEPS = 4
OF_THE_RECIPE = 0
"""Stands for the steps and the rate of the recipe that a run chooses."""

STEPS = {"domain": 24, "from-mlm": OF_THE_RECIPE}
DELETED_WORDS = 0.6  # of TSDAE
TSDAE_BATCH_SIZE = 16

FIELDS = {
    "stackoverflow": ("stackoverflow.tsv", None),
    "googlenews": ("googlenews_titles.tsv", None),
    "agnews": ("agnews.tsv", None),
    "banking77": ("banking77_train.tsv", "banking77_test.tsv"),
    "packages": ("packages_train.tsv", "packages_test.tsv"),
}
"""The file to train and develop on, and the one to test on if it is another."""

RATES = {
    "domain": (3e-4,),
    "from-mlm": (OF_THE_RECIPE,),
    "simcse": (1e-5, 3e-5, 1e-4),
    "mnrl": (1e-5, 3e-5, 1e-4),
    "tsdae": (1e-5, 3e-5, 1e-4),
    "paper": (1e-5, 3e-5, 1e-4),
}
"""The learning rates of each method. Those of `domain` and `paper` are their recipes' own and its neighbours."""


@dataclass(frozen=True)
class Run:
    """One line of the CSV file; scores × 100."""

    field: str
    encoder: str
    method: str
    rate: float
    seed: int
    steps: int
    cpu_seconds: float
    measure: str
    best_step: int
    dev_start: float
    dev: float
    test_start: float
    test: float

    @property
    def key(self) -> tuple:
        """What this run is the result of."""
        return self.field, self.encoder, self.method, self.rate, self.seed


class Field:
    """The text of one field, and what is measured on it.

    Args:
        name: A key of `FIELDS`.
        domains: The folder of the files.
        folder: An empty folder for the files that the command reads.
    """

    def __init__(self, name: str, domains: Path, folder: Path):
        self.name = name
        source, test_source = (path and domains / path for path in FIELDS[name])
        header, *rows = source.read_text(encoding="utf-8").splitlines()
        rows = [rows[place] for place in np.random.RandomState(0).permutation(len(rows))]
        development, rows = rows[:DEVELOPMENT_ROWS], rows[DEVELOPMENT_ROWS:]
        if test_source is None:
            test, rows = rows[:TEST_ROWS], rows[TEST_ROWS:]
        else:
            test = test_source.read_text(encoding="utf-8").splitlines()[1:]
            test = [test[place] for place in np.random.RandomState(0).permutation(len(test))[:TEST_ROWS]]
        held_out = {row.split("\t")[1].strip() for row in (*development, *test)}
        self.texts = [text for text in (row.split("\t")[1].strip() for row in rows) if text and text not in held_out]
        self.text_file, self.development_file = folder / "text.txt", folder / "dev.tsv"
        self.text_file.write_text("".join(f"{text}\n" for text in self.texts), encoding="utf-8")
        self.is_labelled = header.split("\t")[0] == "label"
        read = read_label_task if self.is_labelled else read_retrieval_task
        self.development = read(self._write(self.development_file, header, development))
        self.test = read(self._write(folder / "test.tsv", header, test))
        self.start_scores: tuple[float, float] | None = None

    @staticmethod
    def _write(path: Path, header: str, rows: list[str]) -> Path:
        path.write_text("".join(f"{row}\n" for row in (header, *rows)), encoding="utf-8")
        return path

    @property
    def measure(self) -> str:
        """The metric that selects and is reported."""
        return "precision_at_10" if self.is_labelled else "mrr_at_10"

    def score(self, task: LabelTask | RetrievalTask, model) -> float:
        """Return the score of an encoder or `TfidfModel` on the development or the test rows."""

        def embeddings(sentences, role=None):
            if isinstance(model, TfidfModel):
                return model(sentences)
            return torch.as_tensor(model.encode(list(sentences), batch_size=32, show_progress_bar=False))

        embeddings.similarity_fn_name = "cosine"
        return task.score(embeddings)[f"{task.name}_{self.measure}"]


@dataclass
class Outcome:
    """A trained encoder: the best of start, half-way and end of a run of `steps` gradient steps."""

    cpu_seconds: float
    best_step: int
    dev: float
    encoder: SentenceTransformer
    steps: int


class Stopwatch:
    """CPU seconds of the code inside `running`, without those inside `paused`."""

    def __init__(self):
        self.seconds = 0.0
        self._is_running = False
        self._pauses = 0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count what happens inside."""
        self.seconds -= time.process_time()
        self._is_running = True
        try:
            yield
        finally:
            self._is_running = False
            self.seconds += time.process_time()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Do not count what happens inside; pauses may be nested."""
        started = time.process_time()
        self._pauses += 1
        yield
        self._pauses -= 1
        if self._is_running and not self._pauses:
            self.seconds -= time.process_time() - started


def train_by_command(field: Field, encoder: str, options: list[str], rate: float, seed: int, steps: int) -> Outcome:
    """Train by the command of this package, in this process.

    Args:
        field: What to train and develop on.
        encoder: The start.
        options: Those of the method.
        rate: Learning rate; `OF_THE_RECIPE` for its own.
        seed: Seed.
        steps: Gradient steps; `OF_THE_RECIPE` for its own.
    """
    watch = Stopwatch()
    train, evaluate, save = MoCoSETrainer.train, MoCoSETrainer.evaluate, MoCoSETrainer._save_checkpoint

    def timed_train(self, *arguments, **named):
        with watch.running():
            return train(self, *arguments, **named)

    def untimed_evaluate(self, *arguments, **named):
        with watch.paused():
            return evaluate(self, *arguments, **named)

    def untimed_save(self, *arguments, **named):
        with watch.paused():
            return save(self, *arguments, **named)

    kind = "--label_file" if field.is_labelled else "--retrieval_file"
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *options,
            *("--model_name_or_path", encoder, "--train_file", str(field.text_file), "--output_dir", f"{folder}/out"),
            *(kind, str(field.development_file), "--metric_for_best_model", f"dev_{field.measure}"),
            *("--seed", str(seed), "--per_device_train_batch_size", str(BATCH_SIZE)),
            *(("--learning_rate", str(rate)) if rate != OF_THE_RECIPE else ()),
            *(("--max_steps", str(steps)) if steps != OF_THE_RECIPE else ()),
            *("--eval_steps", str(max(1, steps // PARTS) if steps != OF_THE_RECIPE else 1 / PARTS)),
            *("--pooling_mode", "mean", "--max_seq_length", str(MAX_TOKENS), "--disable_tqdm", "true"),
        ]
        timed = {"train": timed_train, "evaluate": untimed_evaluate, "_save_checkpoint": untimed_save}
        no_page = patch("mocose_hf.cli.run.write_run_page", return_value=None)
        with patch.multiple(MoCoSETrainer, **timed), no_page:
            code = mocose_train(command)
        if code:
            raise SystemExit(code)
        best = _best(Path(folder, "out"), f"eval_dev_{field.measure}")
        return Outcome(watch.seconds, *best, SentenceTransformer(f"{folder}/out"), _steps(Path(folder, "out")))


def _steps(output_dir: Path) -> int:
    """Return the steps of a run."""
    return json.loads((output_dir / "trainer_state.json").read_text(encoding="utf-8"))["max_steps"]


def _best(output_dir: Path, measure: str) -> tuple[int, float]:
    """Return the step that a run exported, 0 for the start, and its development score."""
    state = json.loads((output_dir / "trainer_state.json").read_text(encoding="utf-8"))
    step = int((state["best_model_checkpoint"] or "checkpoint-0").rsplit("-", 1)[1])
    return step, next(entry[measure] for entry in state["log_history"] if entry["step"] == step and measure in entry)


class KeepBest(TrainerCallback):
    """Score the development rows half-way and at the end, and keep the best weights.

    Args:
        field: What is scored.
        model: What is trained.
        watch: Pauses while this scores.
        steps: All gradient steps.
    """

    def __init__(self, field: Field, model: SentenceTransformer, watch: Stopwatch, steps: int):
        self.field, self.model, self.watch, self.every = field, model, watch, max(1, steps // PARTS)
        self.best_step, self.best, self.weights = 0, field.start_scores[0], self._copy()

    def _copy(self) -> dict[str, torch.Tensor]:
        return {name: value.clone() for name, value in self.model.state_dict().items()}

    def on_step_end(self, args, state, control, **kwargs):
        """Score if half of the steps are over, or all."""
        if state.global_step % self.every:
            return
        with self.watch.paused():
            length, self.model.max_seq_length = self.model.max_seq_length, 256
            self.model.eval()
            score = self.field.score(self.field.development, self.model)
            self.model.train()
            self.model.max_seq_length = length
            if score > self.best:
                self.best_step, self.best, self.weights = state.global_step, score, self._copy()


def train_by_sentence_transformers(
    field: Field, encoder: str, data: Dataset, loss_of: Callable, batch_size: int, rate: float, seed: int, steps: int
) -> Outcome:
    """Train by `SentenceTransformerTrainer`, with a warm-up over a tenth of the steps and linear decay.

    Args:
        field: What to develop on.
        encoder: The start.
        data: The columns that the loss takes.
        loss_of: Makes the loss of a model.
        batch_size: Rows per step.
        rate: Learning rate.
        seed: Seed.
        steps: Gradient steps.
    """
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    model, watch = SentenceTransformer(encoder, device="cpu"), Stopwatch()
    keep = KeepBest(field, model, watch, steps)
    model.max_seq_length = MAX_TOKENS
    with tempfile.TemporaryDirectory() as folder:
        arguments = SentenceTransformerTrainingArguments(
            folder,
            max_steps=steps,
            per_device_train_batch_size=batch_size,
            learning_rate=rate,
            warmup_steps=steps // 10,
            seed=seed,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
        )
        trainer = SentenceTransformerTrainer(model, arguments, data, loss=loss_of(model), callbacks=[keep])
        with watch.running():
            trainer.train()
    model.load_state_dict(keep.weights)
    model.max_seq_length = 256
    return Outcome(watch.seconds, keep.best_step, keep.best, model.eval(), steps)


def mnrl(field: Field, encoder: str, rate: float, seed: int, steps: int) -> Outcome:
    """MultipleNegativesRankingLoss of each text with itself: two dropout masks, the other texts as negatives."""
    data = Dataset.from_dict({"anchor": field.texts, "positive": field.texts})
    return train_by_sentence_transformers(
        field, encoder, data, losses.MultipleNegativesRankingLoss, BATCH_SIZE, rate, seed, steps
    )


def tsdae(field: Field, encoder: str, rate: float, seed: int, steps: int) -> Outcome:
    """DenoisingAutoEncoderLoss: a decoder restores a text from the embedding of some of its words."""
    noise = random.Random(seed)

    def delete(batch):
        noisy = []
        for text in batch["text"]:
            words = text.split()
            kept = [word for word in words if noise.random() >= DELETED_WORDS] or [noise.choice(words)]
            noisy.append(" ".join(kept))
        return {"noisy": noisy, "text": batch["text"]}

    data = Dataset.from_dict({"text": field.texts}).map(delete, batched=True).select_columns(["noisy", "text"])
    return train_by_sentence_transformers(
        field,
        encoder,
        data,
        lambda model: losses.DenoisingAutoEncoderLoss(model, tie_encoder_decoder=True),
        TSDAE_BATCH_SIZE,
        rate,
        seed,
        steps,
    )


def by_command(*options: str) -> Callable:
    """Return the method that trains by the command with these options."""

    def train(field: Field, encoder: str, rate: float, seed: int, steps: int) -> Outcome:
        return train_by_command(field, encoder, list(options), rate, seed, steps)

    return train


METHODS = {
    "domain": by_command("--recipe", "domain"),
    "from-mlm": by_command("--recipe", "from-mlm"),
    "simcse": by_command("--algorithm", "simcse", "--padding_free", "true"),
    "mnrl": mnrl,
    "tsdae": tsdae,
    "paper": by_command("--recipe", "paper", "--padding_free", "true"),
}


class Comparison:
    """All runs of one encoder, and the CSV file that they are written to.

    Args:
        encoder: The start.
        name: Its name in the file.
        output: The CSV file.
    """

    def __init__(self, encoder: str, name: str, output: Path):
        self.encoder, self.name, self.output = encoder, name, output
        self.step_seconds: dict[tuple[str, str], float] = {}
        self.runs: dict[tuple, Run] = {}
        if output.exists():
            with output.open(encoding="utf-8", newline="") as file:
                for row in csv.DictReader(file):
                    run = Run(**{field.name: field.type(row[field.name]) for field in fields(Run)})
                    self.runs[run.key] = run

    def compare(self, field: Field, methods: list[str], seeds: list[int]) -> None:
        """Run all methods with all seeds on one field."""
        start = SentenceTransformer(self.encoder, device="cpu")
        field.start_scores = field.score(field.development, start), field.score(field.test, start)
        first, *others = seeds
        for method in methods:
            rate = self.choose_rate(field, method, first)
            for seed in others:
                if (field.name, self.name, method, rate, seed) not in self.runs:
                    self.record(field, method, rate, seed, self.train(field, method, rate, seed))

    def choose_rate(self, field: Field, method: str, seed: int) -> float:
        """Return the rate of the best development score; only the run of that rate is scored on the test rows."""
        done = [run for run in self.runs.values() if run.key[:3] == (field.name, self.name, method)]
        if not any(run.seed == seed for run in done):
            tried = {rate: self.train(field, method, rate, seed) for rate in RATES[method]}
            best = max(tried, key=lambda rate: tried[rate].dev)
            for rate, outcome in tried.items():
                self.record(field, method, rate, seed, outcome, is_tested=rate == best)
            return best
        return max((run for run in done if run.seed == seed), key=lambda run: run.dev).rate

    def record(
        self, field: Field, method: str, rate: float, seed: int, outcome: Outcome, is_tested: bool = True
    ) -> None:
        """Score an encoder on the test rows, and append its line."""
        dev_start, test_start = field.start_scores
        test = math.nan
        if is_tested:
            test = field.score(field.test, outcome.encoder)  # step 0 is not the start if that was whitened
        scores = (round(score, 2) for score in (dev_start, outcome.dev, test_start, test))
        place = (outcome.steps, round(outcome.cpu_seconds, 1), field.measure, outcome.best_step)
        run = Run(field.name, self.name, method, rate, seed, *place, *scores)
        self.runs[run.key] = run
        append_lines(self.output, [asdict(run)])

    def train(self, field: Field, method: str, rate: float, seed: int) -> Outcome:
        """Train for the steps of a recipe, or else for the CPU time of `domain`."""
        train = METHODS[method]
        if method in STEPS:
            return train(field, self.encoder, rate, seed, STEPS[method])
        budget = next(
            run.cpu_seconds for run in self.runs.values() if run.key[:3] == (field.name, self.name, "domain")
        )
        if (field.name, method) not in self.step_seconds:
            with patch.object(Field, "score", return_value=0.0):
                calibration = train(field, self.encoder, rate, seed, CALIBRATION_STEPS)
            self.step_seconds[field.name, method] = calibration.cpu_seconds / CALIBRATION_STEPS
        steps = max(PARTS, round(budget / self.step_seconds[field.name, method]))
        outcome = train(field, self.encoder, rate, seed, steps)
        gc.collect()
        return outcome


def markdown(runs: Iterable[Run]) -> str:
    """Return a table of test scores: a row for each field, mean ± sd of the seeds of each method, and mean gains."""
    groups: dict[str, dict[str, list[Run]]] = {}
    for run in runs:
        if not math.isnan(run.test):
            groups.setdefault(run.field, {}).setdefault(run.method, []).append(run)
    methods = [method for method in METHODS if any(method in by_method for by_method in groups.values())]
    lines = [["field", "start", *methods], ["---", *["---:"] * (1 + len(methods))]]
    gains: dict[str, list[float]] = {method: [] for method in methods}
    for field, by_method in groups.items():
        start = next(iter(by_method.values()))[0].test_start
        line = [field, f"{start:.2f}"]
        for method in methods:
            scores = [run.test for run in by_method.get(method, ())]
            if scores:
                gains[method].append(mean(scores) - start)
            line.append(_summary(scores))
        lines.append(line)
    line = ["mean gain", ""]
    line += [f"{mean(values):+.2f}" if len(values) == len(groups) else "" for values in gains.values()]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [*lines, line])


def _summary(scores: Sequence[float]) -> str:
    if not scores:
        return ""
    return f"{mean(scores):.2f}" + (f" ± {stdev(scores):.2f}" if len(scores) > 1 else "")


def print_tfidf(field: Field) -> None:
    """Print the test scores of TF-IDF, which needs no training."""
    for name, options in (("words", {}), ("characters 3-5", {"analyzer": "char_wb", "ngram_range": (3, 5)})):
        print(f"{field.name}: TF-IDF, {name}: {field.score(field.test, TfidfModel(field.texts, **options)):.2f}")


def main() -> int:
    """Run what is missing from the CSV file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--domains", required=True, type=Path, help="folder of the fields' files")
    parser.add_argument("--encoder", required=True, help="the start")
    parser.add_argument("--name", required=True, help="its name in the CSV file")
    parser.add_argument("--output", required=True, type=Path, help="CSV file")
    parser.add_argument("--fields", nargs="+", default=list(FIELDS), choices=FIELDS)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS, help="domain comes first")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    arguments = parser.parse_args()
    comparison = Comparison(arguments.encoder, arguments.name, arguments.output)
    for name in arguments.fields:
        with tempfile.TemporaryDirectory() as folder:
            field = Field(name, arguments.domains, Path(folder))
            print_tfidf(field)
            comparison.compare(field, arguments.methods, arguments.seeds)
    print(markdown(comparison.runs.values()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
