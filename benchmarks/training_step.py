"""Compare time and memory of training steps: this package, other implementations, and the matrix products alone.

    make benchmark
    python benchmarks/training_step.py --model_name_or_path bert-base-uncased
    python benchmarks/training_step.py --model_name_or_path bert-base-uncased --size base --steps 2 --rounds 3
    python benchmarks/training_step.py --model_name_or_path ENCODER --variants mocose mocose_k1048576 --use_cpu
    python benchmarks/training_step.py --model_name_or_path ENCODER --variants mocose mnrl mocose_b256 mnrl_b256
    python benchmarks/training_step.py --model_name_or_path ENCODER --variants mocose --profile profiles

Each variant trains the same encoder on the same sentences with the same batch size, length, optimizer and precision,
in its real trainer and its own process. A round measures all variants once. Ratios are computed within a round, so
that other load on the machine affects all variants alike, and the table has their median, minimum and maximum. On a
CPU the time is the CPU time of all threads (set OMP_NUM_THREADS=1 for the least noise), on a GPU it is wall time.
`variants.py` lists the names of variants; `--variants` takes any of them.

`--size` builds an encoder with random weights and the vocabulary of the tokenizer at `--model_name_or_path`: mini (4
layers, hidden size 256) or base (BERT-base). `--profile` does not measure: it runs the first of `--variants` under
torch's profiler, prints the most expensive operators and writes a trace for Perfetto or chrome://tracing.
"""

import argparse
import contextlib
import csv
import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from gemm_floor import BERT_LIKE
from measure import Job, measure_apart
from tables import Figures, report
from transformers import AutoConfig, BertConfig, BertModel, set_seed
from transformers.utils import logging
from variants import default_names, validate_name

from mocose_hf import load_tokenizer, read_sentences
from mocose_hf.errors import InputError

SIZES = {
    "mini": {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 1024},
    "base": {},
}
COUNTED_SENTENCES = 10_000


def main() -> None:
    """Run the command, and print an error as one line."""
    options = parse_options()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with tempfile.TemporaryDirectory() as folder:
            run(options, folder)
    except (InputError, OSError, ValueError, RuntimeError) as error:
        sys.exit(f"{Path(sys.argv[0]).name}: {str(error).splitlines()[0]}")


def run(options: argparse.Namespace, folder: str) -> None:
    """Measure round by round, then print the tables; or profile."""
    encoder = build_encoder(options, folder) if options.size else options.model_name_or_path
    config = AutoConfig.from_pretrained(encoder)
    real, padded = token_counts(options)
    job = Job(
        variant="",
        encoder=encoder,
        train_file=options.train_file,
        batch_size=options.batch_size,
        max_seq_length=options.max_seq_length,
        padded_length=round(padded),
        steps=options.steps,
        use_cpu=options.use_cpu,
    )
    on_gpu = job.device.type == "cuda"
    usual, left_out = default_names(not on_gpu, config.model_type in BERT_LIKE)
    names = options.variants or usual
    if options.profile:
        trace = Path(options.profile) / f"{names[0]}.json"
        measure_apart(replace(job, variant=names[0], trace=str(trace)))
        print(f"Trace: {trace}")
        return
    figures, failures = measure_rounds(job, names, options.rounds)
    print(f"{describe_machine(job.device)}\n{describe_work(config, options, real, padded)}\n")
    print(report(figures, options.batch_size, on_gpu))
    for reason, missing in left_out.items():
        missing = [name for name in missing if name not in figures]
        if missing:
            print(f"\nLeft out, as {reason}: {', '.join(missing)}.")
    if options.output:
        write(Path(options.output), figures)
    if failures:
        raise RuntimeError(f"not measured: {'; '.join(failures)}")


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_name_or_path", required=True, help="encoder and tokenizer")
    parser.add_argument("--size", choices=SIZES, help="build an encoder of this size with random weights instead")
    parser.add_argument("--train_file", default="examples/data/sentences.txt")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--max_seq_length", type=int, default=32)
    parser.add_argument("--steps", type=int, default=6, help="measured steps per round, after a warm-up of two")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--variants", nargs="+", help="names, see variants.py; default: all that the machine supports")
    parser.add_argument("--use_cpu", action="store_true", help="measure on the CPU even if there is a GPU")
    parser.add_argument("--profile", metavar="DIR", help="profile the first variant, trace to this folder")
    parser.add_argument("--output", metavar="FILE", help="write the raw measurements to this file: .json or .csv")
    options = parser.parse_args()
    try:
        options.variants = [validate_name(name) for name in options.variants or ()]
    except ValueError as error:
        parser.error(str(error))
    if options.output and Path(options.output).suffix not in (".json", ".csv"):
        parser.error(f"--output is a .json or a .csv file, not {options.output}.")
    for name in ("batch_size", "max_seq_length", "steps", "rounds"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} is at least 1, not {getattr(options, name)}.")
    return options


