"""The base of all training algorithms: start from an encoder, load, save, and what the trainer calls."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import ModelOutput, logging

from mocose_hf.compat import attention_of, set_attention
from mocose_hf.errors import one_line
from mocose_hf.models import adapters
from mocose_hf.models.cls_only_last_layer import prepare_last_layer
from mocose_hf.models.configuration_base import ContrastiveConfig
from mocose_hf.models.ema import cosine_ema_decay
from mocose_hf.models.encoder_checks import validate_encoder
from mocose_hf.models.encoder_mocose import MoCoSEModel, MoCoSEPreTrainedModel
from mocose_hf.models.loading import PretrainedEncoder, build_encoder, load_encoder
from mocose_hf.models.losses import SentenceIds
from mocose_hf.models.negative_queue import NegativeQueue
from mocose_hf.models.pooling import POOLING_MODES
from mocose_hf.models.sequence_packing import find_first_position
from mocose_hf.models.view_augmentation import Augmentation, contrast_under_attack
from mocose_hf.models.views import HardNegatives, View, embed_view
from mocose_hf.parallel.collectives import gather_rows, gather_rows_with_gradient, process_index
from mocose_hf.parallel.deepspeed import validate_whole_weights

if TYPE_CHECKING:
    from peft import PeftModel

logger = logging.get_logger(__name__)

TARGET_ARGUMENTS = ("ema_decay", "ema_decay_end", "ema_schedule", "ema_schedule_steps")
"""Training arguments that steer the target."""


@dataclass
class ContrastiveOutput(ModelOutput):
    """The loss of one batch and what it was computed from.

    Args:
        loss: Scalar float32.
        logits: (B, C + K) float32, cosines divided by the temperature: first the C keys of the batch, from all
            processes in the order of their ranks, then their `num_hard_negatives` hard negatives, then the K slots of
            the queue in the order of `queue.rows`, plus the log of each row's weight. −∞ marks what is no negative,
            such as an empty slot; `logits[:, C:][:, queue.newest_first()]` are the others by age if there are no hard
            negatives. With `queue_centroids`, centroids take the place of slots. None if the queue has at least
            `CHUNKED_FROM` rows, unless keys carry gradient.
        is_top1: (B,) bool, whether a query's own key is the nearest of all candidates.
        labels: (B,) int64, the column of each query's own key.
        query_embeddings: (B, D) float32, L2-normalised, with gradient.
        key_embeddings: (B, D) float32, L2-normalised; MoCoSE's carry no gradient.
        sentence_ids: (B,) int64, as given; they enter the queue together with the keys.
        reverse_key_embeddings: (B, D) float32, L2-normalised, without gradient: the keys of the query view, which
            enter the reverse queue. None without `symmetric_loss`.
        num_hard_negatives: The number of columns of hard negatives in `logits`, blank ones included; None for none.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    is_top1: Tensor | None = None
    labels: Tensor | None = None
    query_embeddings: Tensor | None = None
    key_embeddings: Tensor | None = None
    sentence_ids: Tensor | None = None
    reverse_key_embeddings: Tensor | None = None
    num_hard_negatives: int | None = None


