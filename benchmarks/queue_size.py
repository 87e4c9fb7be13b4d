"""CPU seconds of a training step and peak memory by size of the queue, each queue full from the start.

    python benchmarks/queue_size.py --model_name_or_path ENCODER --train_file sentences.txt --queue_sizes 512 65536

Each size trains in a process of its own, round by round in turn, through `MoCoSETrainer`.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile

from cpu_time import WARM_UP_STEPS, CpuTime
from transformers.utils import logging

from mocose_hf import MoCoSEForPreTraining, MoCoSETrainer, MoCoSETrainingArguments, load_tokenizer, read_sentences


def train(options, size: int) -> None:
    """Train with a queue of one size; print CPU seconds per step and peak memory in GB."""
    logging.set_verbosity_error()
    timer = CpuTime()
    model = MoCoSEForPreTraining.from_encoder_pretrained(
        options.model_name_or_path, queue_size=size, queue_init_size=size
    )
    sentences = read_sentences(options.train_file).dataset
    with tempfile.TemporaryDirectory() as folder:
        MoCoSETrainer(
            model=model,
            args=MoCoSETrainingArguments(
                output_dir=folder,
                max_steps=options.steps + WARM_UP_STEPS,
                per_device_train_batch_size=options.batch_size,
                save_strategy="no",
                logging_strategy="no",
                report_to="none",
                disable_tqdm=True,
                use_cpu=True,
            ),
            train_dataset=sentences,
            processing_class=load_tokenizer(options.model_name_or_path),
            callbacks=[timer],
        ).train()
    print(timer.seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6)


def main() -> None:
    """Measure all sizes in turn and print each over the first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_name_or_path", required=True)
    parser.add_argument("--train_file", required=True)
    parser.add_argument("--queue_sizes", type=int, nargs="+", default=[512, 65_536])
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=18)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only is not None:
        train(options, options.only)
        return
    found = {size: [] for size in options.queue_sizes}
    for _ in range(options.rounds):
        for size, figures in found.items():
            command = [sys.executable, *sys.argv, "--only", str(size)]
            printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            figures.append([float(number) for number in printed.split("\n")[-2].split()])
    first = statistics.median(seconds for seconds, _ in found[options.queue_sizes[0]])
    for size, figures in found.items():
        seconds, memory = zip(*figures, strict=True)
        median = statistics.median(seconds)
        print(
            f"K={size:<9,} {median:.3f} CPU s a step ({min(seconds):.3f} to {max(seconds):.3f}), "
            f"{median / first:.2f} of the first, peak {max(memory):.2f} GB"
        )


if __name__ == "__main__":
    main()
