"""Momentum contrast as a loss that `SentenceTransformerTrainer` takes."""

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.utils import extract_model_from_parallel
from sentence_transformers import SentenceTransformer
from sentence_transformers.util import batch_to_device
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BertConfig

from mocose_hf.models.configuration_mocose import MoCoSEConfig
from mocose_hf.models.ema import cosine_ema_decay, update_ema
from mocose_hf.models.encoder_checks import evaluation_mode
from mocose_hf.models.loss_terms import combine_terms
from mocose_hf.models.modeling_base import ContrastiveOutput
from mocose_hf.models.negative_queue import NegativeQueue
from mocose_hf.models.queue_contrast import QueueContrast
from mocose_hf.models.views import HardNegatives
from mocose_hf.training.callbacks.momentum_update import RecordedForward
from mocose_hf.training.train_metrics import measure

_HASH_BASE = 6_364_136_223_846_793_005
"""An odd 64-bit number, whose powers weigh the tokens of a text in its id."""


@dataclass
class _Column:
    """One column of a batch: its features for the online model, others for the target, and its keys."""

    features: dict[str, Any]
    target_features: dict[str, Any]
    keys: Tensor | None = None  # (B, D), of all dimensions


class MomentumContrastLoss(QueueContrast, nn.Module):
    """Contrast the queries of a SentenceTransformer with keys of its momentum copy and a queue of past keys.

    The target is a copy of the whole model that follows it as an exponential moving average (MoCo,
    https://arxiv.org/abs/1911.05722; for sentences: MoCoSE, https://arxiv.org/abs/2202.13093). It encodes the keys
    without gradient, with dropout as in the model. Queries and keys are the sentence embeddings, without heads.
    `MomentumCallback` moves the target and fills the queue after each optimizer step; give it to the trainer too.

    A dataset has one column, whose texts are contrasted with themselves under other dropout masks; or two, the query
    and its positive; or more, of which the others are hard negatives of the query. A column with labels is ignored.

    Within `MatryoshkaLoss` the target encodes a batch once. The queue holds whole keys, and each dimension contrasts
    their normalised prefixes.

    Args:
        model: The model that is trained.
        queue_size: Number K of past keys; 0 for none.
        temperature: τ > 0.
        ema_decay: EMA decay η of the target, in [0, 1]; 1 keeps the start.
        ema_decay_end: η at the end of the run, which a cosine schedule approaches; None to keep `ema_decay`.
        queue_weight: Weight of the momentum term: queries against the target's keys of the batch and the queue.
        in_batch_weight: Weight of the in-batch term: queries against the online embeddings of the positives and hard
            negatives of the batch, with gradient through both, as in MultipleNegativesRankingLoss.
        symmetric: Whether each term is also computed from the positive to the query, with a queue of its own, and the
            two are averaged.
        mask_same_sentence: Whether keys of the same text as a query's own key are no negatives of it.
        queue_dtype: "float32", or "bfloat16" for half the memory of the queue.
        reshaping_weight: Weight of the reshaping term, which draws a query to its key as the queue reshapes it. Fill
            the queue by `fill_queue` before the training.
        reshaping_whitening, reshaping_smoothing, reshaping_temperature: As in `MoCoSEConfig`.

    Modules:
        model: The model, which the trainer may wrap.
        target: The momentum copy, frozen, in float32.
        queue, reverse_queue: `NegativeQueue` of each direction; the second is None unless `symmetric`.

    Raises:
        ValueError: If a value is outside its range or has no effect.

    Examples:
        >>> loss = MomentumContrastLoss(model, queue_size=2048, in_batch_weight=1.0)  # doctest: +SKIP
        >>> trainer = SentenceTransformerTrainer(
        ...     model, args, data, loss=loss, callbacks=[MomentumCallback(loss)]
        ... )  # doctest: +SKIP
    """

    queue: NegativeQueue
    reverse_queue: NegativeQueue | None

    def __init__(
        self,
        model: SentenceTransformer,
        queue_size: int = 512,
        temperature: float = 0.05,
        ema_decay: float = 0.95,
        ema_decay_end: float | None = None,
        queue_weight: float = 1.0,
        in_batch_weight: float = 0.0,
        symmetric: bool = False,
        mask_same_sentence: bool = False,
        queue_dtype: str = "float32",
        reshaping_weight: float = 0.0,
        reshaping_whitening: float = 0.0,
        reshaping_smoothing: float = 0.0,
        reshaping_temperature: float = 0.05,
    ):
        super().__init__()
        self.settings = {name: value for name, value in locals().items() if name not in ("self", "model", "__class__")}
        for name, value in (("ema_decay", ema_decay), ("ema_decay_end", ema_decay_end)):
            if value is not None and not 0.0 <= value <= 1.0:
                raise ValueError(f"`{name}` lies in [0, 1], but is {value}.")
        self.ema_decay = ema_decay
        self.ema_decay_end = ema_decay if ema_decay_end is None else ema_decay_end
        self.config = _build_config(model, self.settings)
        self.model = model
        self.target = copy.deepcopy(model).float().requires_grad_(False).eval()
        self.queue = self._build_queue()
        self.reverse_queue = self._build_queue() if symmetric and queue_size else None
        self.has_callback = False
        self.forwards: list[RecordedForward] = []
        self._batch: tuple[object, list[_Column]] | None = None
        self._width = self.queue.dim  # number of dimensions that the current forward compares

    # What the trainer calls

    def forward(self, sentence_features: Iterable[dict[str, Any]], labels: Tensor | None = None) -> Tensor:
        """Return the loss of a batch, a scalar.

        Args:
            sentence_features: The features of each column.
            labels: Ignored.

        Raises:
            RuntimeError: In training without a `MomentumCallback`.
            ValueError: If there are hard negatives but no in-batch term, or the queue is empty but the reshaping
                term needs it.
        """
        is_new = self._batch is None or self._batch[0] is not sentence_features
        if is_new:
            self._batch = sentence_features, _split_columns(sentence_features)
        columns = self._batch[1]
        is_training = self.model.training and torch.is_grad_enabled()
        if is_training and not self.has_callback:
            raise RuntimeError(
                "`MomentumContrastLoss` needs its callback to move the target and to fill the queue; give the trainer "
                "`callbacks=[MomentumCallback(loss)]`."
            )
        if self.target.training != self.model.training:
            self.target.train(self.model.training)
        outputs = self._contrast_columns(columns)
        if is_training and is_new:  # `MatryoshkaLoss` calls this once for each dimension
            parts = (measure(outputs.loss, outputs), columns[1].keys, outputs.sentence_ids)
            self.forwards.append(RecordedForward(*parts, columns[0].keys if self.config.symmetric_loss else None))
        if not is_training:
            self._batch = None
        return outputs.loss

    def _contrast_columns(self, columns: list[_Column]) -> ContrastiveOutput:
        query_column, key_column, *others = columns
        if others and not self.config.takes_hard_negatives:
            raise ValueError(
                f"The batch has {len(others)} columns of hard negatives, but the loss has no in-batch term to "
                "contrast them; raise `in_batch_weight` above 0, or select two columns."
            )
        if self.config.reshaping_weight and not int(self.queue.num_filled):
            raise ValueError("`reshaping_weight` needs keys in the queue; call `loss.fill_queue(texts)` first.")
        ids = _text_ids(key_column.features)  # (B,)
        if not self.config.has_other_terms:
            return self.info_nce(self.encode_queries(query_column), self.encode_keys(key_column), ids, self.queue)
        negatives = []
        column: Any  # takes the place of a `View`
        for column in others:
            sizes = [len(value) for value in column.features.values() if isinstance(value, Tensor) and value.ndim]
            rows = torch.arange(max(sizes), device=self.target.device)
            negatives.append(HardNegatives(column, rows, _text_ids(column.features), ids))
        return combine_terms(self, query_column, key_column, ids, negatives)

    def encode_queries(self, column: _Column) -> Tensor:
        """Return the embeddings of a column by the online model, (B, D) float32, L2-normalised."""
        queries = self.model(column.features)["sentence_embedding"]  # (B, D), of fewer dimensions in MatryoshkaLoss
        self._width = queries.shape[-1]
        return F.normalize(queries.float(), dim=-1)

    @torch.no_grad()
    def encode_keys(self, column: _Column) -> Tensor:
        """Return the keys of a column by the target, (B, D) float32, L2-normalised, without gradient."""
        if column.keys is None:
            keys = self.target(column.target_features)["sentence_embedding"]
            column.keys = F.normalize(keys.float(), dim=-1)
        return self._shorten(column.keys)

    def queue_candidates(self, queue: NegativeQueue) -> tuple[Tensor, Tensor]:
        """Return the rows of a queue in the dimensions that are compared, (K, D), and the log of their weights."""
        rows, log_weights = super().queue_candidates(queue)
        return self._shorten(rows), log_weights

    def _shorten(self, rows: Tensor) -> Tensor:
        """Return the first dimensions of unit vectors, L2-normalised."""
        if self._width == rows.shape[1]:
            return rows
        return F.normalize(rows[:, : self._width].float(), dim=-1)

    # What the callback calls

    def begin_training(self) -> None:
        """Copy the model to the target, and empty the queue unless `fill_queue` has filled it."""
        self.resume_training()
        self.update_target(0.0)
        for queue in self.queues():
            if bool((queue.enqueued_at > 0).any()):
                queue.clear()

    def resume_training(self) -> None:
        """Drop what an interrupted training has left; target and queue stay."""
        self.has_callback = True
        self.forwards, self._batch = [], None

    def take_forwards(self) -> list[RecordedForward]:
        """Return the forwards since the last call, in order, and forget them."""
        forwards, self.forwards, self._batch = self.forwards, [], None
        return forwards

    def ema_decay_at(self, step: int, total_steps: int) -> float:
        """Return η of a step, counted from 1."""
        return cosine_ema_decay(step, total_steps, self.ema_decay, self.ema_decay_end)

    @torch.no_grad()
    def update_target(self, decay: float) -> None:
        """Move the target in place to decay · target + (1 − decay) · model; 0 copies the model."""
        pairs = self.momentum_pairs().values()
        update_ema([target for target, _ in pairs], [online for _, online in pairs], decay)

    def momentum_pairs(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Return each parameter of the target with the one of the model that it follows, by name.

        Raises:
            ValueError: If the model has got other parameters since.
        """
        targets, onlines = (dict(module.named_parameters()) for module in (self.target, self.online_model()))
        if {n: t.shape for n, t in targets.items()} != {n: o.shape for n, o in onlines.items()}:
            raise ValueError(
                f"The {len(onlines)} parameters of the model do not correspond to the {len(targets)} of its target; "
                "add adapters and tokens to the model before you build `MomentumContrastLoss`."
            )
        return {name: (target, onlines[name]) for name, target in targets.items()}

    def queues(self) -> list[NegativeQueue]:
        """Return the queue, and the reverse queue if there is one."""
        return [queue for queue in (self.queue, self.reverse_queue) if queue is not None]

    def online_model(self) -> SentenceTransformer:
        """Return the model without the wrappers of the trainer."""
        return extract_model_from_parallel(self.model)

    def momentum_state(self) -> dict[str, Tensor]:
        """Return the tensors of target and queues, which a resumed training needs, by name."""
        state = {f"target.{name}": target.detach() for name, (target, _) in self.momentum_pairs().items()}
        for name in ("queue", "reverse_queue"):
            if getattr(self, name) is not None:
                state |= {f"{name}.{key}": value for key, value in getattr(self, name).state_dict().items()}
        return state

    # What users call

    @torch.no_grad()
    def fill_queue(
        self,
        texts: Sequence[str],
        queries: Sequence[str] | None = None,
        *,
        prompt: str | None = None,
        query_prompt: str | None = None,
        batch_size: int = 64,
    ) -> None:
        """Fill the queue with the keys of texts before the training, with dropout off.

        Args:
            texts: Of the positives, at most `queue_size`.
            queries: As many queries, whose keys fill the reverse queue of a symmetric loss; None for `texts`.
            prompt, query_prompt: What the training puts before the texts; None for nothing.
            batch_size: Texts per forward.

        Raises:
            ValueError: If there are more texts than the queue holds, or not as many queries.
        """
        queries = texts if queries is None else queries
        if len(texts) > self.queue.size or len(texts) != len(queries):
            raise ValueError(
                f"`fill_queue` takes at most `queue_size` = {self.queue.size} texts and as many queries, not "
                f"{len(texts)} and {len(queries)}."
            )
        self.update_target(0.0)
        model = self.online_model()
        sides = ((texts, prompt), (queries, query_prompt))
        for queue in self.queues():
            queue.clear()
        with evaluation_mode(self.target):
            for start in range(0, len(texts), batch_size):
                ids = None
                for queue, (side, text_before) in zip(self.queues(), sides, strict=False):
                    features = model.preprocess(list(side[start : start + batch_size]), prompt=text_before)
                    features = batch_to_device(features, model.device)
                    ids = _text_ids(features) if ids is None else ids
                    keys = self.target(dict(features))["sentence_embedding"]
                    queue.enqueue(F.normalize(keys.float(), dim=-1), ids)

    def get_config_dict(self) -> dict[str, Any]:
        """Return the settings, which sentence-transformers writes into its model card."""
        return dict(self.settings)

    @property
    def citation(self) -> str:
        """The BibTeX entry of the method, for the model card."""
        return """
@inproceedings{cao2022exploring,
    title={Exploring the Impact of Negative Samples of Contrastive Learning: A Case Study of Sentence Embedding},
    author={Cao, Rui and Wang, Yihao and Liang, Yuxin and Gao, Ling and Zheng, Jie and Ren, Jie and Wang, Zheng},
    booktitle={Findings of the Association for Computational Linguistics: ACL 2022},
    year={2022},
    url={https://arxiv.org/abs/2202.13093},
}
"""

    def _build_queue(self) -> NegativeQueue:
        config = self.config
        queue = NegativeQueue(config.queue_size, config.embedding_dim, dtype=getattr(torch, config.queue_dtype))
        return queue.to(self.target.device)


def _build_config(model: SentenceTransformer, settings: dict[str, Any]) -> MoCoSEConfig:
    """Return the configuration of the loss, whose encoder stands for the whole model by its width.

    Raises:
        ValueError: If a value cannot be used, or no term needs a target.
    """
    width = model.get_embedding_dimension()
    names = {name: value for name, value in settings.items() if not name.startswith("ema_")}
    config = MoCoSEConfig(
        encoder_config=BertConfig(hidden_size=width, num_attention_heads=1),
        use_pooler=False,
        num_projection_layers=0,
        num_predictor_layers=0,
        share_embeddings=False,
        queue_init_size=0,
        symmetric_loss=names.pop("symmetric"),
        **names,
    )
    if not config.has_target:
        raise ValueError(
            "`queue_weight` and `reshaping_weight` are 0, so nothing needs the target; raise one, or take "
            "MultipleNegativesRankingLoss."
        )
    return config


def _split_columns(sentence_features: Iterable[dict[str, Any]]) -> list[_Column]:
    """Return the columns of a batch, at least two: of one column, its texts are queries and keys.

    A model writes its output into the features, so each further forward of the same features gets a copy.
    """
    features = list(sentence_features)
    columns = [_Column(column, dict(column)) for column in features]
    if len(columns) == 1:
        columns.append(_Column(dict(features[0]), dict(features[0])))
    return columns


def _text_ids(features: dict[str, Any]) -> Tensor | None:
    """Return an id of each text, a hash of its tokens, (B,) int64 ≥ 0; None if features are not padded tokens."""
    tokens, mask = features.get("input_ids"), features.get("attention_mask")
    if tokens is None or mask is None or tokens.ndim != 2 or mask.shape != tokens.shape:
        return None
    places = (mask.long().cumsum(1) - 1).clamp(min=0)  # on whichever side the padding is
    powers = torch.full((tokens.shape[1],), _HASH_BASE, device=tokens.device).cumprod(0)
    return ((tokens.long() + 1) * powers[places] * mask.long()).sum(1) & torch.iinfo(torch.int64).max
