"""MoCoSE: sentence embeddings by momentum contrast (https://arxiv.org/abs/2202.13093), in the order of the paper.

    query view ─ embeddings ─ online encoder ─ pooler ─ projection ─ predictor ─ queries (B, D) ─┐
                 (shared)          │ EMA          │ EMA      │ EMA                               ├─ logits ─ loss
    key view ─── embeddings ─ target encoder ─ pooler ─ projection ───────────── keys (B, D) ────┤
                                                                     queue of past keys (K, D) ──┘

The two views of a sentence are the same tokens under two dropout masks, unless an option changes a view.

Parts of the paper that are in other files:

* InfoNCE: queue_contrast.py, with the logits in losses.py. Further terms of the loss: loss_terms.py.
* The queue, of which `queue_init_size` rows are random at the start: negative_queue.py.
* The schedule of the EMA decay: ema.py. After each optimizer step, training/callbacks/momentum_update.py puts the keys
  into the queue. Then it calls `update_target` with η of the step that comes next.
* Options: configuration_mocose.py. Loading, saving and `forward`, which all algorithms share: modeling_base.py.
"""

import re

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModelForPreTraining

from mocose_hf.models.adapters import AdapterAverage
from mocose_hf.models.configuration_mocose import MoCoSEConfig, validate_resources
from mocose_hf.models.ema import update_ema
from mocose_hf.models.heads import build_pooler, build_predictor, build_projection_head
from mocose_hf.models.loading import build_encoder
from mocose_hf.models.loss_terms import combine_terms
from mocose_hf.models.modeling_base import ContrastiveModel, ContrastiveOutput
from mocose_hf.models.negative_queue import NegativeQueue
from mocose_hf.models.queue_contrast import QueueContrast
from mocose_hf.models.views import HardNegatives, View
from mocose_hf.parallel.deepspeed import local_values, whole_shape


