"""The options of the command line that are not training arguments, as dataclasses."""

import re
from dataclasses import dataclass, field, fields

from mocose_hf.models.configuration_mocose import MoCoSEConfig
from mocose_hf.recipes import RECIPES


def _option(help_text: str, default=None):
    return field(default=default, metadata={"help": help_text})


LORA_OPTIONS = ("lora_r", "lora_alpha", "lora_dropout", "lora_target_modules")
"""Options of the adapter, with the names that they have in trl."""

ALL_LINEAR = "all-linear"
"""The word with which peft adapts every linear layer."""


@dataclass
class ModelArguments:
    """The encoder to start from and the training algorithm."""

    _argument_group_name = "model"

    model_name_or_path: str | None = _option(
        "Encoder to start from: a hub id or a directory with a plain, sentence-transformers or MoCoSE model."
    )
    model_revision: str | None = _option("Branch, tag or commit of a model on the hub.")
    cache_dir: str | None = _option("Directory for downloaded models.")
    attn_implementation: str | None = _option(
        "Attention of the encoder: eager, sdpa or flash_attention_2; default: the encoder's own."
    )
    recipe: str | None = _option(
        f"Named set of options: {', '.join(RECIPES)}. Configuration files and typed options override it."
    )
    merge_with_start: float = _option(
        "Share of the start in the weights of the exported encoder, in [0, 1); a larger share keeps more of what the "
        "start can do on other text (WiSE-FT), and less of the training.",
        default=0.0,
    )
    use_peft: bool = _option(
        "Whether to train a LoRA adapter and the heads instead of the encoder, which both branches then share; needs "
        "peft.",
        default=False,
    )
    lora_r: int | None = _option("Rank r of the adapter, at least 1; default: 16.")
    lora_alpha: int | None = _option("Scale α of the adapter, which adds α / r times its product; default: 32.")
    lora_dropout: float | None = _option("Dropout in front of the adapter, in [0, 1); default: 0.05.")
    lora_target_modules: list[str] | None = _option(  # noqa: RUF009
        "Names of the modules that get an adapter, such as query value; default: all-linear, every linear layer."
    )
    algorithm: str = _option(
        "Training algorithm: mocose (the paper), released (the authors' code) or simcse (a baseline without target "
        "and queue).",
        default="mocose",
    )
    stale_fgsm_epsilon: float | None = _option(
        "Algorithm released only: step ε that moves word embeddings along the sign of the previous batch's gradient; "
        "0 turns it off; default: 5e-9 (released: 5e-9)."
    )

    def __post_init__(self):
        from mocose_hf.models.registry import ALGORITHMS  # loads the models, which --help does not need

        if not 0.0 <= self.merge_with_start < 1.0:
            raise ValueError(f"`merge_with_start` lies in [0, 1), but is {self.merge_with_start}.")
        if self.algorithm not in ALGORITHMS:
            raise ValueError(f"`algorithm` is one of {', '.join(ALGORITHMS)}, but is {self.algorithm:.40}.")
        for name in ("lora_r", "lora_alpha"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"`{name}` is at least 1, but is {getattr(self, name)}.")
        if self.lora_dropout is not None and not 0.0 <= self.lora_dropout < 1.0:
            raise ValueError(f"`lora_dropout` lies in [0, 1), but is {self.lora_dropout}.")

    def peft_config(self) -> dict[str, object] | None:
        """Return the fields of the `peft.LoraConfig` to train with; None without `use_peft`."""
        if not self.use_peft:
            return None
        targets = self.lora_target_modules or [ALL_LINEAR]
        return {
            "peft_type": "LORA",
            "task_type": "FEATURE_EXTRACTION",
            "r": 16 if self.lora_r is None else self.lora_r,
            "lora_alpha": 32 if self.lora_alpha is None else self.lora_alpha,
            "lora_dropout": 0.05 if self.lora_dropout is None else self.lora_dropout,
            "target_modules": ALL_LINEAR if targets == [ALL_LINEAR] else targets,
        }


