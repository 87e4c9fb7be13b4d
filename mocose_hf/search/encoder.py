"""An encoder that is ready to embed sentences, loaded from whatever a training may start from."""

import hashlib
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from mocose_hf.data.open_file import file_fingerprint
from mocose_hf.errors import InputError, one_line
from mocose_hf.models.loading import encoder_files, load_encoder, load_tokenizer
from mocose_hf.models.plain_model import build_plain_model


@dataclass
class SentenceEncoder:
    """A model with its tokenizer.

    Args:
        model: A `MoCoSEModel`.
        tokenizer: The tokenizer saved with it.
        fingerprint: A digest of its files, the same as long as they are.
    """

    model: Any
    tokenizer: Any
    fingerprint: str

    @classmethod
    def load(cls, name_or_path: str, default_pooling: str = "cls", **hub_options) -> "SentenceEncoder":
        """Load a plain, a sentence-transformers or a MoCoSE model.

        Args:
            name_or_path: A directory or a hub id.
            default_pooling: The pooling of an encoder that states none.
            hub_options: `revision` and `cache_dir`.

        Raises:
            InputError: If there is no model that can be loaded.
        """
        name = str(name_or_path)
        try:
            source = load_encoder(name, default_pooling=default_pooling, **hub_options)
            tokenizer = load_tokenizer(name, **hub_options)
            files = encoder_files(name, **hub_options)
        except (OSError, ValueError) as error:
            raise InputError(f"model: {name} cannot be loaded: {one_line(error)}.") from error
        model = build_plain_model(source).mocose.eval()
        parts = "".join(f"{path.name} {file_fingerprint(path)}\n" for path in files)
        return cls(model, tokenizer, hashlib.sha256(parts.encode()).hexdigest())

    def encode(self, texts: list[str], prompt_names: tuple[str, ...] = (), batch_size: int = 128) -> Tensor:
        """Embed texts as unit vectors.

        Args:
            texts: N texts.
            prompt_names: The first of these that the model has a prompt for is used; its default prompt otherwise.
            batch_size: Texts per forward.

        Returns:
            (N, H) float32, of length 1.
        """
        own = self.model.config.prompts or {}
        name = next((name for name in prompt_names if name in own), None)
        embeddings = self.model.encode(texts, self.tokenizer, batch_size=batch_size, prompt_name=name)
        return F.normalize(embeddings, dim=-1)
