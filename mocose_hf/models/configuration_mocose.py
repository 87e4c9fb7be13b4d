"""What a saved MoCoSE model needs to be rebuilt."""

import copy
import difflib
import os
from dataclasses import MISSING, field, fields
from importlib import import_module

import torch
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from mocose_hf.models.encoder_checks import validate_family
from mocose_hf.models.pooling import POOLING_MODES
from mocose_hf.models.queue_weighting import parse_window

SIMILARITY_FUNCTIONS = ("cosine", "dot", "euclidean", "manhattan")
QUEUE_DTYPES = ("float32", "bfloat16")
IN_BATCH_QUEUES = ("none", "target", "online")
TERM_WEIGHTS = ("queue_weight", "in_batch_weight", "relation_weight", "reshaping_weight")

CHUNKED_FROM = 65_536
"""Size of the queue from which the loss passes over it chunk by chunk."""

_DROPOUT_FIELDS = (
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "dropout",
    "attention_dropout",
    "embedding_dropout",
    "mlp_dropout",
    "hidden_dropout",
    "activation_dropout",
    "resid_pdrop",
    "embd_pdrop",
    "attn_pdrop",
)
"""The names under which the encoder families keep the dropout of their layers."""

EMBEDDING_SETTINGS = (
    "max_seq_length",
    "do_lower_case",
    "prompts",
    "default_prompt_name",
    "include_prompt",
    "normalize",
    "truncate_dim",
    "similarity_fn_name",
)
"""Fields that a sentence-transformers model brings along, beside its pooling. No command line has them as options."""

_KEPT_BY_TRANSFORMERS = {
    "_commit_hash",
    "attn_implementation",
    "experts_implementation",
    "model_type",
    "name_or_path",
    "num_labels",
    "output_attentions",
    "per_layer_config",
    "torch_dtype",
    "transformers_version",
    "use_cache",
}
"""Names that transformers itself writes into a configuration or reads from one."""


def _option(default, help: str):
    return field(default=default, metadata={"help": help})


def _of_encoder(name: str, doc: str, default=None) -> property:
    """Make a property that answers, and is set, for the encoder's own field."""

    def get(config):
        return getattr(config.encoder_config, name, default)

    def set_(config, value):
        setattr(config.encoder_config, name, value)

    return property(get, set_, doc=doc)


