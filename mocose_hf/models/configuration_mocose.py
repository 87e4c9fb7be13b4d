"""The configuration of MoCoSE: heads, target, queue and the terms of the loss."""

import os
from importlib import import_module

import torch
from transformers import AutoConfig

from mocose_hf.models.configuration_base import ContrastiveConfig, option
from mocose_hf.models.queue_weighting import parse_window

QUEUE_DTYPES = ("float32", "bfloat16")
IN_BATCH_QUEUES = ("none", "target", "online")
TERM_WEIGHTS = ("queue_weight", "in_batch_weight", "relation_weight", "reshaping_weight")

CHUNKED_FROM = 65_536
"""Queue size from which the loss processes the queue chunk by chunk."""


class MoCoSEConfig(ContrastiveConfig):
    """Configure a `MoCoSEModel` or `MoCoSEForPreTraining`.

    Defaults are those of the paper (https://arxiv.org/abs/2202.13093), section 4. `ContrastiveConfig` documents the
    fields that all algorithms share.

    Raises:
        ValueError: If a value is outside its range or has no effect, or a name is no field of this class.
    """

    model_type = "mocose"

    projection_dim: int | None = option(
        None, "Width D of queries and keys; the encoder's hidden size if not given (paper: 768, which is that)."
    )
    num_projection_layers: int = option(1, "Layers of the projection head, 0 for none (paper: 1).")
    num_predictor_layers: int = option(2, "Layers of the predictor of the online branch, 0 for none (paper: 2).")
    head_dropout_prob: float = option(0.1, "Dropout of projection head and predictor, in [0, 1) (paper: 0.1).")
    share_embeddings: bool = option(
        True,
        "Whether one trainable embedding layer serves both branches instead of an EMA copy. Of families without such "
        "a layer, as most causal ones, it is the table of token embeddings (paper: true).",
    )
    in_batch_negatives: bool = option(
        True, "Whether the other keys of the batch are negatives besides the queue (paper: true)."
    )
    queue_size: int = option(512, "Number K of keys that the queue holds, 0 for no queue (paper: 512).")
    queue_init_size: int | None = option(
        None,
        "Number of random unit rows that the queue starts with, at most queue_size; a quarter of it if not given "
        "(paper: 128, a quarter of 512).",
    )
    queue_dtype: str = option(
        "float32",
        "Type of the stored keys: float32, or bfloat16, which takes half the memory and changes a cosine by 0.004 at "
        "most and typically by 0.0001; the loss is computed in float32 (paper: float32).",
    )
    queue_window: str = option(
        "all",
        "Which rows of the queue are negatives, by age: all, newest (newest half), middle (middle half), oldest "
        "(oldest half), without_middle (newest and oldest quarter), or ranges such as 0-0.25,0.5-0.75, as fractions "
        "of the filled queue from 0, the newest row, to 1, the oldest (paper: all; middle is best in its Table 8).",
    )
    queue_window_softness: float = option(
        0.0,
        "Width of the sigmoid that softens the edges of queue_window, as a fraction of the filled queue, 0 or above; "
        "0 for hard edges (paper: 0).",
    )
    queue_half_life: float | None = option(
        None,
        "Optimizer steps after which a row of the queue counts half; a negative value doubles its weight instead. Its "
        "size is at least 1e-6. All ages count alike if not given (paper: not given).",
    )
    queue_centroids: int = option(
        0,
        "Number of k-means centroids that replace the rows of the queue as negatives, at most queue_size; 1 is their "
        "mean, 0 keeps the rows; above 1 needs scikit-learn (paper: 0; in its talk, 5 scores better than 0).",
    )
    queue_positives: int = option(
        0,
        "Number of queue rows nearest to a query's own key that become positives instead of negatives, as in NNCLR; "
        "a key of the same sentence is neither (paper: 0).",
    )
    queue_positive_weight: float = option(
        1.0, "Weight of each of these positives relative to the query's own key; above 0 (paper: none)."
    )
    queue_positive_similarity: float = option(
        -1.0, "Minimum cosine with the query's own key for a row to become a positive, in [-1, 1] (paper: none)."
    )
    queue_weight: float = option(
        1.0,
        "Weight of the momentum term: queries against the keys of the target and the queue; 0 or above. At 0 there "
        "is no target unless relation_weight, reshaping_weight or in_batch_queue needs one (paper: 1).",
    )
    in_batch_weight: float = option(
        0.0,
        "Weight of the in-batch term: the online embeddings of the two views against each other, with gradient "
        "through both as in SimCSE; 0 or above (paper: 0).",
    )
    in_batch_queue: str = option(
        "none",
        "Which past keys are negatives of the in-batch term: none, target (the target's keys, as in ESimCSE) or "
        "online (the online branch's own, as in cross-batch memory) (paper: none).",
    )
    relation_weight: float = option(
        0.0,
        "Weight of the relation term, which trains a query to have its key's similarities to the queue, as in ReSSL; "
        "0 or above (paper: 0).",
    )
    relation_temperature: float = option(
        0.1, "Temperature τ of the query's similarities in the relation term, above 0 (paper: none; ReSSL: 0.1)."
    )
    relation_target_temperature: float = option(
        0.05,
        "Temperature τ_t of the key's similarities in the relation term, above 0. Below relation_temperature, "
        "neighbours move together; above it, apart (paper: none; ReSSL: 0.04).",
    )
    reshaping_weight: float = option(
        0.0,
        "Weight of the reshaping term, which draws a query to its key, as reshaping_whitening and "
        "reshaping_smoothing reshape it by the queue; 0 or above (paper: 0).",
    )
    reshaping_whitening: float = option(
        0.0,
        "How far the reshaping term whitens keys by the mean and covariance of the queue, in [0, 1]: 0 is not at all, "
        "1 is fully. Whitening moves sentences apart (paper: none).",
    )
    reshaping_smoothing: float = option(
        0.0,
        "Fraction of the mean of its neighbours in the queue that the reshaping term mixes into a key, in [0, 1). "
        "Smoothing moves neighbours together (paper: none).",
    )
    reshaping_temperature: float = option(
        0.05, "Temperature of the weights of these neighbours, above 0 (paper: none)."
    )
    symmetric_loss: bool = option(
        False,
        "Whether each term is also computed from the key view to the query view, with a queue of its own, and the two "
        "are averaged (paper: false).",
    )

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        import_module("mocose_hf.models.modeling_mocose")  # registers the models of this configuration with AutoModel

    def prepare(self) -> None:  # noqa: D102
        if self.queue_init_size is None and isinstance(self.queue_size, int):
            self.queue_init_size = self.queue_size // 4
        super().prepare()

    @property
    def embedding_dim(self) -> int:
        """D, the width of queries and keys."""
        return self.hidden_size if self.projection_dim is None else self.projection_dim

    @property
    def has_target(self) -> bool:
        """Whether a term needs the target branch."""
        return self.queue_weight > 0.0 or self.follows_target or self.in_batch_queue == "target"

    @property
    def takes_hard_negatives(self) -> bool:
        """Whether there is an in-batch term, which contrasts queries with hard negatives of a batch."""
        return self.in_batch_weight > 0.0

    @property
    def has_heads(self) -> bool:
        """Whether anything is trained besides the encoder."""
        return self.use_pooler or self.num_projection_layers > 0 or self.num_predictor_layers > 0

    @property
    def has_other_terms(self) -> bool:
        """Whether the loss has more than the momentum term from the query view to the key view."""
        return self.encodes_both_views_online or self.follows_target

    @property
    def follows_target(self) -> bool:
        """Whether a term draws queries towards what target and queue make of their keys, without negatives."""
        return self.relation_weight > 0.0 or self.reshaping_weight > 0.0

    @property
    def encodes_both_views_online(self) -> bool:
        """Whether the online branch encodes both views."""
        return self.in_batch_weight > 0.0 or self.symmetric_loss

    @property
    def queue_slots(self) -> int:
        """Number of rows that the queue has room for."""
        return self.queue_size

    def _validate_values(self) -> None:
        super()._validate_values()
        self._validate_fraction("head_dropout_prob")
        for name in ("num_projection_layers", "num_predictor_layers", "queue_size", "queue_init_size"):
            self._validate_not_negative(name)
        if self.projection_dim is not None and self.projection_dim < 1:
            raise ValueError(f"`projection_dim` is at least 1, but is {self.projection_dim}.")
        if self.num_projection_layers == 0 and self.embedding_dim != self.hidden_size:
            raise ValueError(
                f"`projection_dim` {self.projection_dim} needs a projection head, but `num_projection_layers` is 0; "
                f"raise it or leave `projection_dim` at the hidden size {self.hidden_size}."
            )
        if self.peft_config is not None and not self.share_embeddings:
            raise ValueError(
                "`share_embeddings` is false, but with an adapter both branches share the whole frozen encoder; leave "
                "it out."
            )
        self._validate_queue()
        self._validate_queue_window()
        self._validate_queue_centroids()
        self._validate_queue_positives()
        self._validate_terms()
        self._validate_reshaping()
        self._validate_in_batch_queue()

    def _validate_queue(self) -> None:
        self._validate_choice("queue_dtype", QUEUE_DTYPES)
        if self.queue_init_size > self.queue_size:
            raise ValueError(
                f"`queue_init_size` is {self.queue_init_size} but `queue_size` is {self.queue_size}; lower the first "
                "or raise the second."
            )
        if self.queue_size == 0 and not self.in_batch_negatives:
            raise ValueError("There are no negatives with `queue_size` 0 and `in_batch_negatives` false; allow one.")

    def _validate_queue_window(self) -> None:
        ranges = parse_window(self.queue_window)
        self._validate_not_negative("queue_window_softness")
        if self.queue_window_softness > 0.0 and ranges == parse_window("all"):
            raise ValueError(
                f"`queue_window_softness` is {self.queue_window_softness}, but `queue_window` {self.queue_window} has "
                "no edges; choose another window or leave the softness at 0."
            )
        half_life = self.queue_half_life
        if half_life is not None and not 1e-6 <= abs(half_life) < float("inf"):
            raise ValueError(
                f"`queue_half_life` is a number of optimizer steps whose size is at least 1e-6, but is {half_life}; "
                "leave it out if all ages should count alike."
            )
        if self.queue_size == 0:
            for name in ("queue_window", "queue_half_life"):
                self._validate_idle(name, "`queue_size` is 0", "leave it out or allow a queue")

    def _validate_queue_centroids(self) -> None:
        if not 0 <= self.queue_centroids <= self.queue_size:
            raise ValueError(
                f"`queue_centroids` lies in [0, `queue_size`], but is {self.queue_centroids} and `queue_size` is "
                f"{self.queue_size}."
            )
        if self.queue_centroids == 0:
            return
        for name, reason in (
            ("mask_same_sentence", "excludes rows by their sentence"),
            ("queue_positives", "takes rows of the queue as positives"),
            ("relation_weight", "compares with rows of the queue"),
            ("reshaping_weight", "compares with rows of the queue"),
        ):
            if getattr(self, name):
                raise ValueError(
                    f"`queue_centroids` {self.queue_centroids} replaces the rows of the queue, but `{name}` {reason}; "
                    "leave out one of the two."
                )

    def _validate_queue_positives(self) -> None:
        count = self.queue_positives
        if not 0 <= count <= self.queue_size:
            raise ValueError(
                f"`queue_positives` lies between 0 and `queue_size`, but is {count} and that is {self.queue_size}."
            )
        self._validate_positive("queue_positive_weight")
        if not -1.0 <= self.queue_positive_similarity <= 1.0:
            raise ValueError(f"`queue_positive_similarity` lies in [-1, 1], but is {self.queue_positive_similarity}.")
        if count == 0:
            for name in ("queue_positive_weight", "queue_positive_similarity"):
                self._validate_idle(name, "`queue_positives` is 0", "raise that, or leave it out")
        if count and self.queue_size >= CHUNKED_FROM:
            raise ValueError(
                f"`queue_positives` needs a `queue_size` below {CHUNKED_FROM}, but it is {self.queue_size}; lower it."
            )

    def _validate_terms(self) -> None:
        """Raise a `ValueError` if no term has a weight, or an option has no effect on the terms that have one."""
        for name in TERM_WEIGHTS:
            self._validate_not_negative(name)
        if not any(getattr(self, name) for name in TERM_WEIGHTS):
            *first, last = (f"`{name}`" for name in TERM_WEIGHTS)
            raise ValueError(f"{', '.join(first)} and {last} are all 0, so there is no loss; raise one.")
        for name in ("relation_temperature", "relation_target_temperature"):
            self._validate_positive(name)
            if self.relation_weight == 0.0:
                self._validate_idle(name, "`relation_weight` is 0", "raise that, or leave it out")
        for name in ("relation_weight", "reshaping_weight"):
            if getattr(self, name) > 0.0 and self.queue_size == 0:
                raise ValueError(f"`{name}` compares with the queue, but `queue_size` is 0; raise it.")
        contrasts_queue = self.queue_weight > 0.0 or (self.in_batch_weight > 0.0 and self.in_batch_queue != "none")
        for name, has_effect, remedy in (
            ("temperature", self.queue_weight > 0.0 or self.in_batch_weight > 0.0, "raise `queue_weight`"),
            ("in_batch_negatives", self.queue_weight > 0.0, "raise `queue_weight`"),
            ("queue_positives", contrasts_queue, "raise `queue_weight`, or set `in_batch_queue`"),
        ):
            if not has_effect:
                self._validate_idle(name, "no term of the loss uses it", f"leave it out, or {remedy}")

    def _validate_reshaping(self) -> None:
        if not 0.0 <= self.reshaping_whitening <= 1.0:
            raise ValueError(f"`reshaping_whitening` lies in [0, 1], but is {self.reshaping_whitening}.")
        self._validate_fraction("reshaping_smoothing")
        self._validate_positive("reshaping_temperature")
        for name, cause in (
            ("reshaping_whitening", "reshaping_weight"),
            ("reshaping_smoothing", "reshaping_weight"),
            ("reshaping_temperature", "reshaping_smoothing"),
        ):
            if getattr(self, cause) == 0.0:
                self._validate_idle(name, f"`{cause}` is 0", "raise that, or leave it out")

    def _validate_in_batch_queue(self) -> None:
        self._validate_choice("in_batch_queue", IN_BATCH_QUEUES)
        if self.in_batch_queue != "none" and (self.in_batch_weight == 0.0 or self.queue_size == 0):
            raise ValueError(
                f"`in_batch_queue` is {self.in_batch_queue}, but `in_batch_weight` is {self.in_batch_weight} and "
                f"`queue_size` {self.queue_size}; raise both above 0, or leave it at none."
            )
        if self.in_batch_queue == "online" and self.has_target:
            raise ValueError(
                "`in_batch_queue` online fills the queue from the online branch, but another term needs it from the "
                "target; set the weights of the other terms to 0, or `in_batch_queue` to target."
            )
        if not self.has_target and self.in_batch_queue == "none" and self.queue_size > 0:
            raise ValueError(
                f"`queue_size` is {self.queue_size}, but `queue_weight` is 0 and `in_batch_queue` is none, so no term "
                "uses the queue; set `queue_size` to 0, or raise the weight."
            )


