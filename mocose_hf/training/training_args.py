"""The settings that exist only while training."""

from dataclasses import dataclass, field

import torch
from transformers import TrainingArguments
from transformers.trainer_utils import IntervalStrategy

from mocose_hf.parallel.launcher import adopt_launcher_settings

EMA_SCHEDULES = ("cosine", "constant_distance")


@dataclass
class MoCoSETrainingArguments(TrainingArguments):
    """`transformers.TrainingArguments` with the fields of momentum contrast and the paper's recipe as defaults.

    Each field's meaning, range and value in the paper (https://arxiv.org/abs/2202.13093, section 4) stands in its help
    text, which `run_mocose.py --help` prints; all other fields are those of transformers
    (https://huggingface.co/docs/transformers/main_classes/trainer#transformers.TrainingArguments).

    Raises:
        ValueError: Where a value is outside its range.
    """

    ema_decay: float = field(
        default=0.85,
        metadata={"help": "EMA decay η of the target where its cosine schedule starts, in [0, 1] (paper: 0.85)."},
    )
    ema_schedule: str = field(
        default="cosine",
        metadata={
            "help": "How η goes on from ema_decay: cosine, up to ema_decay_end; or constant_distance, higher while "
            "the queue grows, so that 1/(1−η) + fill / keys per step, the traceable distance, is from the start what "
            "it is when the queue is full (paper: cosine)."
        },
    )
    ema_decay_end: float = field(
        default=1.0,
        metadata={"help": "EMA decay where that schedule ends, in [0, 1]; at 1 the target stands still (paper: 1.0)."},
    )
    ema_schedule_steps: int | None = field(
        default=None,
        metadata={
            "help": "Optimizer steps of the decay schedule; the run's length where not given (released: 15000)."
        },
    )
    max_seq_length: int = field(
        default=32,
        metadata={
            "help": "Longest training input in tokens; evaluation and export keep the encoder's own limit (paper: 32)."
        },
    )
    padding_free: bool = field(
        default=False,
        metadata={
            "help": "Whether to train on packed sentences instead of padded ones, the same loss for less work; an "
            "encoder whose attention cannot be told of sentences says so and pads."
        },
    )

    augment_view: str = field(
        default="query",
        metadata={
            "help": "Which view crop_share, deletion_rate, repetition_rate, position_shuffle, token_cutoff, "
            "feature_cutoff and embedding_noise apply to: query, key or both; evaluation sees whole sentences."
        },
    )
    crop_share: float = field(
        default=1.0,
        metadata={
            "help": "Least share of a sentence's tokens that a view keeps as one span, in (0, 1]; each view draws its "
            "own span, as in Contriever; 1 keeps all (paper: 1)."
        },
    )
    deletion_rate: float = field(
        default=0.0,
        metadata={"help": "Probability with which a view loses each token, in [0, 1); TSDAE: 0.6 (paper: 0)."},
    )
    repetition_rate: float = field(
        default=0.0,
        metadata={
            "help": "Largest share of the tokens that a view has twice, in [0, 1]; ESimCSE: 0.32 of the words (paper: "
            "0)."
        },
    )
    position_shuffle: bool = field(
        default=False,
        metadata={
            "help": "Whether to permute the tokens of each sentence, [CLS], [SEP] and padding aside (paper: harms)."
        },
    )
    token_cutoff: float = field(
        default=0.0,
        metadata={
            "help": "Share of each sentence's tokens whose word embeddings are set to 0, in [0, 1) (paper: 0, and 0.1 "
            "harms)."
        },
    )
    feature_cutoff: float = field(
        default=0.0,
        metadata={
            "help": "Share of the word embeddings' features that are set to 0 in all of a sentence, in [0, 1) (paper: "
            "0, and 0.01 and 0.1 harm)."
        },
    )
    embedding_noise: float = field(
        default=0.0,
        metadata={
            "help": "Size of random noise, + or - as much, on each number of the word embeddings, 0 or above: what "
            "fgsm_epsilon is to be compared with (paper: 0)."
        },
    )
    fgsm_epsilon: float = field(
        default=0.0,
        metadata={
            "help": "Size of the step by which FGSM moves the query view's word embeddings uphill in the batch's own "
            "loss, 0 or above; 5e-9 is about the last float32 digit of an embedding, and what is smaller does "
            "nothing; a step takes about half as long again (paper: 5e-9)."
        },
    )
    key_augmentation: str | None = field(
        default=None,
        metadata={
            "help": "What is done to the text that the target sees: typos, or synonyms out of WordNet (paper: none, "
            "and both harm)."
        },
    )
    key_augmentation_rate: float = field(
        default=0.1,
        metadata={"help": "Share of the words that can be changed which key_augmentation changes, in (0, 1]."},
    )

    collapse_check_steps: int = field(
        default=20,
        metadata={"help": "Optimizer steps between two looks for collapsing embeddings; 0 for none."},
    )
    stop_on_collapse: bool = field(
        default=False, metadata={"help": "Whether collapsing embeddings end the run, and not just warn."}
    )
    queue_prefill: bool = field(
        default=False,
        metadata={
            "help": "Whether the queue starts with keys of randomly drawn training sentences instead of random rows; "
            "costs one forward of queue_size sentences (paper: false)."
        },
    )
    queue_monitor_steps: int = field(
        default=0,
        metadata={
            "help": "Optimizer steps between two looks at the queue: how stale its keys are, and how they pull at the "
            "loss, in the log and in queue_monitor.jsonl and .png; 0 for none."
        },
    )

    learning_rate: float = field(
        default=3e-5,
        metadata={"help": "Peak learning rate of AdamW (paper: 3e-5 for BERT-base, 1e-5 for BERT-large)."},
    )
    head_learning_rate: float | None = field(
        default=None,
        metadata={
            "help": "Peak learning rate of what is new over the encoder: pooler, projection head and predictor; "
            "learning_rate where not given (paper: the same)."
        },
    )
    per_device_train_batch_size: int = field(
        default=64, metadata={"help": "Sentences per device and forward (paper: 64 for BERT-base, 32 for BERT-large)."}
    )
    num_train_epochs: float = field(default=1.0, metadata={"help": "Passes over the sentences (paper: 1)."})
    weight_decay: float = field(default=1e-6, metadata={"help": "Weight decay of AdamW (paper: 1e-6)."})
    per_device_eval_batch_size: int = field(
        default=128, metadata={"help": "Sentences per device and forward in evaluation."}
    )
    dataloader_drop_last: bool = field(
        default=True,
        metadata={"help": "Whether to leave out the last, smaller batch, as the contrast wants equal ones."},
    )
    eval_steps: float | None = field(
        default=50, metadata={"help": "Optimizer steps between evaluations on the development pairs (paper: 100)."}
    )
    eval_on_start: bool | None = field(
        default=None,
        metadata={
            "help": "Whether to score the start too, which makes it a candidate for the best checkpoint; true with "
            "load_best_model_at_end or development pairs."
        },
    )
    save_steps: float | None = field(
        default=None,
        metadata={
            "help": "Optimizer steps between checkpoints; eval_steps where there are development pairs, else 500."
        },
    )
    save_total_limit: int | None = field(
        default=2, metadata={"help": "Checkpoints that are kept: the newest and the best."}
    )
    logging_steps: float = field(
        default=10, metadata={"help": "Optimizer steps between two lines of the training log."}
    )
    logging_nan_inf_filter: bool = field(
        default=False, metadata={"help": "Kept false: a loss that is not finite ends the run."}
    )
    remove_unused_columns: bool = field(
        default=False, metadata={"help": "Kept false: the collator needs the text columns."}
    )
    ddp_broadcast_buffers: bool | None = field(
        default=False, metadata={"help": "Kept false: all processes fill their queues alike."}
    )
    ddp_find_unused_parameters: bool | None = field(
        default=False,
        metadata={"help": "Kept false, but true if some parameters of the encoder get no gradient."},
    )
    hub_strategy: str = field(
        default="end", metadata={"help": "Kept at end: the finished model is pushed once, without checkpoints."}
    )

    @property
    def global_batch_size(self) -> int:
        """Rows of one forward on all processes together.

        With `split_batches` in `accelerator_config`, `per_device_train_batch_size` is that of all processes.
        """
        return self.train_batch_size * (1 if self.accelerator_config.split_batches else self.world_size)

    @property
    def local_batch_size(self) -> int:
        """Rows of one forward on this process."""
        return self.global_batch_size // self.world_size

    @property
    def best_metric(self) -> str:
        """What the best checkpoint is selected by, without `eval_`."""
        from mocose_hf.evaluation.pairs import DEV_SPEARMAN

        return str(self.metric_for_best_model or DEV_SPEARMAN).removeprefix("eval_")

    @property
    def evaluation_dtype(self) -> torch.dtype | None:
        """What to score in: that of `bf16_full_eval` or `fp16_full_eval`, None for that of the weights."""
        if self.bf16_full_eval:
            return torch.bfloat16
        return torch.float16 if self.fp16_full_eval else None

    def __post_init__(self):
        # Imported on use: these load datasets and the Trainer, which `--help` does not need.
        from mocose_hf.evaluation.checkpoint_selection import is_greater_better
        from mocose_hf.evaluation.pairs import DEV_SPEARMAN
        from mocose_hf.parallel.deepspeed import keep_weights_in_float32, validate_deepspeed_arguments
        from mocose_hf.training.validation.arguments import (
            SCHEDULES_BY_SCORE,
            check_augmentations,
            check_loading,
            check_precision,
            check_scheduler,
            check_values,
            follow_score,
        )
        from mocose_hf.training.validation.transformers_options import check_idle_options

        adopt_launcher_settings(self)
        check_values(self)
        check_augmentations(self)
        if self.stop_on_collapse and self.collapse_check_steps == 0:
            raise ValueError("`stop_on_collapse` looks at nothing where `collapse_check_steps` is 0; raise it.")
        self._check_schedule()
        selects = self.load_best_model_at_end or self.save_strategy == "best"
        selects = selects or self.lr_scheduler_type in SCHEDULES_BY_SCORE
        if self.metric_for_best_model is None and selects:
            self.metric_for_best_model = DEV_SPEARMAN
        if self.greater_is_better is None:
            self.greater_is_better = is_greater_better(self.best_metric)
        if self.eval_on_start is None:
            self.eval_on_start = self.load_best_model_at_end
        check_idle_options(self)
        if self.save_steps is None:
            evaluates_by_steps = IntervalStrategy(self.eval_strategy) == IntervalStrategy.STEPS
            self.save_steps = self.eval_steps if evaluates_by_steps else 500
        validate_deepspeed_arguments(self)
        check_precision(self)
        accelerator_is_ours = self.accelerator_config is None
        super().__post_init__()
        follow_score(self)
        check_scheduler(self)
        if self.accelerator_config.dispatch_batches is None:
            # Where accelerate decides, it joins the batches of a stream, which are padded to different lengths.
            self.accelerator_config.dispatch_batches = False
        check_loading(self)
        keep_weights_in_float32(self)
        if self.device.type == "cpu":
            self.dataloader_pin_memory = False
        if self.device.type == "cuda" and self.dataloader_pin_memory and accelerator_is_ours:
            # A copy of a batch that is waited for waits for the step before as well.
            self.accelerator_config.non_blocking = True

    def _check_schedule(self) -> None:
        if self.ema_schedule not in EMA_SCHEDULES:
            raise ValueError(f"`ema_schedule` is one of {', '.join(EMA_SCHEDULES)}, but is {self.ema_schedule!s:.40}.")
        if self.ema_schedule == "constant_distance":
            for name in ("ema_decay_end", "ema_schedule_steps"):
                if getattr(self, name) != type(self).__dataclass_fields__[name].default:
                    raise ValueError(
                        f"`{name}` is {getattr(self, name)}, but is of the schedule cosine, and `ema_schedule` is "
                        "constant_distance; leave one of them out."
                    )