class ContrastiveModel(MoCoSEPreTrainedModel):
    """An encoder that is trained to give two views of a sentence similar embeddings.

    A subclass builds its other modules in `__init__`, then calls `post_init`. It defines `encode_queries`,
    `encode_keys` and `contrast`. If it has a target or queues, it also overrides `momentum_pairs`, `encoders` and
    `queues`. `forward` changes no state; the trainer calls `update_target` and fills the queues after each optimizer
    step. All weights stay in float32; train with `bf16=True` for speed.

    Modules:
        mocose: `MoCoSEModel`, the online encoder.

    Attributes:
        algorithm: The name of the algorithm in checkpoints, model cards and `--algorithm`.
        collapse_remedies: What to change if the embeddings collapse, as `CollapseMonitor` prints it.
        augmentation: What `forward` changes in the views in training mode, beside dropout; None for nothing. The
            trainer sets it. It is not saved, and only `forward` uses it.
        only_first_token: Whether, with [CLS] pooling, the last layer computes only [CLS] after its attention. This
            gives the same embeddings with fewer multiplications, if the encoder's family allows it.
        queue, reverse_queue: None, or a `NegativeQueue` for each direction of the loss.
    """

    algorithm: str
    collapse_remedies: str
    accepts_loss_kwargs = False
    augmentation: Augmentation | None = None
    only_first_token = True
    queue: NegativeQueue | None
    reverse_queue: NegativeQueue | None

    def __init__(self, config: ContrastiveConfig):
        super().__init__(config)
        self.validate_resources(config)
        self.mocose = MoCoSEModel(config)
        self.queue = self.reverse_queue = None

    def post_init(self) -> None:
        """Initialise all weights and make the target a frozen copy of the online branch."""
        prepared = [prepare_last_layer(encoder) for encoder in self.encoders() if isinstance(encoder, PreTrainedModel)]
        self._last_layer_prepared = all(prepared)
        validate_whole_weights(self)
        super().post_init()
        self._leave_out_base("mocose.encoder", self.mocose.adapter)
        self.update_target(0.0)
        self.freeze_target()
        self._warn_if_views_are_equal()

    # Load

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs):
        """Load as any `PreTrainedModel`, in float32, with the target frozen; a target that was not saved is a copy.

        Loading creates new parameters, which would all be trainable (transformers 5.23).
        """
        with_info = kwargs.pop("output_loading_info", False)
        kwargs.pop("torch_dtype", None)
        kwargs["dtype"] = torch.float32
        model, info = super().from_pretrained(pretrained_model_name_or_path, *args, output_loading_info=True, **kwargs)
        if any(name.startswith("target.") for name in info["missing_keys"]):
            model.update_target(0.0)
        model.freeze_target()
        return (model, info) if with_info else model

    @classmethod
    def from_encoder_pretrained(
        cls,
        name_or_path: "str | PeftModel",
        *,
        revision: str | None = None,
        cache_dir: str | None = None,
        attn_implementation: str | None = None,
        **config,
    ) -> "ContrastiveModel":
        """Start a new training from any encoder that `AutoModel` loads.

        If the encoder has a pooler of its own, its dense layer initialises ours. All other new weights and the queue
        come from torch's global generator: seed it for a repeatable start.

        Args:
            name_or_path: A directory or hub id of a plain encoder, a sentence-transformers model or a MoCoSE model.
                Its pooling, prompts and other embedding settings are kept unless they are given here. Or a
                `peft.PeftModel` around an encoder, whose adapter is trained further; it stays as it is.
            revision, cache_dir, attn_implementation: As in `AutoModel.from_pretrained`.
            config: Fields of the configuration. With `peft_config`, such as a `peft.LoraConfig`, only that adapter
                and the heads are trained.

        Raises:
            ValueError: If a field of the configuration cannot be used.
            OSError: If `name_or_path` holds nothing loadable.
        """
        if not isinstance(name_or_path, (str, os.PathLike)):
            return cls._from_peft_model(name_or_path, attn_implementation, **config)
        source = load_encoder(
            name_or_path, revision=revision, cache_dir=cache_dir, attn_implementation=attn_implementation
        )
        return cls.from_encoder(source, **config)

    @classmethod
    def from_encoder(cls, source: PretrainedEncoder, **config) -> "ContrastiveModel":
        """Start a new training from an encoder in memory; otherwise as `from_encoder_pretrained`."""
        if config.get("pooling_mode") is None:
            if source.pooling_mode not in POOLING_MODES:
                raise ValueError(
                    f"{source.encoder.config.name_or_path} pools by `{source.pooling_mode}`, which is none of "
                    f"{', '.join(POOLING_MODES)}; set `pooling_mode`."
                )
            config["pooling_mode"] = source.pooling_mode
        config = source.settings | config
        attention = attention_of(source.encoder)
        model = cls(cls.config_class(encoder_config=source.encoder.config, attn_implementation=attention, **config))
        if model.mocose.adapter is None:
            _copy_weights(source.encoder, model.mocose.encoder)
        else:
            model._start_adapter(source)
        validate_encoder(model.mocose.encoder, model.config.pooling_mode)
        if source.dense is not None:
            model.mocose.dense.load_state_dict(source.dense.state_dict())
        if source.pooler is not None and model.config.use_pooler:
            model.pooler.load_state_dict(source.pooler.state_dict())
        model.update_target(0.0)
        model.config.name_or_path = source.encoder.config.name_or_path
        return model

    @classmethod
    def _from_peft_model(cls, peft_model, attn_implementation: str | None, **config) -> "ContrastiveModel":
        if config.get("peft_config") is not None:
            raise ValueError(
                "`peft_config` is given, but the PeftModel has an adapter already; leave out one of them."
            )
        encoder, config["peft_config"], state = adapters.read_peft_model(peft_model)
        attention = attn_implementation or attention_of(encoder)
        pooling = config.pop("pooling_mode", None) or "cls"
        plain = {"encoder_config": encoder.config, "attn_implementation": attention, "pooling_mode": pooling}
        model = cls(cls.config_class(**plain, **config))
        try:
            model.mocose.encoder.load_state_dict(state)
        except RuntimeError as error:
            raise ValueError(f"The PeftModel does not fit its own configuration ({one_line(error)}).") from error
        validate_encoder(model.mocose.encoder, model.config.pooling_mode)
        model.update_target(0.0)
        model._describe_base(encoder.config.name_or_path, getattr(encoder.config, "_commit_hash", None))
        model.config.name_or_path = encoder.config.name_or_path
        return model

    def _start_adapter(self, source: PretrainedEncoder) -> None:
        """Begin with the weights of an encoder and a new adapter, whose initial values may depend on them."""
        encoder = build_encoder(self.config)
        _copy_weights(source.encoder, encoder)
        adapters.inject(encoder, self.config.peft_config)
        self.mocose.encoder.load_state_dict(encoder.state_dict(), assign=True)  # no second copy in memory
        self._describe_base(source.encoder.config.name_or_path, source.revision)

    def _describe_base(self, name_or_path: str, revision: str | None) -> None:
        """Enter the base of the adapter, and the modules that it adapts, into the configuration."""
        adapter = self.mocose.adapter
        source = {"base_model_name_or_path": name_or_path, "revision": revision}
        self.config.peft_config = adapter.config | {key: value for key, value in source.items() if value}
        self.config.base_sha256 = adapters.fingerprint_base(self.mocose.encoder, adapter)

    # Train

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        cu_seq_lens_q: Tensor | None = None,
        max_length_q: int | None = None,
        prompt_length: int | None = None,
        key_input_ids: Tensor | None = None,
        key_attention_mask: Tensor | None = None,
        key_token_type_ids: Tensor | None = None,
        key_position_ids: Tensor | None = None,
        key_cu_seq_lens_q: Tensor | None = None,
        key_max_length_q: int | None = None,
        key_prompt_length: int | None = None,
        sentence_ids: Tensor | None = None,
        **hard_negatives,
    ) -> ContrastiveOutput:
        """Contrast the two views of a batch.

        A batch is padded, (B, L), or, after `allow_padding_free`, packed into one row, (1, T).

        Args:
            input_ids, attention_mask, token_type_ids: (B, L) or (1, T), the view of the queries.
            position_ids, cu_seq_lens_q, max_length_q: Of a packed view, as in `View`. The names are those of
                transformers' `FlashAttentionKwargs`.
            prompt_length: Number of tokens at the start of each sentence that are not pooled; None to pool all.
            key_…: The view of the keys. If None, the same tokens under another dropout mask.
            sentence_ids: (B,) int64, returned unchanged; `mask_same_sentence` compares them.
            hard_negatives: The entries of a batch that `HardNegatives.from_batch` takes; none for no hard negatives.

        Raises:
            ValueError: If there are hard negatives, but no term of the loss takes them.
        """
        tokens = (input_ids, attention_mask, token_type_ids, position_ids, cu_seq_lens_q, max_length_q)
        view = key_view = View(*tokens, prompt_length=prompt_length)
        if key_input_ids is not None:
            packing = (key_position_ids, key_cu_seq_lens_q, key_max_length_q)
            key_tokens = (key_input_ids, key_attention_mask, key_token_type_ids, *packing)
            key_view = View(*key_tokens, prompt_length=key_prompt_length)
        negatives = HardNegatives.from_batch(hard_negatives)
        if negatives is not None and not self.config.takes_hard_negatives:
            raise ValueError(
                f"The batch has hard negatives, but this {self.algorithm} loss has no in-batch term to contrast them; "
                "raise `in_batch_weight` of a MoCoSEConfig above 0, or leave them out."
            )
        if self.training and self.augmentation is not None:
            encoders = self.encoders()
            view, key_view = self.augmentation.views(view, key_view, encoders[0], encoders[-1])
            if negatives is not None:
                negatives.view = self.augmentation.negative_view(negatives.view, encoders[0])
            if self.augmentation.fgsm_epsilon:
                return contrast_under_attack(self, view, key_view, sentence_ids, self.augmentation.fgsm_epsilon)
        return self.contrast_views(view, key_view, sentence_ids, negatives)

    def contrast_views(
        self, view: View, key_view: View, sentence_ids: Tensor | None = None, negatives: HardNegatives | None = None
    ) -> ContrastiveOutput:
        """Encode the two views, and hard negatives if the loss takes them, and contrast them."""
        return self.contrast(self.encode_queries(view), self.encode_keys(key_view), sentence_ids)

    def encode_queries(self, view: View) -> Tensor:
        """Return the queries (B, D) of a view, L2-normalised float32."""
        raise NotImplementedError

    def encode_keys(self, view: View) -> Tensor:
        """Return the keys (B, D) of a view, L2-normalised float32."""
        raise NotImplementedError

    def contrast(self, queries: Tensor, keys: Tensor, sentence_ids: Tensor | None = None) -> ContrastiveOutput:
        """Contrast queries (B, D) with keys (B, D)."""
        raise NotImplementedError

    def embed(self, encoder: PreTrainedModel, view: View) -> Tensor:
        """Return the sentence embeddings (B, H) that one of the encoders gives a view."""
        mode = self.config.pooling_mode
        cls_only = self.only_first_token and self._last_layer_prepared and mode == "cls" and not view.prompt_length
        return self.mocose.dense(embed_view(encoder, view, mode, self.mocose.takes_token_types, cls_only))

    def allow_padding_free(self) -> int | None:
        """Let all encoders take packed batches, if their family can.

        Returns:
            The position at which each packed sentence starts; None if the family cannot.
        """
        first = find_first_position(self.mocose.encoder)
        for encoder in self.encoders()[1:]:
            set_attention(encoder, attention_of(self.mocose.encoder))
        return first

    # Target and queues

    def encoders(self) -> list:
        """Return the encoder of each branch, the online one first; that of a target may be an `AdapterAverage`."""
        return [self.mocose.encoder]

    def queues(self) -> list[NegativeQueue]:
        """Return the queue and the reverse queue, as far as they exist."""
        return [queue for queue in (self.queue, self.reverse_queue) if queue is not None]

    def momentum_pairs(self) -> list[tuple[Tensor, Tensor]]:
        """Return each parameter of the target with the online one that it follows; none without a target."""
        return []

    def update_target(self, decay: float) -> None:
        """Move the target towards the online branch; without a target, do nothing."""

    def ema_decay_at(self, step: int, total_steps: int, start: float, end: float) -> float:
        """Return the decay that the target moves with before step `step`; see `cosine_ema_decay`."""
        return cosine_ema_decay(step, total_steps, start, end)

    def frozen_parameters(self) -> list[Tensor]:
        """Return the parameters that no optimizer may change: those of the target, and of an adapter's base."""
        adapter = self.mocose.adapter
        base = [] if adapter is None else adapter.frozen(self.mocose.encoder)
        return [target for target, _ in self.momentum_pairs()] + base

    def freeze_target(self) -> None:
        """Exclude `frozen_parameters` from training."""
        for parameter in self.frozen_parameters():
            parameter.requires_grad_(False)

    # Settings

    @classmethod
    def validate_settings(cls, config: ContrastiveConfig, args) -> None:
        """Raise a `ValueError` if a model of this configuration cannot use these `MoCoSETrainingArguments`."""
        if config.peft_config is not None:
            if args.deepspeed:
                raise ValueError(
                    "`deepspeed` is not supported with an adapter, whose optimizer state is small anyway; leave it "
                    "out, and start the processes by `torchrun`."
                )
            checkpointing = (args.activation_checkpointing and args.activation_checkpointing_kwargs) or {}
            if checkpointing.get("use_reentrant"):
                raise ValueError(
                    "`activation_checkpointing_kwargs` sets use_reentrant, which gives an adapter no gradient, "
                    "because the embeddings below are frozen; leave it out."
                )
        if not config.has_target:
            for name in TARGET_ARGUMENTS:
                value = getattr(args, name)
                if value != type(args).__dataclass_fields__[name].default:
                    raise ValueError(
                        f"`{name}` is {value}, but this {cls.algorithm} loss has no target; leave it out."
                    )
            if args.queue_monitor_steps:
                raise ValueError(
                    f"`queue_monitor_steps` is {args.queue_monitor_steps}, but this {cls.algorithm} loss has no "
                    "target whose keys could drift; leave it out."
                )
        if args.head_learning_rate is not None and not config.has_heads:
            raise ValueError(
                f"`head_learning_rate` is {args.head_learning_rate}, but there is no pooler, projection head or "
                "predictor; leave it out."
            )

    @staticmethod
    def validate_resources(config: ContrastiveConfig) -> None:
        """Raise a `ValueError` if this machine lacks the memory or a library to train with a configuration."""

    # What transformers and users call

    def get_input_embeddings(self) -> nn.Module:  # noqa: D102
        return self.mocose.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:  # noqa: D102
        self.mocose.set_input_embeddings(value)

    def resize_token_embeddings(self, *args, **options) -> nn.Embedding:
        """Resize the vocabulary of all branches as any `PreTrainedModel` does; new rows start equal in all.

        Raises:
            ValueError: If only an adapter is trained.
        """
        if self.mocose.adapter is not None:
            raise ValueError(
                "An adapter keeps the vocabulary of its base; resize the encoder, save it, and start anew."
            )
        online = super().resize_token_embeddings(*args, **options)
        target_encoder = self.encoders()[-1]
        target = target_encoder.get_input_embeddings()
        if target is not online and target.num_embeddings != online.num_embeddings:
            num_kept = min(target.num_embeddings, online.num_embeddings)
            resized = target_encoder.resize_token_embeddings(online.num_embeddings, mean_resizing=False)
            with torch.no_grad():
                resized.weight[num_kept:] = online.weight[num_kept:]
            self.freeze_target()
        return online

    def encode(self, sentences: str | Sequence[str], tokenizer=None, **options) -> Any:
        """Embed sentences with the online encoder; see `MoCoSEModel.encode`."""
        return self.mocose.encode(sentences, tokenizer, **options)

    def _warn_if_views_are_equal(self) -> None:
        dropouts = self.config.encoder_dropouts
        if self.config.encoder_dropout_prob is None and dropouts and not any(dropouts.values()):
            logger.warning_once(
                f"The dropout of this {self.config.encoder_config.model_type} encoder is 0, so both views of a "
                "sentence are nearly equal; set `encoder_dropout_prob`, for example to 0.1, or change a view by "
                "`crop_share` or `deletion_rate`."
            )


