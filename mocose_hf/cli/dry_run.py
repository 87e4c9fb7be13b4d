"""`mocose train --dry_run`: two steps, one save and one load in a temporary directory, and what the run will need."""

import math
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path

import torch
from transformers import TrainerCallback
from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from mocose_hf.cli.factory import build_model, build_trainer, load_start, read_training_sentences
from mocose_hf.cli.options import Options
from mocose_hf.cli.recipe_choice import choose_recipe
from mocose_hf.cli.scoring import read_development, read_evaluation_tasks, with_held_out
from mocose_hf.errors import InputError
from mocose_hf.export.sentence_encoder import export_sentence_encoder
from mocose_hf.files import nearest_folder
from mocose_hf.training.base_trainer import changed_arguments
from mocose_hf.training.checkpoint import PREFIX, load_weights, needed_disk_space, validate_complete
from mocose_hf.training.trainer import MoCoSETrainer

_STEPS = 2

_WITHOUT_EVALUATION = {
    "eval_strategy": IntervalStrategy.NO,
    "eval_on_start": False,
    "load_best_model_at_end": False,
    "save_strategy": SaveStrategy.STEPS,
    "save_steps": _STEPS,
}


def dry_run(options: Options) -> None:
    """Read all that a training reads, train two steps, save and load once, and print what the training will need.

    The caller has validated the options and the output directory, which stays untouched.

    Raises:
        InputError: As the training would raise it; also if a launcher started several processes.
    """
    if options.training.world_size > 1:
        raise InputError("--dry_run runs in one process; start it without a launcher.")
    development, tasks = read_development(options), read_evaluation_tasks(options)
    sentences = read_training_sentences(options)
    development = with_held_out(development, sentences)
    options, _ = choose_recipe(options, development, sentences, None)
    with tempfile.TemporaryDirectory(prefix="mocose-dry-run-") as folder:
        short = options.with_values({"output_dir": folder, "max_steps": _STEPS, "report_to": "none"})
        short.training.push_to_hub = False
        model, tokenizer = build_model(short)
        trainer = build_trainer(short, model, tokenizer, sentences, development, tasks)
        seconds = _train(trainer)
        saved_and_loaded = _save_and_load(trainer, tokenizer, Path(folder))
        evaluation = _time_evaluation(trainer)
        total_steps = trainer.set_initial_training_values(options.training, trainer.get_train_dataloader())[-1]
        disk = needed_disk_space(options.training, trainer.model, total_steps)
    evaluations = _count_evaluations(options.training, total_steps) if development is not None else 0
    foreseen = total_steps * seconds + evaluations * evaluation
    free = shutil.disk_usage(nearest_folder(options.output_dir)).free
    lines = {
        "steps": f"{total_steps:,} of {seconds:.2f} s",
        "evaluations": f"{evaluations} of {evaluation:.1f} s",
        "time foreseen": f"{_duration(foreseen)}, without the tasks for the finished model",
        "memory, highest": _memory(options.training.device),
        "disk": f"{disk / 1e6:,.0f} MB at most, {free / 1e6:,.0f} MB are free",
        "save and load": f"{saved_and_loaded:.1f} s",
    }
    options.say("\nDry run: nothing was written.")
    for name, value in lines.items():
        options.say(f"  {name:<16}  {value}")
    if disk > free:
        raise InputError(
            f"`output_dir` {options.output_dir}: {free / 1e6:,.0f} MB are free, but the run takes up to "
            f"{disk / 1e6:,.0f} MB; free some, name another directory, or lower `save_total_limit`."
        )


class _StepTimer(TrainerCallback):
    """Time each optimizer step."""

    def __init__(self):
        self.seconds: list[float] = []
        self._start = 0.0

    def on_step_begin(self, args, state, control, **_) -> None:
        self._start = time.perf_counter()

    def on_step_end(self, args, state, control, **_) -> None:
        if args.device.type == "cuda":
            torch.cuda.synchronize()
        self.seconds.append(time.perf_counter() - self._start)


def _train(trainer: MoCoSETrainer) -> float:
    """Train two steps and return the seconds of the last one; the first one also pays for the start."""
    timer = _StepTimer()
    trainer.add_callback(timer)
    with changed_arguments(trainer.args, _WITHOUT_EVALUATION):
        trainer.train()
    return timer.seconds[-1]


def _save_and_load(trainer: MoCoSETrainer, tokenizer, folder: Path) -> float:
    """Load the checkpoint that was saved, write the plain encoder and load it; return the seconds."""
    start = time.perf_counter()
    model = trainer.accelerator.unwrap_model(trainer.model)
    checkpoint = folder / f"{PREFIX}{_STEPS}"
    validate_complete(checkpoint)
    load_weights(model, checkpoint)
    load_start(str(export_sentence_encoder(model, tokenizer, folder / "plain")))
    return time.perf_counter() - start


def _time_evaluation(trainer: MoCoSETrainer) -> float:
    if trainer.eval_dataset is None:
        return 0.0
    start = time.perf_counter()
    trainer.evaluate()
    return time.perf_counter() - start


def _count_evaluations(args, total_steps: int) -> int:
    """Return the evaluations of a run: at the start, during training and of the finished model."""
    strategy = IntervalStrategy(args.eval_strategy)
    during = 0
    if strategy == IntervalStrategy.STEPS:
        interval = args.eval_steps if args.eval_steps >= 1 else math.ceil(args.eval_steps * total_steps)
        during = total_steps // max(1, int(interval))
    elif strategy == IntervalStrategy.EPOCH:
        during = math.ceil(args.num_train_epochs)
    return during + bool(args.eval_on_start) + 1


def _memory(device: torch.device) -> str:
    unit = 1 if sys.platform == "darwin" else 1024  # of `ru_maxrss`
    process = f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6:,.0f} MB of the process"
    if device.type != "cuda":
        return process
    return f"{torch.cuda.max_memory_allocated(device) / 1e6:,.0f} MB of the GPU, {process}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
