"""Measure one variant in its real trainer and its own process."""

import contextlib
import io
import multiprocessing
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from datasets import Dataset
from gemm_floor import BERT_LIKE, GemmFloor, encoder_forward_flops
from meters import WARM_UP_STEPS, LaunchCounter, Profiler, StepMeter, clock, peak_memory_gb
from released_step import ReleasedMoCoSE
from throughput import measure_throughput
from transformers import AutoConfig, AutoModel, Trainer, TrainingArguments, set_seed
from transformers.utils import logging
from variants import QUEUE_SIZE, THROUGHPUTS, Variant

from mocose_hf import MoCoSEForPreTraining, MoCoSETrainer, MoCoSETrainingArguments, load_tokenizer, read_sentences
from mocose_hf.data.collator import SentenceCollator


@dataclass
class Job:
    """The measurement of one process.

    Args:
        variant: A name of `variants.py`.
        encoder: Directory or hub id of encoder and tokenizer.
        train_file: As `read_sentences` takes it.
        batch_size: Sentences per step, unless the variant names another number.
        max_seq_length: Longest input in tokens.
        padded_length: Length of the batches that the GEMM floor stands for.
        steps: Measured steps.
        use_cpu: Whether to measure on the CPU even if there is a GPU.
        trace: The folder to write a profile to; no profile if empty.
    """

    variant: str
    encoder: str
    train_file: str
    batch_size: int
    max_seq_length: int
    padded_length: int
    steps: int
    use_cpu: bool
    trace: str = ""

    @property
    def device(self) -> torch.device:
        """The processor to measure."""
        return torch.device("cuda" if torch.cuda.is_available() and not self.use_cpu else "cpu")


def measure_apart(job: Job) -> dict[str, float]:
    """Measure in a fresh process, so that peak memory is the variant's own.

    A server process imports the libraries once and is forked for each job. Forks cannot share a GPU, so with a GPU
    each process starts from scratch.

    Raises:
        RuntimeError: If the process failed, with the first line of its error.
    """
    context = multiprocessing.get_context("spawn" if job.device.type == "cuda" else "forkserver")
    context.set_forkserver_preload(["mocose_hf", "sentence_transformers"])
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send_figures, args=(job, sender, multiprocessing.get_start_method()))
    process.start()
    sender.close()
    try:
        figures, error = receiver.recv()
    except EOFError:
        figures, error = {}, ""
    process.join()
    if not figures:
        raise RuntimeError(f"{job.variant}: {error or f'the process ended with exit code {process.exitcode}'}")
    return figures


def _send_figures(job: Job, sender, start_method: str) -> None:
    multiprocessing.set_start_method(start_method, force=True)  # that of a data loader's workers, anywhere else
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    out = sys.stdout if job.trace else io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
            figures = measure(job)
    except Exception as error:
        sender.send(({}, f"{type(error).__name__}: {error}".splitlines()[0]))
    else:
        sender.send((figures, ""))


def measure(job: Job) -> dict[str, float]:
    """Return the figures of one variant: `seconds` per step, `memory_gb`, `flops`, on a GPU `launches`, or rates."""
    set_seed(42)
    if job.variant in THROUGHPUTS:
        return measure_throughput(job)
    variant = Variant.parse(job.variant)
    return measure_gemms(job, variant) if variant.recipe == "gemm_floor" else measure_training(job, variant)


