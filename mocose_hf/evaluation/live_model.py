"""A model in training as a `SentenceTransformer`, for evaluators of sentence-transformers."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.evaluation import SentenceEvaluator, SequentialEvaluator
from sentence_transformers.sentence_transformer.modules import InputModule
from torch import Tensor
from torch.nn import functional as F

from mocose_hf.models.encoder_checks import evaluation_mode
from mocose_hf.models.encoding import PADDING, longest_input, model_inputs, validate_tokens
from mocose_hf.models.lower_casing import lower_case
from mocose_hf.models.prompts import count_prompt_tokens


class LiveModule(InputModule):
    """Embed texts by a `MoCoSEModel` in memory, whose weights it shares.

    Args:
        model: A `MoCoSEModel`.
        tokenizer: Its tokenizer.
        autocast_dtype: The autocast dtype, such as `torch.bfloat16`; None for the dtype of the weights.
    """

    def __init__(self, model, tokenizer, autocast_dtype: torch.dtype | None = None):
        super().__init__()
        self.mocose = model
        self.tokenizer = lower_case(tokenizer) if model.config.do_lower_case else tokenizer
        self.max_seq_length = longest_input(self.tokenizer, model.config)
        self._autocast_dtype = autocast_dtype

    def preprocess(self, inputs, prompt: str | None = None, **options) -> dict[str, Any]:
        """Return the padded tokens of texts behind a prompt."""
        texts = [(prompt or "") + text for text in inputs]
        limit = {"truncation": self.max_seq_length is not None, "max_length": self.max_seq_length}
        features = model_inputs(self.tokenizer(texts, return_tensors="pt", **PADDING, **limit))
        validate_tokens(features["attention_mask"], texts)
        if prompt and not self.mocose.config.include_prompt:
            features["prompt_length"] = count_prompt_tokens(self.tokenizer, prompt, self.max_seq_length)
        return features

    def forward(self, features: dict[str, Any], **options) -> dict[str, Any]:
        """Add `sentence_embedding`, (B, H) float32, and `token_embeddings`, (B, L, H), to the features of texts."""
        dtype, device = self._autocast_dtype, self.mocose.device.type
        with torch.autocast(device, dtype=dtype) if dtype else nullcontext():
            output = self.mocose(**model_inputs(features), prompt_length=features.get("prompt_length"))
        embeddings: Tensor = output.pooler_output.float()
        if self.mocose.config.normalize:
            embeddings = F.normalize(embeddings, dim=-1)
        return features | {"sentence_embedding": embeddings, "token_embeddings": output.last_hidden_state}

    def get_embedding_dimension(self) -> int:
        """Return H, the width of the embeddings."""
        return self.mocose.config.hidden_size

    def save(self, output_path: str, *args, **options) -> None:
        """Refuse: the model in training is saved by its trainer or by `export_sentence_encoder`."""
        raise NotImplementedError(
            "A live model cannot be saved; use `export_sentence_encoder(model, tokenizer, path)`."
        )


def as_sentence_transformer(model, tokenizer, autocast_dtype: torch.dtype | None = None) -> SentenceTransformer:
    """Return a model as a `SentenceTransformer` that shares its weights, so it follows a training without an export.

    Args:
        model: A `MoCoSEModel` or a model with one, such as `MoCoSEForPreTraining`.
        tokenizer: Its tokenizer.
        autocast_dtype: As in `LiveModule`.
    """
    model = getattr(model, "mocose", model)
    config = model.config
    return SentenceTransformer(
        modules=[LiveModule(model, tokenizer, autocast_dtype)],
        device=str(model.device),
        prompts=config.prompts,
        default_prompt_name=config.default_prompt_name,
        similarity_fn_name=config.similarity_fn_name,
        truncate_dim=config.truncate_dim,
    )


def build_evaluator(evaluator) -> SentenceEvaluator:
    """Return an evaluator of sentence-transformers, which runs several in order if a list is given."""
    return SequentialEvaluator(evaluator) if isinstance(evaluator, list | tuple) else evaluator


def run_evaluator(
    evaluator: SentenceEvaluator, model, tokenizer, folder: Path | None, epoch: float, step: int, **options
) -> dict[str, float]:
    """Score a model by an evaluator of sentence-transformers, without changing the model.

    Args:
        evaluator: The evaluator.
        model, tokenizer: As in `as_sentence_transformer`.
        folder: The folder in which the evaluator may write files; None for none.
        epoch, step: Of the training.
        options: As `as_sentence_transformer` takes them.

    Returns:
        Its metrics by name; `evaluator` if it returns one number.
    """
    with evaluation_mode(model):
        live = as_sentence_transformer(model, tokenizer, **options)
        metrics = evaluator(live, None if folder is None else str(folder), epoch, step)
    metrics = metrics if isinstance(metrics, dict) else {"evaluator": metrics}
    return {name: float(value) for name, value in metrics.items()}
