"""Ratio of the CPU time of scoring STS tasks to that of embedding their test pairs in the order of the files.

    python benchmarks/evaluation.py --model_name_or_path ENCODER --senteval_dir data/senteval

Scoring reads the files, embeds each different sentence once, sorted by length, and correlates. Embedding in file
order, as SentEval does, takes batches of 128 pairs and pads each side to its longest sentence.
"""

import argparse
import statistics
import time

from throughput import encode_in_file_order

from mocose_hf import MoCoSEForPreTraining, load_tokenizer
from mocose_hf.evaluation import embed_tasks, read_tasks, score_tasks

TASKS = ("sts12", "sts15", "stsb", "sickr")


def main() -> None:
    """Measure both in turn, in one process, and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_name_or_path", required=True)
    parser.add_argument("--senteval_dir", required=True)
    parser.add_argument("--tasks", nargs="+", default=TASKS)
    parser.add_argument("--pooling_mode", default="mean")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    tokenizer = load_tokenizer(options.model_name_or_path)
    model = MoCoSEForPreTraining.from_encoder_pretrained(
        options.model_name_or_path, pooling_mode=options.pooling_mode
    ).mocose.eval()
    pairs = [pair for task in read_tasks(options.tasks, options.senteval_dir)[0] for pair in test_pairs(task)]

    ratios = []
    for number in range(options.rounds):
        scoring = cpu_seconds(lambda: score(model, tokenizer, options))
        in_order = cpu_seconds(lambda: embed_in_file_order(model, tokenizer, pairs))
        ratios.append(scoring / in_order)
        print(f"round {number + 1}: {scoring:.1f} s over {in_order:.1f} s = {ratios[-1]:.3f}", flush=True)
    print(f"{len(pairs):,} pairs: {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})")


def test_pairs(task) -> list[tuple[str, str]]:
    """Return the sentences of each test pair, in the order of the files."""
    return [pair for part in task.subsets.values() for pair in zip(part["sentence1"], part["sentence2"], strict=True)]


def score(model, tokenizer, options) -> dict[str, float]:
    """Read, embed and score the tasks as the command does."""
    tasks, _ = read_tasks(options.tasks, options.senteval_dir)
    return score_tasks(tasks, embed_tasks(model, tokenizer, tasks, batch_size=128))


def embed_in_file_order(model, tokenizer, pairs: list[tuple[str, str]]) -> None:
    """Embed both sides of the pairs, batch by batch."""
    for side in zip(*pairs, strict=True):
        encode_in_file_order(model, tokenizer, list(side))


def cpu_seconds(work) -> float:
    """Return the CPU time of a call."""
    start = time.process_time()
    work()
    return time.process_time() - start


if __name__ == "__main__":
    main()
