"""MoCoSE: an encoder trained by momentum contrast (https://arxiv.org/abs/2202.13093), top to bottom."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModelForPreTraining, PreTrainedModel
from transformers.utils import ModelOutput, logging

from mocose_hf.models.cls_only_last_layer import prepare_last_layer
from mocose_hf.models.configuration_mocose import CHUNKED_FROM, POOLING_MODES, MoCoSEConfig
from mocose_hf.models.ema import cosine_ema_decay, update_ema
from mocose_hf.models.encoder_checks import validate_encoder
from mocose_hf.models.encoder_mocose import MoCoSEModel, MoCoSEPreTrainedModel, build_encoder
from mocose_hf.models.heads import build_pooler, build_predictor, build_projection_head
from mocose_hf.models.loading import PretrainedEncoder, load_encoder
from mocose_hf.models.loss_terms import combine_terms
from mocose_hf.models.losses import (
    SentenceIds,
    chunked_info_nce_loss,
    contrastive_logits,
    multi_positive_loss,
    nearest_rows,
    relation_loss,
    reshape_keys,
    reshaping_loss,
    same_sentence,
)
from mocose_hf.models.negative_queue import NegativeQueue
from mocose_hf.models.queue_centroids import find_centroids
from mocose_hf.models.sequence_packing import find_first_position
from mocose_hf.models.view_augmentation import Augmentation, contrast_under_attack
from mocose_hf.models.views import View, embed_view
from mocose_hf.parallel.collectives import gather_rows, gather_rows_with_gradient, process_index
from mocose_hf.parallel.deepspeed import local_values, validate_whole_weights, whole_shape

logger = logging.get_logger(__name__)


@dataclass
class MoCoSEOutput(ModelOutput):
    """What one contrastive batch gives.

    Args:
        loss: Scalar float32, the mean InfoNCE loss of the batch.
        logits: (B, C + K) float32, cosines over the temperature: the C keys of the batch (of all processes, in their
            order), then the K slots of the queue, as they lie in `queue.rows`, plus the log of what each row counts;
            −∞ for what is no negative, as are slots still empty. `logits[:, C:][:, queue.newest_first()]` are those in
            use by age. With `queue_centroids` those stand in place of the slots, with −∞ where rows are too few for
            all of them. None where there are at least `CHUNKED_FROM` of either, which are not held, unless keys carry
            gradient.
        is_top1: (B,) bool, whether a query's own key is the nearest of all candidates.
        labels: (B,) int64, the column of each query's own key.
        query_embeddings: (B, D) float32, L2-normalised, with gradient.
        key_embeddings: (B, D) float32, L2-normalised, without gradient (here; a subclass may let it through).
        sentence_ids: (B,) int64, as given; they enter the queue together with the keys.
        reverse_key_embeddings: (B, D) float32, L2-normalised, without gradient: the keys of the query view, which
            enter the reverse queue. None without `symmetric_loss`.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    is_top1: Tensor | None = None
    labels: Tensor | None = None
    query_embeddings: Tensor | None = None
    key_embeddings: Tensor | None = None
    sentence_ids: Tensor | None = None
    reverse_key_embeddings: Tensor | None = None


