"""The configuration that all training algorithms share: the encoder, its sentence embedding and the temperature."""

import copy
import difflib
from dataclasses import Field, field, fields
from types import NoneType
from typing import Any, ClassVar, get_args

from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from mocose_hf.models.dense_layer import ACTIVATIONS
from mocose_hf.models.encoder_checks import validate_family
from mocose_hf.models.pooling import POOLING_MODES

SIMILARITY_FUNCTIONS = ("cosine", "dot", "euclidean", "manhattan")

EMBEDDING_SETTINGS = (
    "max_seq_length",
    "do_lower_case",
    "prompts",
    "default_prompt_name",
    "include_prompt",
    "normalize",
    "truncate_dim",
    "similarity_fn_name",
    "dense_activation",
)
"""Fields that a sentence-transformers model brings along, beside its pooling. No command line has them as options."""

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
"""The names under which the encoder families store the dropout of their layers."""

_NAMES_OF_TRANSFORMERS = {
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

_TYPE_NAMES = {str: "a word", bool: "true or false", int: "a whole number", float: "a number"}


def option(default, help: str):
    """Declare a field that is also a command-line option; its help states the effect first, then the paper's value."""
    return field(default=default, metadata={"help": help})


def encoder_field(name: str, doc: str, default=None) -> property:
    """Return a property that reads and writes a field of the encoder's own configuration."""

    def get_value(config):
        return getattr(config.encoder_config, name, default)

    def set_value(config, value):
        setattr(config.encoder_config, name, value)

    return property(get_value, set_value, doc=doc)


class ContrastiveConfig(PreTrainedConfig):
    """Configure an encoder that is trained on two views of each sentence.

    `hidden_size`, `vocab_size`, `initializer_range` and the ids of special tokens are the encoder's. The help text of
    each option states its range; `run_mocose.py --help` prints it.

    Args:
        encoder_config: The configuration of the encoder, as an object or as a dict with `model_type`. None for
            BERT-base.
        max_seq_length: Longest input of `encode` in tokens; None for what tokenizer and encoder allow.
        do_lower_case: Whether text is lower-cased before it is tokenised, in training too.
        prompts: Texts that can be put before a sentence, by name; None for none.
        default_prompt_name: The prompt that is put before every sentence, in training too; None for none.
        include_prompt: Whether the tokens of the prompt are pooled.
        normalize: Whether `encode` scales embeddings to length 1. `pooler_output` is not scaled.
        truncate_dim: Number of leading dimensions that `encode` returns; None for all. Training uses all.
        similarity_fn_name: How scores on pairs compare embeddings: cosine, dot, euclidean or manhattan. Training
            always uses the cosine.
        dense_activation: The activation of a fixed dense layer (H, H) behind the pooling, identity or tanh; None for
            no such layer. `whitening` adds one.
        peft_config: The adapter that is trained instead of the encoder, a `peft.PeftConfig` or the dict that describes
            one, with the name of its base; None to train the encoder. See `mocose_hf.models.adapters`.
        base_sha256: SHA-256 (hex) of the weights of that base; None without an adapter.

    Raises:
        ValueError: If a value is outside its range or a name is no field of the class.
    """

    sub_configs_defaults = {"encoder_config": SubConfigSpec(AutoConfig, model_type="bert")}
    fixed_options: ClassVar[tuple[str, ...]] = ()
    """Inherited options that a subclass does not offer; they keep their defaults."""

    encoder_config: PreTrainedConfig | dict | None = None
    pooling_mode: str = option(
        "cls",
        "How tokens become the sentence embedding: cls, mean, max or lasttoken. By default the model's own; if it "
        "states none, cls (paper), or mean under the recipes domain and pairs.",
    )
    use_pooler: bool = option(
        True,
        "Whether a dense layer H to H follows the pooled embedding during training. Without it and without projection "
        "and predictor layers, the loss compares the sentence embeddings themselves (paper: true).",
    )
    whitening: float = option(
        0.0,
        "How far the embedding is whitened before training, in [0, 1]: 0 is not at all, 1 is fully. A fixed dense "
        "layer behind the pooling is fitted to 4,096 training sentences and exported with the encoder. It helps plain "
        "masked language models, whose embeddings share a few large directions (paper: 0).",
    )
    encoder_dropout_prob: float | None = option(
        None,
        "Dropout of all encoder layers, in [0, 1); the encoder's own if not given (paper: 0.1, BERT's own).",
    )
    temperature: float = option(0.05, "Temperature τ of the contrastive loss, above 0 (paper: 0.05).")
    mask_same_sentence: bool = option(
        False,
        "Whether keys of a query's own sentence, in the queue and in the batch, are no negatives of it. The queue "
        "holds such keys if it reaches back to an earlier epoch. Pairs that share a text count as one sentence; in a "
        "stream only those of one row do. A hard negative with the text of a positive counts so too (paper: false).",
    )

    max_seq_length: int | None = None
    do_lower_case: bool = False
    prompts: dict[str, str] | None = None
    default_prompt_name: str | None = None
    include_prompt: bool = True
    normalize: bool = False
    truncate_dim: int | None = None
    similarity_fn_name: str = "cosine"
    dense_activation: str | None = None
    peft_config: dict | None = None
    base_sha256: str | None = None

    hidden_size = encoder_field("hidden_size", "H, the width of the sentence embedding.")
    vocab_size = encoder_field("vocab_size", "Number of tokens that the embedding layer knows.")
    initializer_range = encoder_field("initializer_range", "Standard deviation of new weights.", default=0.02)
    pad_token_id = encoder_field("pad_token_id", "Id of the padding token.")
    bos_token_id = encoder_field("bos_token_id", "Id of the token that starts a sentence.")
    eos_token_id = encoder_field("eos_token_id", "Id of the token that ends a sentence.")

    def __post_init__(self, **kwargs):
        self._validate_names(kwargs)
        kwargs.pop("transformers_version", None)
        if not isinstance(self.encoder_config, (PreTrainedConfig, dict, type(None))):
            raise ValueError(
                f"`encoder_config` is a configuration, or a dict with its `model_type`, not {self.encoder_config!r}."
            )
        self.encoder_config = copy.deepcopy(self.encoder_config)
        super().__post_init__(**kwargs)
        self.prepare()

    @classmethod
    def option_names(cls) -> list[str]:
        """Return the names of the fields that are options, in the order they are declared."""
        return [f.name for f in fields(cls) if "help" in f.metadata and f.name not in cls.fixed_options]

    @property
    def embedding_dim(self) -> int:
        """D, the width of queries and keys."""
        return self.hidden_size

    @property
    def has_target(self) -> bool:
        """Whether there is a target branch."""
        return False

    @property
    def takes_hard_negatives(self) -> bool:
        """Whether a term of the loss contrasts queries with hard negatives of a batch."""
        return False

    @property
    def has_heads(self) -> bool:
        """Whether anything is trained besides the encoder."""
        return self.use_pooler

    @property
    def default_prompt(self) -> str:
        """The text that is put before every sentence, "" for none."""
        return "" if self.default_prompt_name is None else self.prompts[self.default_prompt_name]

    @property
    def embedding_settings(self) -> dict[str, object]:
        """The fields that sentence-transformers has too, beside the pooling, by name."""
        return {name: getattr(self, name) for name in EMBEDDING_SETTINGS}

    @property
    def encoder_dropouts(self) -> dict[str, float]:
        """The dropout probabilities that the encoder is built with, by field name."""
        own = {n: getattr(self.encoder_config, n) for n in _DROPOUT_FIELDS if hasattr(self.encoder_config, n)}
        return own if self.encoder_dropout_prob is None else dict.fromkeys(own, self.encoder_dropout_prob)

    def prepare(self) -> None:
        """Resolve defaults, validate all values and set the encoder's dropout.

        Every model calls this before it is built, because `from_pretrained` sets fields after the configuration was
        created.

        Raises:
            ValueError: If a value cannot be used; the message names the field.
        """
        if self.peft_config is not None:
            from mocose_hf.models.adapters import describe_adapter  # loads peft, which is an optional library

            self.peft_config = describe_adapter(self.peft_config)
        self._validate_values()
        if self.whitening and self.dense_activation is None:
            self.dense_activation = "identity"
        encoder: Any = self.encoder_config
        if encoder.model_type == "big_bird":
            # Its sparse attention ends for good with the first short batch, so a long text would have two embeddings.
            encoder.attention_type = "original_full"
        if self.encoder_dropout_prob is not None:
            if not self.encoder_dropouts:
                raise ValueError(
                    f"`encoder_dropout_prob` is {self.encoder_dropout_prob}, but the configuration of "
                    f"{encoder.model_type} has no dropout under a known name; set it there."
                )
            for name, probability in self.encoder_dropouts.items():
                setattr(encoder, name, probability)

    def _validate_names(self, names) -> None:
        options = self.option_names()
        for name in names:
            if name not in _NAMES_OF_TRANSFORMERS and not name.startswith("_"):
                close = difflib.get_close_matches(name, options, n=1)
                hint = f"did you mean `{close[0]}`?" if close else f"the fields are {', '.join(options)}."
                raise ValueError(f"`{name}` is no field of {type(self).__name__}; {hint}")

    def _validate_values(self) -> None:
        for f in fields(type(self)):
            if "help" in f.metadata:
                self._validate_type(f)
            if f.name in self.fixed_options:
                self._validate_idle(f.name, f"{type(self).__name__} has no such option", "leave it out")
        validate_family(self.encoder_config)
        if not isinstance(self.hidden_size, int):
            raise ValueError(
                f"`{getattr(self.encoder_config, 'model_type', '')}` has no `hidden_size`, so it is not a single "
                "encoder of text; start from its text encoder alone or from another model."
            )
        self._validate_choice("pooling_mode", POOLING_MODES)
        self._validate_fraction("encoder_dropout_prob")
        self._validate_positive("temperature")
        if not 0.0 <= self.whitening <= 1.0:
            raise ValueError(f"`whitening` lies in [0, 1], but is {self.whitening}.")
        self._validate_embedding_settings()

    def _validate_embedding_settings(self) -> None:
        """Raise a `ValueError` for settings that `encode` and the export cannot honour."""
        for name in ("max_seq_length", "truncate_dim"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
                raise ValueError(f"`{name}` is a whole number above 0, not {value!r:.60}; leave it out for no limit.")
        for name in ("do_lower_case", "include_prompt", "normalize"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"`{name}` is true or false, not {getattr(self, name)!r:.60}.")
        prompts = {} if self.prompts is None else self.prompts
        if not isinstance(prompts, dict) or not all(isinstance(part, str) for part in [*prompts, *prompts.values()]):
            raise ValueError(f"`prompts` is a dict of names and texts, not {self.prompts!r:.60}.")
        if self.default_prompt_name is not None and self.default_prompt_name not in prompts:
            raise ValueError(
                f"`default_prompt_name` is {self.default_prompt_name!r:.60}, but `prompts` has "
                f"{', '.join(prompts) or 'none'}; name one of these or add it."
            )
        self._validate_choice("similarity_fn_name", SIMILARITY_FUNCTIONS)
        if self.dense_activation is not None:
            self._validate_choice("dense_activation", ACTIVATIONS)
        if self.whitening and self.dense_activation not in (None, "identity"):
            raise ValueError(
                f"`whitening` is {self.whitening}, but the encoder has a dense layer with {self.dense_activation}, "
                "which whitening cannot follow; set it to 0."
            )

    def _validate_type(self, f: Field) -> None:
        """Raise a `ValueError` if a value does not have the type of its field."""
        value, kinds = getattr(self, f.name), get_args(f.type) or (f.type,)
        if value is None and NoneType in kinds:
            return
        kind = kinds[0]
        accepted = (int, float) if kind is float else kind
        if not isinstance(value, accepted) or (kind is not bool and isinstance(value, bool)):
            raise ValueError(f"`{f.name}` is {_TYPE_NAMES[kind]}, not {value!r}.")

    def _validate_choice(self, name: str, choices: tuple[str, ...]) -> None:
        if getattr(self, name) not in choices:
            raise ValueError(f"`{name}` is one of {', '.join(choices)}, not {getattr(self, name)!r:.60}.")

    def _validate_fraction(self, name: str) -> None:
        value = getattr(self, name)
        if value is not None and not 0.0 <= value < 1.0:
            raise ValueError(f"`{name}` lies in [0, 1), but is {value}.")

    def _validate_positive(self, name: str) -> None:
        if not 0.0 < getattr(self, name) < float("inf"):
            raise ValueError(f"`{name}` is a number above 0, but is {getattr(self, name)}.")

    def _validate_not_negative(self, name: str) -> None:
        if not 0 <= getattr(self, name) < float("inf"):
            raise ValueError(f"`{name}` is a number of at least 0, but is {getattr(self, name)}.")

    def _validate_idle(self, name: str, cause: str, remedy: str) -> None:
        """Raise a `ValueError` if an option differs from its default although nothing uses it."""
        value = getattr(self, name)
        if value != getattr(type(self), name):
            raise ValueError(f"`{name}` is {value}, but {cause}; {remedy}.")
