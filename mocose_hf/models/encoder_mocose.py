"""The encoder that all algorithms train, and the common ground of its models with transformers."""

import inspect
import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling

from mocose_hf.errors import one_line
from mocose_hf.models import adapters
from mocose_hf.models.configuration_base import ContrastiveConfig
from mocose_hf.models.configuration_mocose import MoCoSEConfig
from mocose_hf.models.dense_layer import DenseLayer
from mocose_hf.models.encoder_checks import without_cache
from mocose_hf.models.encoding import encode
from mocose_hf.models.loading import build_encoder, load_encoder
from mocose_hf.models.negative_queue import NegativeQueue
from mocose_hf.models.pooling import exclude_prompt, first_tokens, pool, rotate_rows
from mocose_hf.parallel.deepspeed import whole_weights

_bases_being_loaded: list[str] = []
"""The bases of adapters, each of which has the next one as its base."""


class MoCoSEPreTrainedModel(PreTrainedModel):
    """Load and save all models of this package as transformers does."""

    config_class = ContrastiveConfig
    base_model_prefix = "mocose"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    @classmethod
    def from_pretrained(cls, *args, **kwargs):
        """Load as any `PreTrainedModel`, only from safetensors; under ZeRO-3 each process loads the whole model.

        The base of an adapter comes from the encoder that its configuration names.

        Raises:
            ValueError: If that encoder cannot be loaded, or has changed since.
        """
        kwargs["use_safetensors"] = True
        with whole_weights():
            loaded = super().from_pretrained(*args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        (model if isinstance(model, MoCoSEModel) else model.mocose).load_base(kwargs.get("cache_dir"))
        return loaded

    def _leave_out_base(self, encoder_path: str, adapter: "adapters.Adapter | None") -> None:
        """Neither save nor miss the base of an adapter, which `load_base` loads from its own files."""
        if adapter is None:
            return
        names = {f"{encoder_path}.{name}" for name in adapter.kept_names()}
        self._keys_to_ignore_on_save = names
        self._keys_to_ignore_on_load_missing = {f"^{re.escape(name)}$" for name in names}

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, (NegativeQueue, DenseLayer)):
            for name, value in module.initial_state().items():
                init.copy_(getattr(module, name), value)


