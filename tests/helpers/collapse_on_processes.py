"""Train until the collapse alarm stops the run, on as many processes as the launcher started; write what each is told.

Called with the encoder's directory and the output directory. Each process has sentences of its own to watch, so that
only by agreement they are told the same.
"""

import sys
from pathlib import Path

from builders import sentences, tiny_model
from datasets import Dataset

from mocose_hf import CollapseError, MoCoSETrainer, MoCoSETrainingArguments, load_tokenizer
from mocose_hf.parallel.collectives import end_process


def main(encoder_dir: str, output_dir: str) -> None:
    args = MoCoSETrainingArguments(
        output_dir=output_dir,
        per_device_train_batch_size=8,
        learning_rate=1e-2,
        ema_decay=0.0,
        ema_decay_end=0.0,
        max_steps=60,
        collapse_check_steps=5,
        stop_on_collapse=True,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    )
    trainer = MoCoSETrainer(
        model=tiny_model(encoder={"initializer_range": 0.2}, num_predictor_layers=0, queue_size=64),
        args=args,
        train_dataset=Dataset.from_dict({"text": sentences(200, seed=args.process_index)}),
        processing_class=load_tokenizer(encoder_dir),
    )
    told = "nothing"
    try:
        trainer.train()
    except CollapseError as error:
        told = str(error)
    told = f"{trainer.accelerator.num_processes} processes: {told}"
    Path(output_dir, f"rank{trainer.accelerator.process_index}.txt").write_text(told, encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
    end_process(0)
