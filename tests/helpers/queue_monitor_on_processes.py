"""Train with monitor of the queue on as many processes as the launcher started, and write what each ends with.

Called with the encoder's directory and the output directory.
"""

import json
import sys
from pathlib import Path

import torch
from builders import sentences
from datasets import Dataset
from safetensors.torch import save_file
from transformers import set_seed

from mocose_hf import MoCoSEForPreTraining, MoCoSETrainer, MoCoSETrainingArguments, load_tokenizer
from mocose_hf.parallel.collectives import end_process


def main(encoder_dir: str, output_dir: str) -> None:
    for steps in (0, 2):
        folder = Path(output_dir) / str(steps)
        args = MoCoSETrainingArguments(
            output_dir=str(folder),
            per_device_train_batch_size=4,
            learning_rate=1e-3,
            logging_steps=1,
            queue_monitor_steps=steps,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
        )
        set_seed(0)
        model = MoCoSEForPreTraining.from_encoder_pretrained(encoder_dir, queue_size=20, queue_init_size=4)
        trainer = MoCoSETrainer(
            model=model,
            args=args,
            train_dataset=Dataset.from_dict({"text": sentences(48)}),
            processing_class=load_tokenizer(encoder_dir),
        )
        logits = []
        model.register_forward_hook(
            lambda module, inputs, output, logits=logits: logits.append(output.logits.detach())
        )
        trainer.train()
        rank = args.process_index
        shared = "target.encoder.embeddings."
        state = {name: value for name, value in model.state_dict().items() if not name.startswith(shared)}
        state |= {f"logits {step}": value.contiguous() for step, value in enumerate(logits, start=1)}
        state["random"] = torch.get_rng_state()
        state["processes"] = torch.tensor(args.world_size)
        save_file(state, folder / f"rank{rank}.safetensors")
        (folder / f"log{rank}.json").write_text(json.dumps(trainer.state.log_history))


if __name__ == "__main__":
    main(*sys.argv[1:])
    end_process(0)