class MoCoSEModel(MoCoSEPreTrainedModel):
    """The trained encoder: token embeddings and, as `pooler_output`, the sentence embedding.

    This is the online encoder of `MoCoSEForPreTraining` without the heads, which only training uses: the embedding is
    pooled from the encoder's last hidden state, before the pooler (https://arxiv.org/abs/2202.13093, section 4). With
    `config.dense_activation` the fixed layer `dense` follows the pooling.
    """

    config_class = MoCoSEConfig
    _keys_to_ignore_on_load_unexpected = [r"^(pooler|projection_head|predictor|target|queue|reverse_queue)\."]

    def __init__(self, config: ContrastiveConfig):
        super().__init__(config)
        config.prepare()
        self.encoder = build_encoder(config)
        self.dense = build_dense(config)
        self.adapter = None if config.peft_config is None else adapters.inject(self.encoder, config.peft_config)
        self.takes_token_types = "token_type_ids" in inspect.signature(self.encoder.forward).parameters
        self.post_init()
        self._leave_out_base("encoder", self.adapter)

    def load_base(self, cache_dir: str | None = None) -> None:
        """Load the frozen weights under an adapter from the encoder that the configuration names.

        Without an adapter, do nothing.

        Args:
            cache_dir: Directory for downloaded models.

        Raises:
            ValueError: If that encoder cannot be loaded, or has changed since.
        """
        if self.adapter is None:
            return
        config = self.config
        name, revision = (config.peft_config.get(key) for key in ("base_model_name_or_path", "revision"))
        remedy = "put it back, or correct `base_model_name_or_path` in config.json"
        if name is None:
            raise ValueError(f"The adapter names no encoder as its base; {remedy}.")
        if name in _bases_being_loaded:
            raise ValueError(f"{name} is below itself as the base of an adapter; {remedy}.")
        _bases_being_loaded.append(name)
        try:
            base = load_encoder(name, revision=revision, cache_dir=cache_dir).encoder
        except (OSError, ValueError) as error:
            reason = f"cannot be loaded ({one_line(error)})"
            raise ValueError(f"{name}, the base of the adapter, {reason}; {remedy}.") from error
        finally:
            _bases_being_loaded.pop()
        if adapters.fingerprint_base(base, self.adapter, is_plain=True) != config.base_sha256:
            raise ValueError(f"{name} is not the encoder that the adapter was trained on; {remedy}.")
        adapters.copy_base(base.state_dict(), self.encoder, self.adapter)

    def plain_weights(self) -> dict[str, Tensor]:
        """Return the weights of the plain encoder, with the adapter merged into them if there is one."""
        if self.adapter is None:
            return self.encoder.state_dict()
        return adapters.merged_weights(self.encoder, self.adapter)

    def get_input_embeddings(self) -> nn.Module:  # noqa: D102
        return self.encoder.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:  # noqa: D102
        self.encoder.set_input_embeddings(value)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        prompt_length: int | None = None,
        **encoder_options,
    ) -> BaseModelOutputWithPooling:
        """Encode a padded batch.

        The side of the padding does not change the embedding: the encoder itself always gets it on the right.

        Args:
            input_ids: (B, L) int64.
            attention_mask: (B, L), 1 for tokens and 0 for padding; None if there is no padding.
            token_type_ids: (B, L) int64; ignored if the encoder takes none.
            prompt_length: Number of tokens at the start of each sentence that are not pooled; None to pool all.
            encoder_options: Further arguments of the encoder, such as `inputs_embeds` or `output_hidden_states`. With
                `position_ids` the encoder gets the batch unchanged.

        Returns:
            `last_hidden_state` (B, L, H) and `pooler_output` (B, H), the sentence embedding; a tuple of the
            two if `return_dict` is false. `attentions` are those of the batch with padding on the right.
        """
        return_dict = encoder_options.pop("return_dict", None)
        batch = {"input_ids": input_ids, "inputs_embeds": encoder_options.pop("inputs_embeds", None)}
        if self.takes_token_types:
            batch["token_type_ids"] = token_type_ids
        batch = {name: rows for name, rows in batch.items() if rows is not None}
        encoder_options = without_cache(self.encoder) | encoder_options
        starts = None  # (B,), the index of each first token
        if attention_mask is not None and attention_mask.ndim == 2 and "position_ids" not in encoder_options:
            starts = first_tokens(attention_mask)
            attention_mask = rotate_rows(attention_mask, starts)
            batch = {name: rotate_rows(rows, starts) for name, rows in batch.items()}
        output = self.encoder(**batch, attention_mask=attention_mask, return_dict=True, **encoder_options)
        hidden, states = output.last_hidden_state, output.get("hidden_states")  # (B, L, H)
        pooled_tokens = exclude_prompt(attention_mask, prompt_length, hidden)  # (B, L)
        pooled = self.dense(pool(hidden, pooled_tokens, self.config.pooling_mode))  # (B, H)
        if starts is not None:
            hidden = rotate_rows(hidden, -starts)
            states = states and tuple(rotate_rows(state, -starts) for state in states)
        output = BaseModelOutputWithPooling(
            last_hidden_state=hidden,
            pooler_output=pooled,
            hidden_states=states,
            attentions=output.get("attentions"),
        )
        return output.to_tuple() if return_dict is False else output

    def encode(self, sentences: str | Sequence[str], tokenizer=None, **options) -> Any:
        """Embed sentences, (len(sentences), H) float32 on the CPU, as `mocose_hf.models.encoding.encode`."""
        return encode(self, sentences, tokenizer, **options)


def build_dense(config: ContrastiveConfig) -> nn.Module:
    """Build the fixed dense layer behind the pooling, or the identity without `dense_activation`."""
    if config.dense_activation is None:
        return nn.Identity()
    return DenseLayer(config.hidden_size, config.dense_activation)


AutoModel.register(MoCoSEConfig, MoCoSEModel, exist_ok=True)