def validate_resources(config: MoCoSEConfig) -> None:
    """Raise a `ValueError` if this machine lacks the memory or a library to train with a configuration."""
    width, layers = config.embedding_dim, config.num_projection_layers
    projection = width * (config.hidden_size + (layers - 1) * width) if layers else 0
    head_bytes = 4 * (2 * projection + config.num_predictor_layers * width**2)
    row_bytes = getattr(torch, config.queue_dtype).itemsize * width + 16
    memory = _memory_bytes()
    for part, size, remedy in (
        (f"Heads {width} wide", head_bytes, "`projection_dim`, `num_projection_layers` or `num_predictor_layers`"),
        (f"A queue of {config.queue_slots} rows", config.queue_slots * row_bytes, "`queue_size` or `projection_dim`"),
    ):
        if memory is not None and size > memory:
            raise ValueError(
                f"{part}: {size // 2**30} GiB are needed, but this machine has {memory // 2**30}; lower {remedy}."
            )
    if config.queue_centroids > 1:
        from mocose_hf.models.queue_centroids import validate_clustering  # which imports torch._dynamo

        validate_clustering()


def _memory_bytes() -> int | None:
    """Return the size of this machine's memory, None if the system does not report it."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None


AutoConfig.register(MoCoSEConfig.model_type, MoCoSEConfig, exist_ok=True)