@dataclass
class DataArguments:
    """Training text, and what may be overwritten."""

    _argument_group_name = "data and output"

    train_file: list[str] | None = _option(  # noqa: RUF009
        "Training sentences: .txt (one a line), .csv, .tsv, .jsonl or .parquet; all may be compressed as .gz. Several "
        "files, or patterns in quotes such as 'notes/*.csv', count as one file."
    )
    dataset_name: str | None = _option("Dataset on the hub with the training sentences.")
    dataset_config_name: str | None = _option("Configuration of that dataset.")
    dataset_split: str = _option("Split of that dataset.", default="train")
    dataset_revision: str | None = _option("Branch, tag or commit of that dataset; default: the newest.")
    encoding: str | None = _option(
        "Encoding of `train_file`, and of development files that are not UTF-8, such as cp1252; default: UTF-8."
    )
    streaming: bool = _option(
        "Whether to read sentences during training, for text larger than memory; requires `max_steps`, ignores "
        "`num_train_epochs` and keeps duplicates.",
        default=False,
    )
    shuffle_buffer_size: int = _option(
        "Number of sentences that streaming shuffles at a time; 1 keeps the order of the file.", default=10_000
    )
    text_column: str = _option("Column with the sentences.", default="text")
    key_column: list[str] | None = _option(  # noqa: RUF009
        "Column with a second text for the key view, which turns rows into positive pairs; of several columns, each "
        "gives a pair of its own unless it is blank."
    )
    negative_column: str | None = _option(
        "Column with a hard negative for each row, or blank; it is a negative of all queries in a batch. It requires "
        "`in_batch_weight` above 0, as in the recipe pairs."
    )
    overwrite_output_dir: bool = _option(
        "Whether to replace an earlier run, or earlier scores, in `output_dir`.", default=False
    )
    dry_run: bool = _option(
        "Whether to read everything, train two steps, save and load once in a temporary directory, and print time, "
        "memory and disk that the run needs; `output_dir` stays untouched.",
        default=False,
    )
    save_only_encoder: bool = _option(
        "Whether to keep only the plain encoder, its card and the records of a finished run: no whole model and no "
        "checkpoints, so it cannot be resumed.",
        default=False,
    )
    merge_adapter: bool = _option(
        "Whether the encoder in `output_dir` has the adapter of `use_peft` merged into its weights; false writes "
        "adapter_config.json and adapter_model.safetensors, which load on top of the start.",
        default=True,
    )
    license: str | None = _option("Licence of the model for its card, such as apache-2.0.")
    language: list[str] | None = _option("Languages of the text for the model card, such as en de.")  # noqa: RUF009

    def __post_init__(self):
        if self.license is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", self.license):
            raise ValueError(
                f"`license` is the hub's name of a licence, such as apache-2.0, not {self.license!r:.40}."
            )
        for code in self.language or ():
            if not re.fullmatch(r"[a-z]{2,3}(-[A-Za-z]+)?|multilingual|code", code):
                raise ValueError(f"`language` takes ISO 639 codes, such as en or de, not {code!r:.40}.")