class MoCoSEForPreTraining(QueueContrast, ContrastiveModel):
    """Both branches, the heads and the queue: everything that one training step needs.

    Modules:
        mocose: `MoCoSEModel`, the online encoder.
        pooler: Linear (H, H) on the pooled embedding, without activation; the identity without `config.use_pooler`.
        projection_head: `num_projection_layers` times Linear, LayerNorm and Dropout, from H to D.
        predictor: `num_predictor_layers` such layers on D, of which the last is Linear and tanh. Only the online
            branch has it.
        target: Frozen EMA of the online encoder, pooler and projection head, under the names `encoder`, `pooler` and
            `projection_head`. With `config.share_embeddings` it uses the embedding layer of the online encoder. With
            an adapter its encoder is an `AdapterAverage`. It is empty if no term of the loss needs it.
        queue: `NegativeQueue`.
        reverse_queue: The queue of the second loss, whose views are swapped. None without `symmetric_loss`, or if
            `queue_size` is 0.
    """

    config_class = MoCoSEConfig
    algorithm = "mocose"
    collapse_remedies = (
        "with a higher `ema_decay`, with a predictor (`num_predictor_layers`), or with a lower `learning_rate`"
    )
    _tied_weights_keys = {r"target\.encoder\.embeddings\.": r"mocose\.encoder\.embeddings\."}

    def __init__(self, config: MoCoSEConfig):
        super().__init__(config)  # builds `mocose`
        self.pooler = build_pooler(config)
        self.projection_head = build_projection_head(config)
        self.predictor = build_predictor(config)
        self.target = self.build_target(config)
        if self.mocose.adapter is not None and config.has_target:
            self.target["encoder"] = AdapterAverage(self.mocose.encoder, self.mocose.adapter)
        self.queue = self.build_queue(config)
        self.reverse_queue = self.build_queue(config) if config.symmetric_loss and config.queue_size else None
        if config.share_embeddings and config.has_target and self.mocose.adapter is None:
            self._share_embeddings()
        else:
            self._tied_weights_keys = None
        self.post_init()  # the target becomes a frozen copy of the online branch

    @staticmethod
    def build_target(config: MoCoSEConfig) -> nn.ModuleDict:
        """Build the target branch, which has no predictor; empty if no term of the loss needs it.

        If there is an adapter, `__init__` adds the encoder later.
        """
        if not config.has_target:
            return nn.ModuleDict()
        encoder = {} if config.peft_config is not None else {"encoder": build_encoder(config)}
        heads = {"pooler": build_pooler(config), "projection_head": build_projection_head(config)}
        return nn.ModuleDict(encoder | heads)

    @staticmethod
    def build_queue(config: MoCoSEConfig) -> NegativeQueue:
        """Build the queue with its initial part of random unit rows."""
        dtype = getattr(torch, config.queue_dtype)
        return NegativeQueue(config.queue_size, config.embedding_dim, config.queue_init_size, dtype)

    def contrast_views(
        self, view: View, key_view: View, sentence_ids: Tensor | None = None, negatives: HardNegatives | None = None
    ) -> ContrastiveOutput:
        """Encode each view by its branch, then contrast the queries with the keys and the queue."""
        if self.config.has_other_terms:
            return combine_terms(self, view, key_view, sentence_ids, [] if negatives is None else [negatives])
        queries = self.encode_queries(view)  # (B, D)
        keys = self.encode_keys(key_view)  # (B, D)
        return self.contrast(queries, keys, sentence_ids)

    def encode_queries(self, view: View) -> Tensor:
        """Run the online branch: encoder, pooler, projection head, predictor, L2 norm. (B, D), float32."""
        pooled = self.embed(self.mocose.encoder, view)  # (B, H)
        queries = self.predictor(self.projection_head(self.pooler(pooled)))  # (B, D)
        return F.normalize(queries.float(), dim=-1)

    @torch.no_grad()
    def encode_keys(self, view: View) -> Tensor:
        """Run the target branch: encoder, pooler, projection head, L2 norm. (B, D), float32, without gradient."""
        pooled = self.embed(self.target["encoder"], view)  # (B, H)
        keys = self.target["projection_head"](self.target["pooler"](pooled))  # (B, D)
        return F.normalize(keys.float(), dim=-1)

    def contrast(self, queries: Tensor, keys: Tensor, sentence_ids: Tensor | None = None) -> ContrastiveOutput:
        """Return the loss of the paper (eq. 4): queries (B, D) against keys (B, D) and the queue.

        Raises:
            ValueError: If `mask_same_sentence` or `queue_positives` is set and there are no `sentence_ids` (B,).
        """
        return self.info_nce(queries, keys, sentence_ids, self.queue, self.config.in_batch_negatives)

    @torch.no_grad()
    def update_target(self, decay: float) -> None:
        """Move the target in place to decay · target + (1 − decay) · online.

        A decay of 0 copies the online branch. The caller has the schedule; see `cosine_ema_decay`.
        """
        # Under DeepSpeed ZeRO-3 each process moves its own shards, without communication.
        pairs = list(local_values(self.momentum_pairs()))
        update_ema([target for target, _ in pairs], [online for _, online in pairs], decay)

    def momentum_pairs(self) -> list[tuple[Tensor, Tensor]]:
        """Return pairs of a target parameter and the online parameter that it follows; shared ones are not included.

        Raises:
            ValueError: If the parameters of the two branches do not correspond.
        """
        online = {"encoder": self.mocose.encoder, "pooler": self.pooler, "projection_head": self.projection_head}
        pairs: list[tuple[Tensor, Tensor]] = []
        for name, target_module in self.target.items():
            if isinstance(target_module, AdapterAverage):
                pairs += target_module.pairs()
                continue
            targets, onlines = list(target_module.parameters()), list(online[name].parameters())
            if [whole_shape(t) for t in targets] != [whole_shape(o) for o in onlines]:
                raise ValueError(
                    f"The online {name} was changed after the model was built: its {len(onlines)} parameters do not "
                    f"correspond to the {len(targets)} of the target. Merge adapters into the encoder before you "
                    "build the model, and resize embeddings by `model.resize_token_embeddings`."
                )
            pairs += [(t, o) for t, o in zip(targets, onlines, strict=True) if t is not o]
        return pairs

    def set_input_embeddings(self, value: nn.Module) -> None:  # noqa: D102
        super().set_input_embeddings(value)
        if self.config.share_embeddings and self.config.has_target and self.mocose.adapter is None:
            self.encoders()[-1].set_input_embeddings(value)

    def encoders(self) -> list:
        """Return the online encoder, then the target's, if there is one. The latter may be an `AdapterAverage`."""
        return [self.mocose.encoder] + ([self.target["encoder"]] if self.config.has_target else [])

    @classmethod
    def validate_settings(cls, config: MoCoSEConfig, args) -> None:
        """Raise a `ValueError` if a model of this configuration cannot use these `MoCoSETrainingArguments`."""
        super().validate_settings(config, args)
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

    validate_resources = staticmethod(validate_resources)

    def _share_embeddings(self) -> None:
        """Let the target use the online encoder's `embeddings`; if there is no such module, its word embeddings."""
        online, target = self.encoders()
        name = "embeddings"
        if not isinstance(getattr(online, name, None), nn.Module):
            words = online.get_input_embeddings()
            name = next(name for name, module in online.named_modules() if module is words)
        embeddings = online.get_submodule(name)
        target.set_submodule(name, embeddings)
        pattern = re.escape(name)
        self._tied_weights_keys = {rf"target\.encoder\.{pattern}\.": rf"mocose\.encoder\.{pattern}\."}
        self._keys_to_ignore_on_save = {f"target.encoder.{name}.{key}" for key in embeddings.state_dict()}


AutoModelForPreTraining.register(MoCoSEConfig, MoCoSEForPreTraining, exist_ok=True)