def gather_keys(keys: Tensor) -> tuple[Tensor, Tensor]:
    """Return the keys of all processes (W·B, D), with any gradient, and the column of each query's own key (B,)."""
    labels = torch.arange(len(keys), device=keys.device) + process_index() * len(keys)
    return gather_rows_with_gradient(keys), labels


def gather_ids(sentence_ids: Tensor | None, queue: NegativeQueue | None = None) -> SentenceIds:
    """Return the sentence ids (B,) of a batch, those of all processes (W·B,) and those of a queue.

    Raises:
        ValueError: If there are none.
    """
    if sentence_ids is None:
        raise ValueError(
            "`mask_same_sentence` and `queue_positives` need the `sentence_ids` of each batch; give them, or leave "
            "both out."
        )
    return SentenceIds(sentence_ids, gather_rows(sentence_ids), sentence_ids[:0] if queue is None else queue.row_ids)


def _copy_weights(source: PreTrainedModel, encoder: PreTrainedModel) -> None:
    """Copy the weights of an encoder that may have a pooler of its own to one that has none.

    Raises:
        ValueError: If the source has other parameters than its configuration asks for.
    """
    state = {name: value for name, value in source.state_dict().items() if not name.startswith("pooler.")}
    names = encoder.state_dict().keys()
    if names != state.keys():
        first = min(names ^ state.keys())
        raise ValueError(
            f"The encoder has parameters that do not follow from its configuration, such as `{first}`; merge adapters "
            "into the encoder first, for example by `merge_and_unload()`."
        )
    encoder.load_state_dict(state)
