"""Measure what adapting to a field costs in general similarity, and what merging with the start gives back.

    python benchmarks/general_similarity.py --domains DIR --senteval DIR --encoder DIR --name NAME --output runs.csv

For each field and seed, `--recipe domain` trains as in `compare_on_fields.py`, on the same rows. Each mixture of start
and result is then scored on the field's test rows, which chose nothing, and on STS. Every mixture is a line of the CSV
file; a line that is there is not measured again, so the command resumes. Weight 0 is the start.
"""

import argparse
import csv
import sys
import tempfile
from pathlib import Path

from compare_on_fields import BATCH_SIZE, FIELDS, MAX_TOKENS, PARTS, STEPS, Field
from csv_lines import append_lines

from mocose_hf.cli.main import dispatch

COLUMNS = ("field", "encoder", "seed", "weight", "measure", "test", "sts12", "sts15", "stsb", "sickr", "sts_mean")


def train(field: Field, encoder: str, seed: int, output_dir: str) -> None:
    """Train by the recipe `domain` and export the best of start, half-way and end."""
    options = {
        "recipe": "domain",
        "model_name_or_path": encoder,
        "train_file": field.text_file,
        "label_file" if field.is_labelled else "retrieval_file": field.development_file,
        "metric_for_best_model": f"dev_{field.measure}",
        "seed": seed,
        "pooling_mode": "mean",
        "max_seq_length": MAX_TOKENS,
        "per_device_train_batch_size": BATCH_SIZE,
        "eval_steps": STEPS["domain"] // PARTS,
        "output_dir": output_dir,
        "save_only_encoder": "true",
        "disable_tqdm": "true",
    }
    run("train", *(word for name, value in options.items() for word in (f"--{name}", str(value))))


def score_mixtures(
    field: Field, test_file: Path, senteval: str, encoder: str, trained: str, weights: list[float], scores: str
) -> list[dict[str, float]]:
    """Return the scores of each mixture on the test rows and on STS without STS-B's development pairs."""
    run(
        *("merge", encoder, trained, "--weight", *map(str, weights)),
        *("--label_file" if field.is_labelled else "--retrieval_file", str(test_file)),
        *("--senteval_dir", senteval, "--eval_tasks", "sts", "--allow_partial_tasks", "--scores", scores),
    )
    with open(scores, encoding="utf-8", newline="") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def run(*command: str) -> None:
    """Run a `mocose` command in this process."""
    if code := dispatch(command):
        raise SystemExit(code)


def main() -> int:
    """Measure what is missing from the CSV file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--domains", required=True, type=Path, help="folder of the fields' files")
    parser.add_argument("--senteval", required=True, help="folder in SentEval's layout")
    parser.add_argument("--encoder", required=True, help="the start")
    parser.add_argument("--name", required=True, help="its name in the CSV file")
    parser.add_argument("--output", required=True, type=Path, help="CSV file")
    parser.add_argument("--fields", nargs="+", default=list(FIELDS), choices=FIELDS)
    parser.add_argument("--weights", nargs="+", type=float, default=[0.0, 0.5, 0.75, 1.0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    arguments = parser.parse_args()
    done = set()
    if arguments.output.exists():
        with arguments.output.open(encoding="utf-8", newline="") as file:
            done = {(row["field"], int(row["seed"]), float(row["weight"])) for row in csv.DictReader(file)}
    for seed in arguments.seeds:
        for name in arguments.fields:
            missing = [weight for weight in arguments.weights if (name, seed, weight) not in done]
            if seed != arguments.seeds[0]:
                missing = [weight for weight in missing if weight]  # the start has no seed
            if missing:
                measure(arguments, name, seed, missing)
    return 0


def measure(arguments: argparse.Namespace, name: str, seed: int, weights: list[float]) -> None:
    """Train on one field with one seed, and append a line for each weight."""
    with tempfile.TemporaryDirectory() as folder:
        field = Field(name, arguments.domains, Path(folder))
        trained = f"{folder}/out"
        train(field, arguments.encoder, seed, trained)
        places = (arguments.senteval, arguments.encoder, trained, weights, f"{folder}/scores.csv")
        mixtures = score_mixtures(field, Path(folder, "test.tsv"), *places)
        lines = []
        for scores in mixtures:
            sts = [scores[f"{task}_without_stsb_dev_spearman"] for task in ("sts12", "sts15")]
            sts += [scores["stsb_spearman"], scores["sickr_spearman"]]
            figures = [scores[f"test_{field.measure}"], *sts, scores["sts_avg_of_4_without_stsb_dev_spearman"]]
            place = (name, arguments.name, seed, scores["weight"], field.measure)
            lines.append(dict(zip(COLUMNS, [*place, *(round(value, 2) for value in figures)], strict=True)))
        append_lines(arguments.output, lines)


if __name__ == "__main__":
    sys.exit(main())