def build_encoder(options: argparse.Namespace, folder: str) -> str:
    """Save an encoder with random weights, and the tokenizer, in a folder that all variants load."""
    tokenizer = load_tokenizer(options.model_name_or_path)
    set_seed(42)
    config = BertConfig(vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, **SIZES[options.size])
    with contextlib.redirect_stdout(sys.stderr):  # DeepSpeed, if installed, prints the processor
        BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def token_counts(options: argparse.Namespace) -> tuple[float, float]:
    """Return the mean tokens of a sentence, and the mean length of full batches in the order of the file."""
    sentences = list(read_sentences(options.train_file).dataset["text"][:COUNTED_SENTENCES])
    tokenizer = load_tokenizer(options.model_name_or_path)
    rows = tokenizer(sentences, truncation=True, max_length=options.max_seq_length)["input_ids"]
    lengths = [len(row) for row in rows]
    full_batches = range(0, max(len(lengths) - options.batch_size, 0) + 1, options.batch_size)
    longest = [max(lengths[start : start + options.batch_size]) for start in full_batches]
    return sum(lengths) / len(lengths), sum(longest) / len(longest)


def measure_rounds(job: Job, names: list[str], rounds: int) -> tuple[Figures, list[str]]:
    """Measure each variant once a round, in the same order; a variant that fails is not repeated.

    Returns:
        The measurements of the variants that did not fail, and the errors of the others.
    """
    figures: Figures = {name: [] for name in names}
    failures = []
    for number in range(1, rounds + 1):
        for name in list(figures):
            try:
                found = measure_apart(replace(job, variant=name))
            except RuntimeError as error:
                failures.append(str(error))
                del figures[name]
                continue
            figures[name].append(found)
            summary = ", ".join(f"{metric} {value:.4g}" for metric, value in found.items())
            print(f"round {number} of {rounds}, {name}: {summary}", file=sys.stderr, flush=True)
    return figures, failures


def describe_machine(device: torch.device) -> str:
    """Return one line on the machine."""
    if device.type == "cuda":
        return f"torch {torch.__version__}, {torch.cuda.get_device_name(device)}"
    capability = torch.backends.cpu.get_cpu_capability()
    return f"torch {torch.__version__}, CPU with {capability}, threads: {torch.get_num_threads()}"


def describe_work(config, options: argparse.Namespace, real: float, padded: float) -> str:
    """Return one line on encoder, text, steps and rounds."""
    return (
        f"{config.model_type} of {config.num_hidden_layers} layers, {config.hidden_size} wide; {options.batch_size} × "
        f"{options.max_seq_length} tokens at most, on average {real:.1f} real ones padded to {padded:.1f}; "
        f"{options.steps} steps × {options.rounds} rounds, median (least–most)"
    )


def write(path: Path, figures: Figures) -> None:
    """Write the raw measurements, one a row."""
    rows = [
        {"variant": name, "round": number, "figure": what, "value": value}
        for name, rounds in figures.items()
        for number, found in enumerate(rounds, 1)
        for what, value in found.items()
    ]
    with path.open("w", encoding="utf-8", newline="") as file:
        if path.suffix == ".json":
            json.dump(rows, file, indent=1)
        else:
            writer = csv.DictWriter(file, ["variant", "round", "figure", "value"])
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
