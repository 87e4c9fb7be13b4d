"""Train a tiny model on as many processes as the launcher started, and write what each ends with.

Called with the encoder's directory, the output directory, the batch size per process and, as JSON, where they differ
from what stands here: `config` and `training`, fields of the model's configuration and of the training arguments,
`algorithm`, `num_ids`, the number of different sentence ids, each of which many sentences then share, and
`negative_every`, n for a hard negative in every n-th row.
"""

import json
import sys
from pathlib import Path

import torch
from builders import sentences
from datasets import Dataset
from safetensors.torch import save_file
from transformers import set_seed

from mocose_hf import MoCoSETrainer, MoCoSETrainingArguments, load_tokenizer
from mocose_hf.models.registry import ALGORITHMS
from mocose_hf.parallel.collectives import end_process

OPTIONS = {
    "queue_size": 20,
    "queue_init_size": 4,
    "head_dropout_prob": 0.0,
    "encoder_dropout_prob": 0.0,
    "stale_fgsm_epsilon": 0.0,
}


def main(encoder_dir: str, output_dir: str, batch: str, changes: str = "{}") -> None:
    changes = {"config": {}, "training": {}, "algorithm": "mocose", "num_ids": 320, "negative_every": 0} | json.loads(
        changes
    )
    algorithm = changes["algorithm"]
    # With gradient through both sides some biases have gradients of the size of rounding errors, which Adam scales up.
    is_two_sided = algorithm == "simcse" or changes["config"].get("in_batch_weight", 0.0) > 0.0
    optimizer = (
        {"optim": "sgd", "learning_rate": 0.05 if algorithm == "simcse" else 1e-3}
        if is_two_sided
        else {"learning_rate": 1e-4}
    )
    settings = {"save_strategy": "no", "report_to": "none", "disable_tqdm": True, "use_cpu": True}
    settings |= optimizer | {"per_device_train_batch_size": int(batch)} | changes["training"]
    args = MoCoSETrainingArguments(output_dir=output_dir, **settings)
    set_seed(0)
    if args.process_index > 0:
        torch.randn(7)  # processes that drew differently must still start with one queue and one model
    kind = ALGORITHMS[algorithm].model
    options = OPTIONS | changes["config"]
    names = [*kind.config_class.option_names(), "peft_config"]
    known = {name: value for name, value in options.items() if name in names}
    model = kind.from_encoder_pretrained(encoder_dir, **known)
    rows = {"text": sentences(320), "sentence_id": [number % changes["num_ids"] for number in range(320)]}
    if is_two_sided:  # without dropout both passes of one text are equal
        rows["key_text"] = sentences(320, seed=1)
    if every := changes["negative_every"]:
        texts = sentences(320, seed=2)
        texts[: 20 * every : every] = rows["key_text"][20 * every : 0 : -every]  # some are positives of other queries
        rows["negative_text"] = ["" if number % every else text for number, text in enumerate(texts)]
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
    distances = [line["d_trace"] for line in trainer.state.log_history if "d_trace" in line]
    state["d_trace"] = torch.tensor(distances)
    state["processes"] = torch.tensor(trainer.accelerator.num_processes)
    Path(output_dir).mkdir(parents=True, exist_ok=True)
    save_file(state, Path(output_dir) / f"rank{trainer.accelerator.process_index}.safetensors")


if __name__ == "__main__":
    main(*sys.argv[1:])
    end_process(0)