def measure_training(job: Job, variant: Variant) -> dict[str, float]:
    """Train the warm-up and the measured steps, and on a GPU one more whose kernels are counted."""
    batch_size = variant.batch_size or job.batch_size
    sentences = list(read_sentences(job.train_file).dataset["text"])
    sentences *= -(-batch_size // len(sentences))  # a batch needs as many
    on_gpu = job.device.type == "cuda"
    with tempfile.TemporaryDirectory() as folder:
        arguments = {
            "output_dir": folder,
            "max_steps": WARM_UP_STEPS + job.steps + on_gpu,
            "per_device_train_batch_size": batch_size,
            "learning_rate": 3e-5,
            "weight_decay": 1e-6,
            "bf16": variant.bf16,
            "dataloader_drop_last": True,
            "dataloader_pin_memory": on_gpu,
            "save_strategy": "no",
            "logging_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "use_cpu": job.use_cpu,
        }
        trainer = TRAINERS[variant.recipe](job, variant, sentences, arguments)
        meter, counter = StepMeter(job.steps), LaunchCounter()
        trainer.add_callback(meter)
        if job.trace:
            trainer.add_callback(Profiler(Path(job.trace), job.steps))
        elif on_gpu:
            trainer.add_callback(counter)
        trainer.train()
    figures = {"seconds": meter.seconds, "memory_gb": meter.memory_gb}
    config = AutoConfig.from_pretrained(job.encoder)
    if config.model_type in BERT_LIKE:
        forward = encoder_forward_flops(config, batch_size, job.padded_length)
        figures["flops"] = variant.encoder_forwards * forward
    if on_gpu and not job.trace:
        figures["launches"] = counter.launches
    return figures


def mocose_trainer(job: Job, variant: Variant, sentences: list[str], arguments: dict) -> Trainer:
    """Return the trainer of this package, its queue full from the start."""
    arguments |= {"padding_free": variant.padding_free, "activation_checkpointing": variant.checkpointed}
    queue_size = variant.queue_size or QUEUE_SIZE
    adapter = {"peft_type": "LORA", "r": 16, "lora_alpha": 32, "target_modules": "all-linear"}
    adapter["lora_dropout"] = 0.05 if variant.dropout else 0.0
    model = MoCoSEForPreTraining.from_encoder_pretrained(
        job.encoder,
        pooling_mode="cls",
        queue_size=queue_size,
        queue_init_size=queue_size,
        peft_config=adapter if variant.lora else None,
    )
    if variant.all_rows:
        model.only_first_token = False
    trainer = MoCoSETrainer(
        model=model,
        args=MoCoSETrainingArguments(**arguments, max_seq_length=job.max_seq_length),
        train_dataset=Dataset.from_dict({"text": sentences}),
        processing_class=load_tokenizer(job.encoder),
    )
    if variant.padding_free and trainer.data_collator.first_position is None:
        raise ValueError("this encoder takes no packed batches")
    return trainer


def released_trainer(job: Job, variant: Variant, sentences: list[str], arguments: dict) -> Trainer:
    """Return the stock trainer of the released algorithm."""
    return Trainer(
        model=ReleasedMoCoSE(AutoModel.from_pretrained(job.encoder), variant.queue_size or QUEUE_SIZE),
        args=TrainingArguments(**arguments, remove_unused_columns=False),
        train_dataset=Dataset.from_dict({"text": sentences}),
        data_collator=SentenceCollator(load_tokenizer(job.encoder), job.max_seq_length),
    )


def ranking_loss_trainer(job: Job, variant: Variant, sentences: list[str], arguments: dict) -> Trainer:
    """Return sentence-transformers' trainer of unsupervised SimCSE, each sentence its own positive, by [CLS]."""
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer.losses import (
        CachedMultipleNegativesRankingLoss,
        MultipleNegativesRankingLoss,
    )
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    encoder = Transformer(job.encoder, max_seq_length=job.max_seq_length)
    pooling = Pooling(encoder.get_embedding_dimension(), pooling_mode="cls")
    model = SentenceTransformer(modules=[encoder, pooling], device=str(job.device))
    if variant.recipe == "cached_mnrl":
        loss = CachedMultipleNegativesRankingLoss(model, mini_batch_size=32)
    else:
        loss = MultipleNegativesRankingLoss(model)
    return SentenceTransformerTrainer(
        model=model,
        args=SentenceTransformerTrainingArguments(**arguments),
        train_dataset=Dataset.from_dict({"anchor": sentences, "positive": sentences}),
        loss=loss,
    )


TRAINERS = {
    "mocose": mocose_trainer,
    "released": released_trainer,
    "mnrl": ranking_loss_trainer,
    "cached_mnrl": ranking_loss_trainer,
}


def measure_gemms(job: Job, variant: Variant) -> dict[str, float]:
    """Time the matrix products of a padded step alone."""
    floor = GemmFloor(
        AutoConfig.from_pretrained(job.encoder),
        variant.batch_size or job.batch_size,
        job.padded_length,
        variant.queue_size or QUEUE_SIZE,
        job.device,
        torch.bfloat16 if variant.bf16 else torch.float32,
    )
    for _ in range(WARM_UP_STEPS):
        floor.run()
    start = clock(job.device)
    for _ in range(job.steps):
        floor.run()
    seconds = (clock(job.device) - start) / job.steps
    return {"seconds": seconds, "memory_gb": peak_memory_gb(job.device), "flops": floor.flops}