@dataclass
class EvaluationArguments:
    """Development sets for use during training, and tasks for the finished model."""

    _argument_group_name = "evaluation"

    validation_file: str | None = _option(
        "Development pairs: .csv, .tsv, .jsonl or .parquet with columns sentence1, sentence2, score, or a TSV without "
        "header of score, sentence, sentence; the scores may have any scale."
    )
    validation_dataset_name: str | None = _option(
        "Development pairs on the hub: a dataset with columns sentence1, sentence2, score."
    )
    validation_dataset_split: str = _option("Split of that dataset.", default="validation")
    retrieval_file: list[str] | None = _option(  # noqa: RUF009
        "Retrieval development sets: files with columns query and text, or folders in BEIR's layout; scored as "
        "NAME_ndcg_at_10, NAME_mrr_at_10 and NAME_recall_at_1, _10, _100."
    )
    label_file: list[str] | None = _option(  # noqa: RUF009
        "Labelled development sets: files with columns label and text; scored as NAME_precision_at_10 and "
        "NAME_knn_accuracy_at_1, _10 on at most 4,000 rows."
    )
    v_measure: bool = _option(
        "Whether to cluster each `label_file` by k-means as well, for NAME_v_measure; takes seconds.", default=False
    )
    dev_from_text: int = _option(
        "Number of training rows to hold out as a development set, if you have no labels: half of the words of a row "
        "must retrieve the other half, or in pairs, the text its key; 0 for none.",
        default=0,
    )
    senteval_dir: str | None = _option(
        "Folder in SentEval's layout, for STS-B development pairs and all tasks; default: STS tasks come from the hub."
    )
    eval_tasks: list[str] | None = _option(  # noqa: RUF009
        "Tasks for the finished model: sts, transfer, geometry, or single ones such as sts12 stsb sickr mr trec; "
        "default: sts if `do_eval` is given alone."
    )
    report_test_selection: bool = _option(
        "Whether to score the STS test sets at each evaluation, as the authors' code does, and report the gain of "
        "selecting the checkpoint on them; `metric_for_best_model` still selects the kept one.",
        default=False,
    )
    allow_partial_tasks: bool = _option(
        "Whether to score tasks whose files do not have the published number of examples.", default=False
    )

    def __post_init__(self):
        if self.dev_from_text < 0:
            raise ValueError(f"`dev_from_text` is a number of rows, 0 or above, but is {self.dev_from_text}.")
        if self.eval_tasks is not None:
            self.eval_tasks = [name for word in self.eval_tasks for name in word.replace(",", " ").lower().split()]
            if not self.eval_tasks:
                raise ValueError("`eval_tasks` names nothing; give sts, transfer, geometry or single tasks.")


_CONFIG_FIELDS = {f.name: f for f in fields(MoCoSEConfig)}


def _config_option(name: str, **default):
    """Declare an option with the default and the help text of the field of `MoCoSEConfig`."""
    config_field = _CONFIG_FIELDS[name]
    return _option(config_field.metadata["help"], **({"default": config_field.default} | default))


@dataclass
class MethodArguments:
    """The options of `MoCoSEConfig`, which declares their defaults and help texts."""

    _argument_group_name = "method"

    # None keeps the pooling of the model to start from.
    pooling_mode: str | None = _config_option("pooling_mode", default=None)
    use_pooler: bool = _config_option("use_pooler")
    whitening: float = _config_option("whitening")
    encoder_dropout_prob: float | None = _config_option("encoder_dropout_prob")
    temperature: float = _config_option("temperature")
    mask_same_sentence: bool = _config_option("mask_same_sentence")
    projection_dim: int | None = _config_option("projection_dim")
    num_projection_layers: int = _config_option("num_projection_layers")
    num_predictor_layers: int = _config_option("num_predictor_layers")
    head_dropout_prob: float = _config_option("head_dropout_prob")
    share_embeddings: bool = _config_option("share_embeddings")
    in_batch_negatives: bool = _config_option("in_batch_negatives")
    queue_size: int = _config_option("queue_size")
    queue_init_size: int | None = _config_option("queue_init_size")
    queue_dtype: str = _config_option("queue_dtype")
    queue_window: str = _config_option("queue_window")
    queue_window_softness: float = _config_option("queue_window_softness")
    queue_half_life: float | None = _config_option("queue_half_life")
    queue_centroids: int = _config_option("queue_centroids")
    queue_positives: int = _config_option("queue_positives")
    queue_positive_weight: float = _config_option("queue_positive_weight")
    queue_positive_similarity: float = _config_option("queue_positive_similarity")
    queue_weight: float = _config_option("queue_weight")
    in_batch_weight: float = _config_option("in_batch_weight")
    in_batch_queue: str = _config_option("in_batch_queue")
    relation_weight: float = _config_option("relation_weight")
    relation_temperature: float = _config_option("relation_temperature")
    relation_target_temperature: float = _config_option("relation_target_temperature")
    reshaping_weight: float = _config_option("reshaping_weight")
    reshaping_whitening: float = _config_option("reshaping_whitening")
    reshaping_smoothing: float = _config_option("reshaping_smoothing")
    reshaping_temperature: float = _config_option("reshaping_temperature")
    symmetric_loss: bool = _config_option("symmetric_loss")
