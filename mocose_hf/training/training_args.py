"""The training arguments: those of transformers, those of momentum contrast, and the paper's recipe as defaults."""

from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import TrainingArguments
from transformers.trainer_utils import IntervalStrategy

from mocose_hf.parallel.launcher import adopt_launcher_settings

EMA_SCHEDULES = ("cosine", "constant_distance")


@dataclass
class MoCoSETrainingArguments(TrainingArguments):
    """`transformers.TrainingArguments` with the fields of momentum contrast and the paper's recipe as defaults.

    The help text of each field has its meaning, range and value in the paper (https://arxiv.org/abs/2202.13093,
    section 4); `run_mocose.py --help` prints it. All other fields are those of transformers
    (https://huggingface.co/docs/transformers/main_classes/trainer#transformers.TrainingArguments).

    Raises:
        ValueError: If a value is outside its range.
    """

    ema_decay: float = field(
        default=0.85,
        metadata={"help": "EMA decay η of the target at the start of its cosine schedule, in [0, 1] (paper: 0.85)."},
    )
    ema_schedule: str = field(
        default="cosine",
        metadata={
            "help": "Schedule of η: cosine, from ema_decay up to ema_decay_end; or constant_distance, higher while "
            "the queue fills, so that the traceable distance 1/(1−η) + fill / keys per step always is that of a full "
            "queue (paper: cosine)."
        },
    )
    ema_decay_end: float = field(
        default=1.0,
        metadata={"help": "EMA decay at the end of the cosine schedule, in [0, 1]; 1 stops the target (paper: 1.0)."},
    )
    ema_schedule_steps: int | None = field(
        default=None,
        metadata={"help": "Optimizer steps of the decay schedule; default: the length of the run (released: 15000)."},
    )
    max_seq_length: int = field(
        default=32,
        metadata={
            "help": "Maximum tokens of a training input; evaluation and export use the encoder's limit (paper: 32)."
        },
    )
    padding_free: bool = field(
        default=False,
        metadata={
            "help": "Whether to pack sentences instead of padding them: the same loss for less work. Encoders that "
            "cannot pack warn and pad."
        },
    )

    prompt: str | None = field(
        default=None,
        metadata={
            "help": "Text to put before every sentence in training. The model is saved with it as its default prompt, "
            "instead of its own prompts; an empty text removes those."
        },
    )
    query_prompt: str | None = field(
        default=None,
        metadata={
            "help": "Text to put before queries in training, such as 'query: '. The model is saved with it as its "
            "prompt 'query', instead of its own prompts."
        },
    )
    key_prompt: str | None = field(
        default=None,
        metadata={
            "help": "Text to put before keys and hard negatives in training, such as 'passage: '. The model is saved "
            "with it as its prompt 'document'."
        },
    )

    augment_view: str = field(
        default="query",
        metadata={
            "help": "View that crop_share, deletion_rate, repetition_rate, position_shuffle, token_cutoff, "
            "feature_cutoff and embedding_noise change: query, key or both. Evaluation encodes whole sentences."
        },
    )
    crop_share: float = field(
        default=1.0,
        metadata={
            "help": "Minimum share of a sentence's tokens that a view keeps as one random span, in (0, 1], as in "
            "Contriever; 1 keeps all (paper: 1)."
        },
    )
    deletion_rate: float = field(
        default=0.0,
        metadata={"help": "Probability of deleting each token of a view, in [0, 1); TSDAE: 0.6 (paper: 0)."},
    )
    repetition_rate: float = field(
        default=0.0,
        metadata={
            "help": "Maximum share of tokens that a view repeats, in [0, 1]; ESimCSE: 0.32 of the words (paper: 0)."
        },
    )
    position_shuffle: bool = field(
        default=False,
        metadata={
            "help": "Whether to permute the tokens of each sentence, except [CLS], [SEP] and padding (paper: harms)."
        },
    )
    token_cutoff: float = field(
        default=0.0,
        metadata={
            "help": "Share of each sentence's tokens whose word embeddings are set to 0, in [0, 1) (paper: 0; 0.1 "
            "harms)."
        },
    )
    feature_cutoff: float = field(
        default=0.0,
        metadata={
            "help": "Share of features that are set to 0 in all word embeddings of a sentence, in [0, 1) (paper: 0; "
            "0.01 and 0.1 harm)."
        },
    )
    embedding_noise: float = field(
        default=0.0,
        metadata={
            "help": "Size of the random sign noise on the word embeddings, 0 or above; the control for fgsm_epsilon "
            "(paper: 0)."
        },
    )
    fgsm_epsilon: float = field(
        default=0.0,
        metadata={
            "help": "Step size of FGSM on the query view's word embeddings, 0 or above. 5e-9 is about the last "
            "float32 digit of an embedding, and smaller values have no effect. Costs half a step more (paper: 5e-9)."
        },
    )
    key_augmentation: str | None = field(
        default=None,
        metadata={
            "help": "Augmentation of the target's text: typos, or synonyms from WordNet (paper: none; both harm)."
        },
    )
    key_augmentation_rate: float = field(
        default=0.1,
        metadata={"help": "Share of the changeable words that key_augmentation changes, in (0, 1]."},
    )

    collapse_check_steps: int = field(
        default=20,
        metadata={"help": "Optimizer steps between checks for a collapse of the embeddings; 0 for none."},
    )
    stop_on_collapse: bool = field(
        default=False, metadata={"help": "Whether a collapse ends the run instead of only warning."}
    )
    queue_prefill: bool = field(
        default=False,
        metadata={
            "help": "Whether to fill the queue with keys of random training sentences instead of random rows; costs "
            "one forward of queue_size sentences (paper: false)."
        },
    )
    queue_monitor_steps: int = field(
        default=0,
        metadata={
            "help": "Optimizer steps between measurements of the queue: the drift of its keys and their share of the "
            "gradient, in the log and in queue_monitor.jsonl and .png; 0 for none."
        },
    )

    learning_rate: float = field(
        default=3e-5,
        metadata={"help": "Peak learning rate of AdamW (paper: 3e-5 for BERT-base, 1e-5 for BERT-large)."},
    )
    head_learning_rate: float | None = field(
        default=None,
        metadata={
            "help": "Peak learning rate of pooler, projection head and predictor, which are new; default: "
            "learning_rate (paper: the same)."
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
        metadata={"help": "Whether to drop the last, smaller batch, so that all have the same number of negatives."},
    )
    eval_steps: float | None = field(
        default=50, metadata={"help": "Optimizer steps between evaluations on the development sets (paper: 100)."}
    )
    eval_on_start: bool | None = field(
        default=None,
        metadata={
            "help": "Whether to score the start too, so that it can be the best checkpoint; default: true with "
            "load_best_model_at_end or a development set."
        },
    )
    save_steps: float | None = field(
        default=None,
        metadata={
            "help": "Optimizer steps between checkpoints; default: eval_steps if there is a development set, else 500."
        },
    )
    save_total_limit: int | None = field(
        default=2, metadata={"help": "Maximum number of checkpoints; the newest and the best always stay."}
    )
    logging_steps: float = field(default=10, metadata={"help": "Optimizer steps between lines of the training log."})
    logging_nan_inf_filter: bool = field(
        default=False, metadata={"help": "Must stay false: a loss that is not finite ends the run."}
    )
    remove_unused_columns: bool = field(
        default=False, metadata={"help": "Must stay false: the collator needs the text columns."}
    )
    ddp_broadcast_buffers: bool | None = field(
        default=False, metadata={"help": "Stays false: all processes fill their queues alike."}
    )
    ddp_find_unused_parameters: bool | None = field(
        default=False,
        metadata={"help": "Set to true if some parameters of the encoder get no gradient."},
    )
    hub_strategy: str = field(
        default="end", metadata={"help": "Must stay end: the finished model is pushed once, without checkpoints."}
    )

    @property
    def global_batch_size(self) -> int:
        """Rows of one forward on all processes together.

        With `split_batches` in `accelerator_config`, `per_device_train_batch_size` is the batch of all processes.
        """
        return self.train_batch_size * (1 if self.accelerator_config.split_batches else self.world_size)

    @property
    def local_batch_size(self) -> int:
        """Rows of one forward on this process."""
        return self.global_batch_size // self.world_size

    @property
    def best_metric(self) -> str:
        """The metric that selects the best checkpoint, without `eval_`."""
        from mocose_hf.evaluation.pairs import DEV_SPEARMAN

        return str(self.metric_for_best_model or DEV_SPEARMAN).removeprefix("eval_")

    @property
    def evaluation_dtype(self) -> torch.dtype | None:
        """The dtype of `bf16_full_eval` or `fp16_full_eval`; None for the dtype of the weights."""
        if self.bf16_full_eval:
            return torch.bfloat16
        return torch.float16 if self.fp16_full_eval else None

    @property
    def evaluation_encoding(self) -> dict[str, Any]:
        """The options with which evaluations encode: `batch_size` and `autocast_dtype`."""
        return {"batch_size": self.eval_batch_size, "autocast_dtype": self.evaluation_dtype}

    def __post_init__(self):
        # Imported on use: these load datasets and the Trainer, which `--help` does not need.
        from mocose_hf.evaluation.checkpoint_selection import is_greater_better
        from mocose_hf.evaluation.pairs import DEV_SPEARMAN
        from mocose_hf.parallel.deepspeed import keep_weights_in_float32, validate_deepspeed_arguments
        from mocose_hf.training.validation.arguments import (
            SCHEDULES_BY_SCORE,
            follow_score,
            validate_augmentations,
            validate_loading,
            validate_precision,
            validate_scheduler,
            validate_values,
        )
        from mocose_hf.training.validation.transformers_options import validate_options

        adopt_launcher_settings(self)
        validate_values(self)
        validate_augmentations(self)
        if self.stop_on_collapse and self.collapse_check_steps == 0:
            raise ValueError("`stop_on_collapse` has no effect if `collapse_check_steps` is 0; raise it.")
        self._validate_schedule()
        selects = self.load_best_model_at_end or self.save_strategy == "best"
        selects = selects or self.lr_scheduler_type in SCHEDULES_BY_SCORE
        if self.metric_for_best_model is None and selects:
            self.metric_for_best_model = DEV_SPEARMAN
        if self.greater_is_better is None:
            self.greater_is_better = is_greater_better(self.best_metric)
        if self.eval_on_start is None:
            self.eval_on_start = self.load_best_model_at_end
        validate_options(self)
        if self.save_steps is None:
            evaluates_by_steps = IntervalStrategy(self.eval_strategy) == IntervalStrategy.STEPS
            self.save_steps = self.eval_steps if evaluates_by_steps else 500
        validate_deepspeed_arguments(self)
        validate_precision(self)
        accelerator_is_ours = self.accelerator_config is None
        super().__post_init__()
        follow_score(self)
        validate_scheduler(self)
        if self.accelerator_config.dispatch_batches is None:
            # By default accelerate joins the batches of a stream, which are padded to different lengths.
            self.accelerator_config.dispatch_batches = False
        validate_loading(self)
        keep_weights_in_float32(self)
        if self.device.type == "cpu":
            self.dataloader_pin_memory = False
        if self.device.type == "cuda" and self.dataloader_pin_memory and accelerator_is_ours:
            # A blocking copy of a batch would wait for the previous step too.
            self.accelerator_config.non_blocking = True

    def _validate_schedule(self) -> None:
        if self.ema_schedule not in EMA_SCHEDULES:
            raise ValueError(f"`ema_schedule` is one of {', '.join(EMA_SCHEDULES)}, but is {self.ema_schedule!s:.40}.")
        if self.ema_schedule == "constant_distance":
            for name in ("ema_decay_end", "ema_schedule_steps"):
                if getattr(self, name) != type(self).__dataclass_fields__[name].default:
                    raise ValueError(
                        f"`{name}` is {getattr(self, name)}, but belongs to the cosine schedule, and `ema_schedule` "
                        "is constant_distance; leave one of them out."
                    )
