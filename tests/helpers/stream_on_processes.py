"""Train a tiny model on a stream, on as many processes as the launcher started; each step writes a checkpoint.

Called with the encoder's directory, the text, the output directory, the batch size per process, the number of
DataLoader workers and, to go on, a checkpoint.
"""

import sys

from transformers import set_seed

from mocose_hf import MoCoSEForPreTraining, MoCoSETrainer, MoCoSETrainingArguments, SentenceStream, load_tokenizer
from mocose_hf.parallel.collectives import end_process


def main(
    encoder_dir: str, text: str, output_dir: str, batch: str, workers: str, checkpoint: str | None = None
) -> None:
    args = MoCoSETrainingArguments(
        output_dir=output_dir,
        max_steps=12,
        per_device_train_batch_size=int(batch),
        dataloader_num_workers=int(workers),
        learning_rate=1e-4,
        logging_steps=1,
        save_strategy="steps",
        save_steps=1,
        save_total_limit=None,
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    )
    set_seed(0 if checkpoint is None else 1)
    model = MoCoSEForPreTraining.from_encoder_pretrained(
        encoder_dir, queue_size=20, queue_init_size=4, head_dropout_prob=0.0, encoder_dropout_prob=0.0
    )
    trainer = MoCoSETrainer(
        model=model,
        args=args,
        train_dataset=SentenceStream(text, shuffle_buffer_size=9),
        processing_class=load_tokenizer(encoder_dir),
    )
    trainer.train(resume_from_checkpoint=checkpoint)


if __name__ == "__main__":
    main(*sys.argv[1:])
    end_process(0)
