"""Train by sentence-transformers' trainer with `MomentumContrastLoss` on any number of processes: ENCODER OUTPUT."""

import os
import sys

from builders import sentences
from datasets import Dataset
from safetensors.torch import save_file
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

from mocose_hf.parallel.collectives import end_process, process_index
from mocose_hf.sentence_transformers import MomentumCallback, MomentumContrastLoss

GLOBAL_BATCH, STEPS = 8, 4


def main(encoder: str, output: str) -> None:
    """Write the weights, the target and the queues of each process to `OUTPUT-RANK.safetensors`."""
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    args = SentenceTransformerTrainingArguments(
        output, per_device_train_batch_size=GLOBAL_BATCH // processes, max_steps=STEPS, learning_rate=1e-3,
        adam_epsilon=1e-4, use_cpu=True, report_to="none", save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    texts = sentences(2 * GLOBAL_BATCH * STEPS)
    data = Dataset.from_dict({"query": texts[::2], "text": texts[1::2]})
    transformer = Transformer(encoder)
    model = SentenceTransformer(modules=[transformer, Pooling(32, "mean")], device="cpu")
    loss = MomentumContrastLoss(model, queue_size=20, in_batch_weight=1.0, symmetric=True, mask_same_sentence=True)
    SentenceTransformerTrainer(model, args, data, loss=loss, callbacks=[MomentumCallback(loss)]).train()
    assert args.world_size == processes
    state = {f"model.{name}": value for name, value in model.state_dict().items()} | loss.momentum_state()
    save_file({name: value.contiguous() for name, value in state.items()}, f"{output}-{process_index()}.safetensors")
    end_process(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
