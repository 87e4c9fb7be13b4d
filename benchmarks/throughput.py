"""Throughput of data loading and of embedding with a finished encoder, in sentences per second."""

from collections.abc import Callable
from tempfile import TemporaryDirectory

import torch
from datasets import Dataset
from meters import wall_and_cpu_seconds

from mocose_hf import MoCoSEForPreTraining, MoCoSETrainer, MoCoSETrainingArguments, load_tokenizer, read_sentences
from mocose_hf.models.encoding import encoder_max_length

LOADED_BATCHES = 200
ENCODED_SENTENCES = 1024
ENCODED_BATCH = 128


def measure_throughput(job) -> dict[str, float]:
    """Return `per_second` and `per_cpu_second`, sentences, of a variant named in `variants.THROUGHPUTS`."""
    sentences = list(read_sentences(job.train_file).dataset["text"])
    if job.variant.startswith("loading"):
        return loading(job, sentences, workers=2 if job.variant == "loading_2_workers" else 0)
    return encoding(job, sentences[:ENCODED_SENTENCES], in_file_order=job.variant == "encoding_file_order")


def loading(job, sentences: list[str], workers: int) -> dict[str, float]:
    """Measure the training data loader, which tokenises in the collator; the start of its workers counts."""
    count = LOADED_BATCHES * job.batch_size
    texts = (sentences * -(-count // len(sentences)))[:count]
    with TemporaryDirectory() as folder:
        trainer = MoCoSETrainer(
            model=MoCoSEForPreTraining.from_encoder_pretrained(job.encoder, pooling_mode="cls"),
            args=MoCoSETrainingArguments(
                output_dir=folder,
                per_device_train_batch_size=job.batch_size,
                max_seq_length=job.max_seq_length,
                dataloader_num_workers=workers,
                report_to="none",
                use_cpu=job.use_cpu,
            ),
            train_dataset=Dataset.from_dict({"text": texts}),
            processing_class=load_tokenizer(job.encoder),
        )
        loader = trainer.get_train_dataloader()
        return rates(lambda: sum(1 for _ in loader), count)


def encoding(job, sentences: list[str], in_file_order: bool) -> dict[str, float]:
    """Measure `encode`, which sorts by length, or batches of the same size as they come."""
    tokenizer = load_tokenizer(job.encoder)
    model = MoCoSEForPreTraining.from_encoder_pretrained(job.encoder, pooling_mode="cls").mocose
    model = model.to(job.device).eval()
    embed = encode_in_file_order if in_file_order else encode_sorted
    embed(model, tokenizer, sentences[:ENCODED_BATCH])
    return rates(lambda: embed(model, tokenizer, sentences), len(sentences))


def encode_sorted(model, tokenizer, sentences: list[str]) -> None:
    """Embed as a user would."""
    model.encode(sentences, tokenizer, batch_size=ENCODED_BATCH)


@torch.no_grad()
def encode_in_file_order(model, tokenizer, sentences: list[str]) -> None:
    """Embed batch by batch, each padded to its longest sentence."""
    longest = encoder_max_length(tokenizer, model.config.encoder_config)
    for start in range(0, len(sentences), ENCODED_BATCH):
        texts = sentences[start : start + ENCODED_BATCH]
        batch = tokenizer(texts, padding=True, truncation=True, max_length=longest, return_tensors="pt")
        model(**batch.to(model.device)).pooler_output.cpu()


def rates(work: Callable[[], object], count: int) -> dict[str, float]:
    """Return sentences per second of wall time, and of CPU time of this process and its workers."""
    start_wall, start_cpu = wall_and_cpu_seconds()
    work()
    wall, cpu = wall_and_cpu_seconds()
    return {"per_second": count / (wall - start_wall), "per_cpu_second": count / (cpu - start_cpu)}