def _memory() -> int | None:
    """Return the bytes of memory of this machine, None where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None


class MoCoSEConfig(PreTrainedConfig):
    """Configure a `MoCoSEModel` or `MoCoSEForPreTraining`.

    Defaults are those of the paper (https://arxiv.org/abs/2202.13093), section 4. Each field's range stands in its
    help text, which `run_mocose.py --help` prints. `hidden_size`, `vocab_size`, `initializer_range` and the ids of
    special tokens are the encoder's.

    Args:
        encoder_config: The configuration of the encoder, as an object or as a dict with `model_type`; BERT-base where
            None.
        max_seq_length: Longest input of `encode` in tokens; None for what tokenizer and encoder allow.
        do_lower_case: Whether text is put in lower case before it is tokenised, in training too.
        prompts: Texts that may be put before a sentence, by name; None for none.
        default_prompt_name: The prompt that is put before every sentence, in training too; None for none.
        include_prompt: Whether the tokens of the prompt are pooled.
        normalize: Whether `encode` scales embeddings to length 1. `pooler_output` is as it is pooled.
        truncate_dim: Number of leading dimensions that `encode` returns; None for all. Training uses all.
        similarity_fn_name: How embeddings are compared: cosine, dot, euclidean or manhattan. Scores on pairs go by it;
            training goes by cosine.

    Raises:
        ValueError: Where a value is outside its range or a name is no field of this class.
    """

    model_type = "mocose"
    sub_configs_defaults = {"encoder_config": SubConfigSpec(AutoConfig, model_type="bert")}

    encoder_config: PreTrainedConfig | dict | None = None
    pooling_mode: str = _option(
        "cls",
        "How tokens become the sentence embedding: cls, mean, max or lasttoken; the model's own by default, else cls "
        "(paper).",
    )
    use_pooler: bool = _option(
        True,
        "Whether a dense layer H to H stands between the pooled embedding and the heads while training. If it is "
        "false and there are no projection and predictor layers, the loss compares the sentence embeddings "
        "themselves (paper: true).",
    )
    projection_dim: int | None = _option(
        None, "Width D of queries and keys; the encoder's hidden size where not given (paper: 768, which is that)."
    )
    num_projection_layers: int = _option(1, "Layers of the projection head, 0 for none (paper: 1).")
    num_predictor_layers: int = _option(2, "Layers of the predictor of the online branch, 0 for none (paper: 2).")
    head_dropout_prob: float = _option(0.1, "Dropout of projection head and predictor, in [0, 1) (paper: 0.1).")
    encoder_dropout_prob: float | None = _option(
        None, "Dropout of all encoder layers, in [0, 1); the encoder's own where not given (paper: 0.1, BERT's own)."
    )
    temperature: float = _option(0.05, "Temperature τ of the contrastive loss, above 0 (paper: 0.05).")
    in_batch_negatives: bool = _option(
        True, "Whether the other keys of the batch are negatives beside the queue (paper: true)."
    )
    queue_weight: float = _option(
        1.0,
        "Weight of the momentum term: queries against the keys of the target and the queue; 0 or above. At 0 there "
        "is no target unless relation_weight, reshaping_weight or in_batch_queue needs one (paper: 1).",
    )
    in_batch_weight: float = _option(
        0.0,
        "Weight of the in-batch term: the online embeddings of the two views against each other, with gradient "
        "through both sides as in SimCSE; 0 or above (paper: 0).",
    )
    relation_weight: float = _option(
        0.0,
        "Weight of the relation term, by which a query takes over the similarities of its key to the queue; 0 or "
        "above (paper: 0; the term is that of ReSSL).",
    )
    relation_temperature: float = _option(
        0.1, "Temperature τ of the query's similarities in the relation term, above 0 (paper: none; ReSSL: 0.1)."
    )
    relation_target_temperature: float = _option(
        0.05,
        "Temperature τ_t of the key's similarities in the relation term, above 0. Below relation_temperature, "
        "neighbours move together; above it, apart (paper: none; ReSSL: 0.04).",
    )
    reshaping_weight: float = _option(
        0.0,
        "Weight of the reshaping term, which draws a query to its key, as reshaping_whitening and "
        "reshaping_smoothing reshape it by the queue; 0 or above (paper: 0).",
    )
    reshaping_whitening: float = _option(
        0.0,
        "How far the reshaping term whitens keys by the mean and covariance of the queue, in [0, 1]: 0 is not at all, "
        "1 is fully. Whitening moves sentences apart (paper: none).",
    )
    reshaping_smoothing: float = _option(
        0.0,
        "Share of the mean of its neighbours in the queue that the reshaping term puts into a key, in [0, 1). "
        "Smoothing moves neighbours together (paper: none).",
    )
    reshaping_temperature: float = _option(
        0.05, "Temperature of the weights of these neighbours, above 0 (paper: none)."
    )
    symmetric_loss: bool = _option(
        False,
        "Whether each term also runs the other way round, from the key view to the query view, with a queue of its "
        "own; the two directions are averaged (paper: false).",
    )
    in_batch_queue: str = _option(
        "none",
        "Which past keys are negatives of the in-batch term: none, target (the target's keys, as in ESimCSE) or "
        "online (the online branch's own, as in cross-batch memory) (paper: none).",
    )
    queue_size: int = _option(512, "Number K of keys the queue holds, 0 for no queue (paper: 512).")
    queue_init_size: int | None = _option(
        None,
        "Number of random unit rows the queue starts with, at most queue_size; a quarter of it if not given "
        "(paper: 128, a quarter of 512).",
    )
    queue_dtype: str = _option(
        "float32",
        "What the queue holds its keys in: float32, or bfloat16, which takes half the memory and changes cosines by "
        "0.004 at most and 0.0001 as a rule; the loss is computed in float32 (paper: float32).",
    )
    queue_window: str = _option(
        "all",
        "Which rows of the queue count as negatives, by age: all, newest (newest half), middle (middle half), oldest "
        "(oldest half), without_middle (newest and oldest quarter), or ranges of shares of the rows in use, from 0, "
        "the newest, to 1, the oldest, such as 0-0.25,0.5-0.75 (paper: all; its Table 8 has middle ahead).",
    )
    queue_window_softness: float = _option(
        0.0,
        "Width of the logistic by which what rows count fades over the edges of queue_window, as a share of the rows "
        "in use, 0 or above; 0 for hard edges (paper: 0).",
    )
    queue_half_life: float | None = _option(
        None,
        "Optimizer steps after which a row of the queue counts half; where negative, double; any size from 1e-6 on. "
        "All ages count alike where not given (paper: not given).",
    )
    queue_centroids: int = _option(
        0,
        "Number of k-means centroids that stand for the rows of the queue that count, at most queue_size; 1 is their "
        "mean, 0 leaves the rows themselves; above 1 needs scikit-learn (paper: 0; its talk: 5 ahead of 0).",
    )
    queue_positives: int = _option(
        0,
        "Number of keys in the queue, the nearest to a query's own key, that are further positives instead of "
        "negatives; a key of the same sentence is neither (paper: 0; the idea is that of NNCLR).",
    )
    queue_positive_weight: float = _option(
        1.0, "Weight of each of these positives beside the query's own key; above 0 (paper: none)."
    )
    queue_positive_similarity: float = _option(
        -1.0, "Least cosine to the query's own key of a key that becomes a positive, in [-1, 1] (paper: none)."
    )
    mask_same_sentence: bool = _option(
        False,
        "Whether keys of a query's own sentence, in the queue and in the batch, are no negatives of it. The queue "
        "holds such keys if it reaches back to an earlier epoch. Pairs that share a text count as one sentence, but "
        "not in a stream (paper: false).",
    )
    share_embeddings: bool = _option(
        True, "Whether one trainable embedding layer serves both branches instead of an EMA copy (paper: true)."
    )

    max_seq_length: int | None = None
    do_lower_case: bool = False
    prompts: dict[str, str] | None = None
    default_prompt_name: str | None = None
    include_prompt: bool = True
    normalize: bool = False
    truncate_dim: int | None = None
    similarity_fn_name: str = "cosine"

    hidden_size = _of_encoder("hidden_size", "H, the width of the sentence embedding.")
    vocab_size = _of_encoder("vocab_size", "Number of tokens the embedding layer knows.")
    initializer_range = _of_encoder("initializer_range", "Standard deviation of new weights.", default=0.02)
    pad_token_id = _of_encoder("pad_token_id", "Id of the padding token.")
    bos_token_id = _of_encoder("bos_token_id", "Id of the token that starts a sentence.")
    eos_token_id = _of_encoder("eos_token_id", "Id of the token that ends a sentence.")

    def __post_init__(self, **kwargs):
        own = self.option_names()
        for name in kwargs:
            if name not in _KEPT_BY_TRANSFORMERS and not name.startswith("_"):
                close = difflib.get_close_matches(name, own, n=1)
                hint = f"did you mean `{close[0]}`?" if close else f"the fields are {', '.join(own)}."
                raise ValueError(f"`{name}` is no field of MoCoSEConfig; {hint}")
        kwargs.pop("transformers_version", None)
        if not isinstance(self.encoder_config, (PreTrainedConfig, dict, type(None))):
            raise ValueError(
                f"`encoder_config` is a configuration, or a dict with its `model_type`, not {self.encoder_config!r}."
            )
        self.encoder_config = copy.deepcopy(self.encoder_config)
        super().__post_init__(**kwargs)
        self.prepare()
        import_module("mocose_hf.models.modeling_mocose")  # registers the models of this configuration with AutoModel

    @classmethod
    def option_names(cls) -> list[str]:
        """Return the names of the fields that carry a help text, in the order they are declared."""
        return [f.name for f in fields(cls) if "help" in f.metadata]

    @property
    def embedding_dim(self) -> int:
        """D, the width of queries and keys."""
        return self.hidden_size if self.projection_dim is None else self.projection_dim

    @property
    def has_target(self) -> bool:
        """Whether a term needs the target branch."""
        return self.queue_weight > 0.0 or self.follows_target or self.in_batch_queue == "target"

    @property
    def has_other_terms(self) -> bool:
        """Whether the loss has more than the momentum term from the query view to the key view."""
        return self.encodes_both_views_online or self.follows_target

    @property
    def follows_target(self) -> bool:
        """Whether a term draws queries to what target and queue make of their keys, without negatives."""
        return self.relation_weight > 0.0 or self.reshaping_weight > 0.0

    @property
    def encodes_both_views_online(self) -> bool:
        """Whether the online branch runs on both views."""
        return self.in_batch_weight > 0.0 or self.symmetric_loss

    @property
    def default_prompt(self) -> str:
        """The text that is put before every sentence, "" for none."""
        return "" if self.default_prompt_name is None else self.prompts[self.default_prompt_name]

    @property
    def embedding_settings(self) -> dict[str, object]:
        """The fields that sentence-transformers has too, beside the pooling, by name."""
        return {name: getattr(self, name) for name in EMBEDDING_SETTINGS}

    @property
    def queue_slots(self) -> int:
        """Rows that the queue has room for."""
        return self.queue_size

    @property
    def encoder_dropouts(self) -> dict[str, float]:
        """The dropout probabilities that the encoder is built with, by field name."""
        own = {n: getattr(self.encoder_config, n) for n in _DROPOUT_FIELDS if hasattr(self.encoder_config, n)}
        return own if self.encoder_dropout_prob is None else dict.fromkeys(own, self.encoder_dropout_prob)

    def prepare(self) -> None:
        """Resolve defaults, check all values and set the encoder's dropout; models call it before they are built.

        Loading sets options after the configuration is made, so this is not done once and for all.

        Raises:
            ValueError: With the name of the first field whose value cannot be used.
        """
        if self.queue_init_size is None and isinstance(self.queue_size, int):
            self.queue_init_size = self.queue_size // 4
        self._check_values()
        if self.encoder_config.model_type == "big_bird":
            # Its sparse attention ends for good with the first short batch, so a long text would have two embeddings.
            self.encoder_config.attention_type = "original_full"
        if self.encoder_dropout_prob is not None:
            if not self.encoder_dropouts:
                raise ValueError(
                    f"`encoder_dropout_prob` is {self.encoder_dropout_prob}, but the configuration of "
                    f"{self.encoder_config.model_type} has no dropout under a known name; set it there."
                )
            for name, probability in self.encoder_dropouts.items():
                setattr(self.encoder_config, name, probability)

    def check_memory(self) -> None:
        """Refuse a queue or heads that this machine has no room for, before torch tries.

        Raises:
            ValueError: With the names of the fields to lower.
        """
        width, layers = self.embedding_dim, self.num_projection_layers
        projection = width * (self.hidden_size + (layers - 1) * width) if layers else 0
        heads = 4 * (2 * projection + self.num_predictor_layers * width**2)
        queue = self.queue_slots * (getattr(torch, self.queue_dtype).itemsize * width + 16)
        memory = _memory()
        for part, size, remedy in (
            (f"Heads {width} wide", heads, "`projection_dim`, `num_projection_layers` or `num_predictor_layers`"),
            (f"A queue of {self.queue_slots} rows", queue, "`queue_size` or `projection_dim`"),
        ):
            if memory is not None and size > memory:
                raise ValueError(
                    f"{part}: {size // 2**30} GiB are needed, but this machine has {memory // 2**30}; lower {remedy}."
                )

    def check_libraries(self) -> None:
        """Refuse what needs a library that is not installed; a model that is only loaded to embed does not.

        Raises:
            ValueError: With the name of the field and how to install it.
        """
        if self.queue_centroids > 1:
            from mocose_hf.models.queue_centroids import validate_clustering  # which imports torch._dynamo

            validate_clustering()

    def _check_values(self) -> None:
        for f in fields(type(self)):
            if "help" in f.metadata and f.default is not MISSING:
                self._check_type(f.name, getattr(self, f.name), f.default)
        validate_family(self.encoder_config)
        if not isinstance(self.hidden_size, int):
            raise ValueError(
                f"`{self.encoder_config.model_type}` has no `hidden_size`, so it is not a single encoder of text; "
                "start from its text encoder alone or from another model."
            )
        if self.pooling_mode not in POOLING_MODES:
            raise ValueError(f"`pooling_mode` is one of {', '.join(POOLING_MODES)}, not {self.pooling_mode!r}.")
        if self.queue_dtype not in QUEUE_DTYPES:
            raise ValueError(f"`queue_dtype` is one of {', '.join(QUEUE_DTYPES)}, not {self.queue_dtype!r}.")
        for name in ("head_dropout_prob", "encoder_dropout_prob"):
            value = getattr(self, name)
            if value is not None and not 0.0 <= value < 1.0:
                raise ValueError(f"`{name}` lies in [0, 1), but is {value}.")
        if not 0.0 < self.temperature < float("inf"):
            raise ValueError(f"`temperature` is a number above 0, but is {self.temperature}.")
        for name in ("num_projection_layers", "num_predictor_layers", "queue_size", "queue_init_size"):
            if getattr(self, name) < 0:
                raise ValueError(f"`{name}` is at least 0, but is {getattr(self, name)}.")
        if self.queue_init_size > self.queue_size:
            raise ValueError(
                f"`queue_init_size` is {self.queue_init_size} but `queue_size` is {self.queue_size}; lower the first "
                "or raise the second."
            )
        if self.queue_size == 0 and not self.in_batch_negatives:
            raise ValueError("There are no negatives with `queue_size` 0 and `in_batch_negatives` false; allow one.")
        self._check_queue_policies()
        self._check_terms()
        self._check_embedding_settings()
        self._check_queue_positives()
        if self.projection_dim is not None and self.projection_dim < 1:
            raise ValueError(f"`projection_dim` is at least 1, but is {self.projection_dim}.")
        if self.num_projection_layers == 0 and self.embedding_dim != self.hidden_size:
            raise ValueError(
                f"`projection_dim` {self.projection_dim} needs a projection head, but `num_projection_layers` is 0; "
                f"raise it or leave `projection_dim` at the hidden size {self.hidden_size}."
            )

    def _check_embedding_settings(self) -> None:
        """Refuse settings of the embedding that `encode` and the export could not honour."""
        for name in ("max_seq_length", "truncate_dim"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
                raise ValueError(f"`{name}` is a whole number above 0, not {value!r:.60}; leave it out for no limit.")
        for name in ("do_lower_case", "include_prompt", "normalize"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"`{name}` is true or false, not {getattr(self, name)!r:.60}.")
        prompts = {} if self.prompts is None else self.prompts
        if not isinstance(prompts, dict) or not all(isinstance(p, str) for named in prompts.items() for p in named):
            raise ValueError(f"`prompts` is a dict of names and texts, not {self.prompts!r:.60}.")
        if self.default_prompt_name is not None and self.default_prompt_name not in prompts:
            raise ValueError(
                f"`default_prompt_name` is {self.default_prompt_name!r:.60}, but `prompts` has "
                f"{', '.join(prompts) or 'none'}; name one of these or add it."
            )
        if self.similarity_fn_name not in SIMILARITY_FUNCTIONS:
            raise ValueError(
                f"`similarity_fn_name` is one of {', '.join(SIMILARITY_FUNCTIONS)}, "
                f"not {self.similarity_fn_name!r:.60}."
            )

    def _check_queue_policies(self) -> None:
        """Refuse what cannot be done with a queue's rows, and what would have no effect."""
        ranges = parse_window(self.queue_window)
        if not 0.0 <= self.queue_window_softness < float("inf"):
            raise ValueError(f"`queue_window_softness` is a number, 0 or above, but is {self.queue_window_softness}.")
        if self.queue_window_softness > 0.0 and ranges == parse_window("all"):
            raise ValueError(
                f"`queue_window_softness` is {self.queue_window_softness}, but `queue_window` {self.queue_window} has "
                "no edges; choose another window or leave the softness at 0."
            )
        half_life = self.queue_half_life
        if half_life is not None and not 1e-6 <= abs(half_life) < float("inf"):
            raise ValueError(
                f"`queue_half_life` is a number of optimizer steps other than 0, of a size from 1e-6 on, but is "
                f"{half_life}; leave it out to have all ages count alike."
            )
        if not 0 <= self.queue_centroids <= self.queue_size:
            raise ValueError(
                f"`queue_centroids` lies in [0, `queue_size`], but is {self.queue_centroids} where that is "
                f"{self.queue_size}."
            )
        if self.queue_centroids > 0 and self.mask_same_sentence:
            raise ValueError(
                f"`queue_centroids` {self.queue_centroids} makes rows of no one sentence, but `mask_same_sentence` "
                "leaves out rows by their sentence; leave out one of the two."
            )
        for name in ("queue_window", "queue_half_life"):
            if self.queue_size == 0 and getattr(self, name) != getattr(type(self), name):
                raise ValueError(
                    f"`{name}` is {getattr(self, name)}, but `queue_size` is 0; leave it out or allow a queue."
                )

    def _check_queue_positives(self) -> None:
        """Refuse positives that the queue cannot give."""
        count = self.queue_positives
        if not 0 <= count <= self.queue_size:
            raise ValueError(
                f"`queue_positives` lies between 0 and `queue_size`, but is {count} and that is {self.queue_size}."
            )
        if not 0.0 < self.queue_positive_weight < float("inf"):
            raise ValueError(f"`queue_positive_weight` is a number above 0, but is {self.queue_positive_weight}.")
        if not -1.0 <= self.queue_positive_similarity <= 1.0:
            raise ValueError(f"`queue_positive_similarity` lies in [-1, 1], but is {self.queue_positive_similarity}.")
        for name in ("queue_positive_weight", "queue_positive_similarity"):
            if count == 0 and getattr(self, name) != getattr(type(self), name):
                raise ValueError(
                    f"`{name}` is {getattr(self, name)}, but `queue_positives` is 0; raise that, or leave it out."
                )
        if count and self.queue_centroids:
            raise ValueError(
                f"`queue_positives` is {count}, but `queue_centroids` {self.queue_centroids} stand in place of the "
                "keys; leave out one of the two."
            )
        if count and self.queue_size >= CHUNKED_FROM:
            raise ValueError(
                f"`queue_positives` needs a `queue_size` below {CHUNKED_FROM}, but it is {self.queue_size}; lower it."
            )

    def _check_terms(self) -> None:
        """Refuse weights that leave no term, and parts of the queue that no term uses."""
        for name in TERM_WEIGHTS:
            if not 0.0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"`{name}` is a number of at least 0, but is {getattr(self, name)}.")
        if not any(getattr(self, name) for name in TERM_WEIGHTS):
            *first, last = (f"`{name}`" for name in TERM_WEIGHTS)
            raise ValueError(f"{', '.join(first)} and {last} are all 0, so there is no loss; raise one.")
        for name in ("relation_temperature", "relation_target_temperature"):
            if not 0.0 < getattr(self, name) < float("inf"):
                raise ValueError(f"`{name}` is a number above 0, but is {getattr(self, name)}.")
            if self.relation_weight == 0.0 and getattr(self, name) != getattr(type(self), name):
                raise ValueError(
                    f"`{name}` is {getattr(self, name)}, but `relation_weight` is 0; raise that, or leave it out."
                )
        for name in ("relation_weight", "reshaping_weight"):
            if getattr(self, name) > 0.0 and self.queue_size == 0:
                raise ValueError(f"`{name}` compares with the queue, but `queue_size` is 0; raise it.")
            if getattr(self, name) > 0.0 and self.queue_centroids:
                raise ValueError(
                    f"`{name}` compares with the keys of the queue, but `queue_centroids` {self.queue_centroids} "
                    "stand in their place; leave out one of the two."
                )
        self._check_reshaping()
        self._check_options_of_contrast()
        if self.in_batch_queue not in IN_BATCH_QUEUES:
            raise ValueError(f"`in_batch_queue` is one of {', '.join(IN_BATCH_QUEUES)}, not {self.in_batch_queue!r}.")
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

    def _check_reshaping(self) -> None:
        """Refuse values that give no shape, and settings of a reshaping term that is not there."""
        if not 0.0 <= self.reshaping_whitening <= 1.0:
            raise ValueError(f"`reshaping_whitening` lies in [0, 1], but is {self.reshaping_whitening}.")
        if not 0.0 <= self.reshaping_smoothing < 1.0:
            raise ValueError(f"`reshaping_smoothing` lies in [0, 1), but is {self.reshaping_smoothing}.")
        if not 0.0 < self.reshaping_temperature < float("inf"):
            raise ValueError(f"`reshaping_temperature` is a number above 0, but is {self.reshaping_temperature}.")
        shape = ("reshaping_whitening", "reshaping_smoothing")
        for names, of in ((shape, "reshaping_weight"), (("reshaping_temperature",), "reshaping_smoothing")):
            for name in names:
                if getattr(self, of) == 0.0 and getattr(self, name) != getattr(type(self), name):
                    raise ValueError(
                        f"`{name}` is {getattr(self, name)}, but `{of}` is 0; raise that, or leave it out."
                    )

    def _check_options_of_contrast(self) -> None:
        """Refuse options of contrastive terms that no term of this loss uses."""
        contrasts_queue = self.queue_weight > 0.0 or (self.in_batch_weight > 0.0 and self.in_batch_queue != "none")
        for name, is_used, remedy in (
            ("temperature", self.queue_weight > 0.0 or self.in_batch_weight > 0.0, "`queue_weight`"),
            ("in_batch_negatives", self.queue_weight > 0.0, "`queue_weight`"),
            ("queue_positives", contrasts_queue, "`queue_weight`, or set `in_batch_queue`"),
        ):
            value = getattr(self, name)
            if not is_used and value != getattr(type(self), name):
                raise ValueError(
                    f"`{name}` is {value}, but no term of the loss uses it; leave it out, or raise {remedy}."
                )

    def _check_absent(self, reason: str) -> None:
        """Refuse another value than the default for options of `MoCoSEConfig` that this subclass does not offer."""
        for f in fields(type(self)):
            absent = f.name in MoCoSEConfig.option_names() and f.name not in self.option_names()
            if absent and getattr(self, f.name) != f.default:
                raise ValueError(f"`{f.name}` is {getattr(self, f.name)}, but {reason}; leave it out.")

    @staticmethod
    def _check_type(name: str, value, default) -> None:
        """Refuse a value that is not of its field's kind: a str, a bool, a whole number or a number."""
        optional = {
            "projection_dim": int,
            "encoder_dropout_prob": float,
            "queue_init_size": int,
            "queue_half_life": float,
        }
        kind = optional.get(name, type(default))
        if value is None and name in optional:
            return
        accepted = (int, float) if kind is float else kind
        if not isinstance(value, accepted) or (kind is not bool and isinstance(value, bool)):
            words = {str: "a word", bool: "true or false", int: "a whole number", float: "a number"}
            raise ValueError(f"`{name}` is {words[kind]}, not {value!r}.")


class OneTermConfig(MoCoSEConfig):
    """Configure an algorithm whose loss has one term and no positives from the queue, so that none is an option."""

    queue_weight: float = 1.0
    in_batch_weight: float = 0.0
    symmetric_loss: bool = False
    in_batch_queue: str = "none"
    relation_weight: float = 0.0
    relation_temperature: float = 0.1
    relation_target_temperature: float = 0.05
    reshaping_weight: float = 0.0
    reshaping_whitening: float = 0.0
    reshaping_smoothing: float = 0.0
    reshaping_temperature: float = 0.05
    queue_positives: int = 0
    queue_positive_weight: float = 1.0
    queue_positive_similarity: float = -1.0


AutoConfig.register(MoCoSEConfig.model_type, MoCoSEConfig, exist_ok=True)
