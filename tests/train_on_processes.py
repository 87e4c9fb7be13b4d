"""Train a tiny model on as many processes as the launcher started, and write what each ends with.

Called with the encoder's directory, the output directory, the batch size per process and optionally fields of
MoCoSEConfig as JSON and the number of different sentence ids, each of which many sentences then share.
"""

import json
import sys
from pathlib import Path

import torch
from conftest import sentences
from datasets import Dataset
from safetensors.torch import save_file
from transformers import set_seed

from mocose_hf import MoCoSEForPreTraining, MoCoSETrainer, MoCoSETrainingArguments, load_tokenizer
from mocose_hf.distributed import end_process


def main(encoder_dir: str, output_dir: str, batch: str, fields: str = "{}", num_ids: str = "320") -> None:
    args = MoCoSETrainingArguments(
        output_dir=output_dir,
        per_device_train_batch_size=int(batch),
        learning_rate=1e-4,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    )
    set_seed(0)
    if args.process_index > 0:
        torch.randn(7)  # processes that drew differently must still start with one queue and one model
    model = MoCoSEForPreTraining.from_encoder_pretrained(
        encoder_dir,
        queue_size=20,
        queue_init_size=4,
        head_dropout_prob=0.0,
        encoder_dropout_prob=0.0,
        **json.loads(fields),
    )
    rows = {"text": sentences(320), "sentence_id": [number % int(num_ids) for number in range(320)]}
    trainer = MoCoSETrainer(
        model=model,
        args=args,
        train_dataset=Dataset.from_dict(rows),
        processing_class=load_tokenizer(encoder_dir),
    )
    trainer.train()
    shared = "target.encoder.embeddings."
    state = {name: value for name, value in trainer.model.state_dict().items() if not name.startswith(shared)}
    state["steps"] = torch.tensor(trainer.state.global_step)
    state["processes"] = torch.tensor(trainer.accelerator.num_processes)
    Path(output_dir).mkdir(parents=True, exist_ok=True)
    save_file(state, Path(output_dir) / f"rank{trainer.accelerator.process_index}.safetensors")


if __name__ == "__main__":
    main(*sys.argv[1:])
    end_process(0)