class MoCoSEForPreTraining(MoCoSEPreTrainedModel):
    """Both branches, the heads and the queue: everything that one training step needs.

    `forward` changes no state. After each optimizer step the trainer moves the target with `update_target` and puts
    the keys into `queue`. All weights stay in float32 whatever dtype is asked for; train with `bf16=True` for speed.

    Modules:
        mocose: `MoCoSEModel`, the online encoder.
        pooler: Linear (H, H) on the pooled embedding, without activation; the identity without `config.use_pooler`.
        projection_head: `num_projection_layers` of Linear, LayerNorm, Dropout; H to D.
        predictor: `num_predictor_layers` of the same on D, the last one Linear and tanh; online branch only.
        target: `encoder`, `pooler` and `projection_head` as an EMA of the above, frozen. The embedding layer is the
            online one where `config.share_embeddings`.
        queue: `NegativeQueue`.
        reverse_queue: The queue of the other direction, with `symmetric_loss` and a queue; else None.

    Attributes:
        only_first_token: Whether, with [CLS] pooling, the last layer computes what follows attention for [CLS] alone,
            in encoders that let it: the same embeddings for fewer multiplications. On by default.
        algorithm: What tells this way of training from those of subclasses, in checkpoints and model cards.
        collapse_remedies: How to start again where embeddings collapsed, as `CollapseMonitor` tells it.
        augmentation: What `forward` changes in the views in training mode, beside dropout; None for nothing. The
            trainer sets it. It is not saved, and neither evaluation nor a method but `forward` looks at it.
    """

    algorithm = "mocose"
    collapse_remedies = (
        "with a higher `ema_decay`, with a predictor (`num_predictor_layers`), or with a lower `learning_rate`"
    )
    accepts_loss_kwargs = False
    only_first_token = True
    augmentation: Augmentation | None = None
    _tied_weights_keys = {r"target\.encoder\.embeddings\.": r"mocose\.encoder\.embeddings\."}

    def __init__(self, config: MoCoSEConfig):
        super().__init__(config)
        config.check_memory()
        config.check_libraries()
        self.mocose = MoCoSEModel(config)
        self.pooler = build_pooler(config)
        self.projection_head = build_projection_head(config)
        self.predictor = build_predictor(config)
        self.target = self.build_target(config)
        self.queue = self.build_queue(config)
        self.reverse_queue = self.build_queue(config) if config.symmetric_loss and config.queue_size else None
        prepared = [prepare_last_layer(encoder) for encoder in self.encoders()]
        self._last_layer_prepared = all(prepared)
        if config.share_embeddings and config.has_target:
            self._share_embeddings()
        else:
            self._tied_weights_keys = None
        validate_whole_weights(self)
        self.post_init()
        self.update_target(0.0)
        self.freeze_target()
        self._warn_where_views_are_equal()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs):
        """Load as any `PreTrainedModel`, in float32, with the target frozen and, where it was not saved, a copy.

        Loading makes new parameters, which would all be trainable (transformers 5.23).
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
        name_or_path: str,
        *,
        revision: str | None = None,
        cache_dir: str | None = None,
        attn_implementation: str | None = None,
        **config,
    ) -> "MoCoSEForPreTraining":
        """Start a new training from any encoder that `AutoModel` loads.

        If the encoder has a pooler of its own, its dense layer is the start of ours. The heads, the queue and a
        missing pooler are drawn from torch's global generator: seed it for a repeatable start.

        Args:
            name_or_path: A directory or hub id of a plain encoder, of a sentence-transformers model, or of a MoCoSE
                model. Pooling, prompts and the other settings of its embeddings are kept unless they are given.
            revision, cache_dir, attn_implementation: As `AutoModel.from_pretrained` takes them.
            config: Fields of `MoCoSEConfig`.

        Raises:
            ValueError: Where a field of the configuration cannot be used.
            OSError: Where nothing loadable is found under `name_or_path`.
        """
        source = load_encoder(
            name_or_path, revision=revision, cache_dir=cache_dir, attn_implementation=attn_implementation
        )
        return cls.from_encoder(source, **config)

    @classmethod
    def from_encoder(cls, source: PretrainedEncoder, **config) -> "MoCoSEForPreTraining":
        """Start a new training from an encoder in memory; otherwise as `from_encoder_pretrained`."""
        if config.get("pooling_mode") is None:
            if source.pooling_mode not in POOLING_MODES:
                raise ValueError(
                    f"{source.encoder.config.name_or_path} pools by `{source.pooling_mode}`, which is none of "
                    f"{', '.join(POOLING_MODES)}; set `pooling_mode`."
                )
            config["pooling_mode"] = source.pooling_mode
        config = source.settings | config
        attention = source.encoder.config._attn_implementation
        model = cls(cls.config_class(encoder_config=source.encoder.config, attn_implementation=attention, **config))
        _load_encoder(model.mocose.encoder, source.encoder)
        validate_encoder(model.mocose.encoder, model.config.pooling_mode)
        if source.pooler is not None and model.config.use_pooler:
            model.pooler.load_state_dict(source.pooler.state_dict())
        model.update_target(0.0)
        model.config.name_or_path = source.encoder.config.name_or_path
        return model

    @staticmethod
    def build_target(config: MoCoSEConfig) -> nn.ModuleDict:
        """Build what follows the online branch; empty if no term of the loss needs it."""
        if not config.has_target:
            return nn.ModuleDict()
        return nn.ModuleDict(
            {
                "encoder": build_encoder(config),
                "pooler": build_pooler(config),
                "projection_head": build_projection_head(config),
            }
        )

    @staticmethod
    def build_queue(config: MoCoSEConfig) -> NegativeQueue:
        """Build the queue with its initial part."""
        queue_dtype = getattr(torch, config.queue_dtype)
        return NegativeQueue(config.queue_size, config.embedding_dim, config.queue_init_size, queue_dtype)

    def queues(self) -> list[NegativeQueue]:
        """Return the queue, and the reverse queue if there is one."""
        return [queue for queue in (self.queue, self.reverse_queue) if queue is not None]

    def encoders(self) -> list[PreTrainedModel]:
        """Return the encoder of each branch, the online one first."""
        return [branch["encoder"] for branch in ({"encoder": self.mocose.encoder}, self.target) if "encoder" in branch]

    def validate_arguments(self, args) -> None:
        """Raise a `ValueError` where these `MoCoSETrainingArguments` cannot steer this algorithm."""
        self.validate_settings(self.config, args)

    @staticmethod
    def validate_settings(config: MoCoSEConfig, args) -> None:
        """Raise the errors of `validate_arguments` for a model of that configuration."""
        if not config.has_target:
            validate_no_target_arguments(args, "this loss")
            if args.queue_monitor_steps:
                raise ValueError(
                    f"`queue_monitor_steps` is {args.queue_monitor_steps}, but the drift of keys needs a target; "
                    "set `queue_weight` above 0, or leave it out."
                )
        if args.fgsm_epsilon and config.has_other_terms:
            raise ValueError(
                "`fgsm_epsilon` perturbs the query view of the momentum term alone; leave it out with "
                "`in_batch_weight`, `relation_weight`, `reshaping_weight` and `symmetric_loss`."
            )
        changes = [name for name in ("token_cutoff", "feature_cutoff", "embedding_noise") if getattr(args, name)]
        if changes and config.encodes_both_views_online and config.has_target and not config.share_embeddings:
            raise ValueError(
                f"`{changes[0]}` changes word embeddings, of which each branch has its own here, but both branches "
                "encode the same view; set `share_embeddings` to true, or leave it out."
            )
        is_headless = not (config.use_pooler or config.num_projection_layers or config.num_predictor_layers)
        if args.head_learning_rate is not None and is_headless:
            raise ValueError(
                f"`head_learning_rate` is {args.head_learning_rate}, but there is no pooler, projection head or "
                "predictor; leave it out."
            )

    def get_input_embeddings(self) -> nn.Module:  # noqa: D102
        return self.mocose.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:  # noqa: D102
        self.mocose.set_input_embeddings(value)

    def resize_token_embeddings(self, *args, **options) -> nn.Embedding:
        """Resize the vocabulary as any `PreTrainedModel` does, in both branches; new rows start equal in both."""
        online = super().resize_token_embeddings(*args, **options)
        encoders = self.encoders()
        target = encoders[-1].get_input_embeddings()
        if target is not online and target.num_embeddings != online.num_embeddings:
            kept = min(target.num_embeddings, online.num_embeddings)
            resized = encoders[-1].resize_token_embeddings(online.num_embeddings, mean_resizing=False)
            with torch.no_grad():
                resized.weight[kept:] = online.weight[kept:]
            self.freeze_target()
        return online

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
    ) -> MoCoSEOutput:
        """Contrast the two views of a batch with each other and with the queue (eq. 4 of the paper).

        A batch is padded, (B, L), or packed into one row, (1, T), once `allow_padding_free` has been called.

        Args:
            input_ids, attention_mask, token_type_ids: (B, L) or (1, T), the view of the online branch.
            position_ids, cu_seq_lens_q, max_length_q: Of a packed view, as `View` takes them; the names are those of
                transformers' `FlashAttentionKwargs`.
            prompt_length: Tokens at the start of each sentence that are not pooled; None to pool all.
            key_…: The view of the target; the same tokens under another dropout mask where None.
            sentence_ids: (B,) int64, handed through to the output; `mask_same_sentence` goes by them.
        """
        view = View(input_ids, attention_mask, token_type_ids, position_ids, cu_seq_lens_q, max_length_q)
        view.prompt_length = prompt_length
        key_view = (key_input_ids, key_attention_mask, key_token_type_ids)
        key_view += (key_position_ids, key_cu_seq_lens_q, key_max_length_q)
        key_view = view if key_input_ids is None else View(*key_view, prompt_length=key_prompt_length)
        if self.training and self.augmentation is not None:
            encoders = self.encoders()
            view, key_view = self.augmentation.views(view, key_view, encoders[0], encoders[-1])
            if self.augmentation.fgsm_epsilon:
                return contrast_under_attack(self, view, key_view, sentence_ids, self.augmentation.fgsm_epsilon)
        if self.config.has_other_terms:
            return combine_terms(self, view, key_view, sentence_ids)
        queries = self.encode_queries(**vars(view))  # (B, D)
        keys = self.encode_keys(**vars(key_view))  # (B, D)
        return self.contrast(queries, keys, sentence_ids)

    def contrast(self, queries: Tensor, keys: Tensor, sentence_ids: Tensor | None = None) -> MoCoSEOutput:
        """Contrast queries (B, D) with the keys of all processes and with the queue, which is left as it is.

        Raises:
            ValueError: If `mask_same_sentence` or `queue_positives` is set and there are no `sentence_ids` (B,).
        """
        return self.info_nce(queries, keys, sentence_ids, self.queue, self.config.in_batch_negatives)

    def info_nce(
        self,
        queries: Tensor,
        keys: Tensor,
        sentence_ids: Tensor | None,
        queue: NegativeQueue | None,
        in_batch_negatives: bool = True,
    ) -> MoCoSEOutput:
        """Return one InfoNCE term: queries (B, D) against the keys of all processes and the rows of a queue.

        Args:
            queries: (B, D), L2-normalised.
            keys: (B, D), L2-normalised; if they carry gradient, those of all processes keep it.
            sentence_ids: (B,) int64.
            queue: Gives further negatives by the policies of the configuration; None for none.
            in_batch_negatives: Whether the keys of other rows are negatives.

        Raises:
            ValueError: If `mask_same_sentence` or `queue_positives` is set and there are no `sentence_ids`.
        """
        config = self.config
        all_keys = gather_rows_with_gradient(keys)  # (W·B, D)
        labels = torch.arange(len(queries), device=queries.device) + process_index() * len(queries)  # (B,)
        negatives, log_weights = (keys[:0], None) if queue is None else self.queue_candidates(queue)  # (N, D), (N,)
        takes_positives = config.queue_positives > 0 and len(negatives) > 0
        ids = None
        if config.mask_same_sentence or takes_positives:
            if sentence_ids is None:
                raise ValueError(
                    "`mask_same_sentence` and `queue_positives` need the `sentence_ids` of each batch; give them, or "
                    "leave both out."
                )
            queued_ids = sentence_ids[:0] if queue is None else queue.row_ids
            ids = SentenceIds(sentence_ids, gather_rows(sentence_ids), queued_ids)
        contrast = (negatives, config.temperature, labels, in_batch_negatives)
        if len(negatives) >= CHUNKED_FROM and not keys.requires_grad:  # by chunks, keys would get no gradient
            loss, nearest = chunked_info_nce_loss(
                queries, all_keys, *contrast, log_weights=log_weights, sentence_ids=ids
            )
            logits = None
        else:
            logits = contrastive_logits(
                queries, all_keys, *contrast, log_weights=log_weights, sentence_ids=ids
            )  # (B, W·B + N)
            nearest = logits.argmax(-1) == labels
            if takes_positives:
                no_candidate = logits[:, len(all_keys) :] == float("-inf")  # (B, N)
                rows, is_positive = nearest_rows(
                    keys, negatives, config.queue_positives, no_candidate, config.queue_positive_similarity
                )
                columns = rows + len(all_keys)
                loss = multi_positive_loss(logits, labels, columns, is_positive, config.queue_positive_weight)
            else:
                loss = F.cross_entropy(logits, labels)
        return MoCoSEOutput(
            loss=loss,
            logits=logits,
            is_top1=nearest,
            labels=labels,
            query_embeddings=queries,
            key_embeddings=keys,
            sentence_ids=sentence_ids,
        )

    def relation_loss(
        self, queries: Tensor, keys: Tensor, sentence_ids: Tensor | None, queue: NegativeQueue
    ) -> Tensor:
        """Return the relation term of queries and keys (B, D) over the rows of a queue; see `losses.relation_loss`.

        Raises:
            ValueError: If there are no `sentence_ids` (B,), by which a sentence's own rows are left out.
        """
        if sentence_ids is None:
            raise ValueError("`relation_weight` needs the `sentence_ids` of each batch; give them, or set it to 0.")
        config = self.config
        rows, log_weights = self.queue_candidates(queue)  # (N, D), (N,)
        own = same_sentence(sentence_ids, queue.row_ids)  # (B, N)
        temperatures = (config.relation_temperature, config.relation_target_temperature)
        return relation_loss(queries, keys, rows, *temperatures, own, log_weights)

    def reshaping_loss(
        self, queries: Tensor, keys: Tensor, sentence_ids: Tensor | None, queue: NegativeQueue
    ) -> Tensor:
        """Return the reshaping term of queries and keys (B, D) over the rows of a queue; see `losses.reshape_keys`.

        Raises:
            ValueError: If there are no `sentence_ids` (B,), by which a sentence's own rows are left out.
        """
        if sentence_ids is None:
            raise ValueError("`reshaping_weight` needs the `sentence_ids` of each batch; give them, or set it to 0.")
        config = self.config
        rows, log_weights = self.queue_candidates(queue)  # (N, D), (N,)
        own = same_sentence(sentence_ids, queue.row_ids)  # (B, N)
        shape = (config.reshaping_whitening, config.reshaping_smoothing, config.reshaping_temperature)
        return reshaping_loss(queries, reshape_keys(keys, rows, own, *shape, log_weights))

    def queue_candidates(self, queue: NegativeQueue) -> tuple[Tensor, Tensor]:
        """Return what of a queue serves as negatives under the policies of the configuration.

        Returns:
            The slots or, with `queue_centroids`, their centroids, (N, D), and what is added to the logits of each,
            (N,) float32, −∞ for what is no negative.
        """
        config = self.config
        log_weights = queue.log_weights(
            config.queue_window, config.queue_window_softness, config.queue_half_life
        )  # (K,)
        if config.queue_centroids:
            return find_centroids(queue.rows, log_weights, config.queue_centroids)
        return queue.rows, log_weights

    def encode_queries(self, *view, **named) -> Tensor:
        """Run the online branch: encoder, pooler, projection head, predictor, L2 norm. (B, D), float32.

        The arguments are those of `mocose_hf.models.views.View`.
        """
        pooled = self._embed(self.mocose.encoder, View(*view, **named))  # (B, H)
        queries = self.predictor(self.projection_head(self.pooler(pooled)))  # (B, D)
        return F.normalize(queries.float(), dim=-1)

    @torch.no_grad()
    def encode_keys(self, *view, **named) -> Tensor:
        """Run the target branch: encoder, pooler, projection head, L2 norm. (B, D), float32, without gradient.

        The arguments are those of `mocose_hf.models.views.View`.
        """
        pooled = self._embed(self.target["encoder"], View(*view, **named))  # (B, H)
        keys = self.target["projection_head"](self.target["pooler"](pooled))  # (B, D)
        return F.normalize(keys.float(), dim=-1)

    def allow_padding_free(self) -> int | None:
        """Let both encoders take packed batches, where their family can.

        Returns:
            The position at which each packed sentence starts, None where the family cannot.
        """
        first = find_first_position(self.mocose.encoder)
        for encoder in self.encoders()[1:]:
            encoder.config._attn_implementation = self.mocose.encoder.config._attn_implementation
        return first

    @torch.no_grad()
    def update_target(self, decay: float) -> None:
        """Move the target in place to decay · target + (1 − decay) · online; 0 copies the online branch.

        Under DeepSpeed ZeRO-3 each process moves what it holds of the target, without communication.
        """
        pairs = list(local_values(self.momentum_pairs()))
        update_ema([target for target, _ in pairs], [online for _, online in pairs], decay)

    def ema_decay_at(self, step: int, total_steps: int, start: float, end: float) -> float:
        """Return the decay that the target moves with before step `step`; see `cosine_ema_decay`."""
        return cosine_ema_decay(step, total_steps, start, end)

    def momentum_pairs(self) -> list[tuple[Tensor, Tensor]]:
        """Return each parameter that the target owns with the online one it follows.

        Raises:
            ValueError: If the parameters of both branches do not correspond.
        """
        online = {"encoder": self.mocose.encoder, "pooler": self.pooler, "projection_head": self.projection_head}
        pairs = []
        for name, target_module in self.target.items():
            targets, onlines = list(target_module.parameters()), list(online[name].parameters())
            if [whole_shape(t) for t in targets] != [whole_shape(o) for o in onlines]:
                raise ValueError(
                    f"The online {name} was changed after the model was built: its {len(onlines)} parameters do not "
                    f"correspond to the {len(targets)} of the target. Merge adapters into the encoder before you "
                    "build the model, and resize embeddings by `model.resize_token_embeddings`."
                )
            pairs += [(t, o) for t, o in zip(targets, onlines, strict=True) if t is not o]
        return pairs

    def frozen_parameters(self) -> list[Tensor]:
        """Return the parameters that no optimizer may move: all that the target owns."""
        return [target for target, _ in self.momentum_pairs()]

    def freeze_target(self) -> None:
        """Take `frozen_parameters` out of training."""
        for parameter in self.frozen_parameters():
            parameter.requires_grad_(False)

    def encode(self, sentences: list[str], tokenizer, **options) -> Tensor:
        """Embed sentences with the online encoder; see `MoCoSEModel.encode`."""
        return self.mocose.encode(sentences, tokenizer, **options)

    def _embed(self, encoder: PreTrainedModel, view: View) -> Tensor:
        mode = self.config.pooling_mode
        cls_alone = self.only_first_token and self._last_layer_prepared and mode == "cls" and not view.prompt_length
        return embed_view(encoder, view, mode, self.mocose._takes_token_types, cls_alone)

    def _share_embeddings(self) -> None:
        if not isinstance(getattr(self.mocose.encoder, "embeddings", None), nn.Module):
            raise ValueError(
                f"{type(self.mocose.encoder).__name__} has no module `embeddings` to share between the branches; set "
                "`share_embeddings` to false."
            )
        self.target["encoder"].embeddings = self.mocose.encoder.embeddings
        self._keys_to_ignore_on_save = {
            f"target.encoder.embeddings.{name}" for name in self.mocose.encoder.embeddings.state_dict()
        }

    def _warn_where_views_are_equal(self) -> None:
        dropouts = self.config.encoder_dropouts
        if self.config.encoder_dropout_prob is None and dropouts and not any(dropouts.values()):
            logger.warning_once(
                f"The dropout of this {self.config.encoder_config.model_type} encoder is 0, so both views of a "
                "sentence are nearly equal; set `encoder_dropout_prob`, for example to 0.1."
            )


def _load_encoder(encoder: PreTrainedModel, source: PreTrainedModel) -> None:
    """Copy the weights of an encoder with a pooler of its own to one without.

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


TARGET_ARGUMENTS = ("ema_decay", "ema_decay_end", "ema_schedule", "ema_schedule_steps")
"""Training arguments that steer the target."""


def validate_no_target_arguments(args, algorithm: str) -> None:
    """Raise a `ValueError` if training arguments steer a target although there is none."""
    for name in TARGET_ARGUMENTS:
        if getattr(args, name) != type(args).__dataclass_fields__[name].default:
            raise ValueError(
                f"`{name}` is {getattr(args, name)}, but {algorithm} has no target to move; leave it out."
            )


AutoModelForPreTraining.register(MoCoSEConfig, MoCoSEForPreTraining, exist_ok=True)
