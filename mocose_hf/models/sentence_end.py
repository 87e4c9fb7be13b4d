"""The token at the end of a sentence, whose state is the embedding under last-token pooling."""

import json

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from mocose_hf.errors import printable

logger = logging.get_logger(__name__)


def ends_with_special_token(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether a tokenizer puts a special token, such as the one that ends sentences, after each sentence."""
    return tokenizer("a")["input_ids"][-1:] != tokenizer("a", add_special_tokens=False)["input_ids"][-1:]


def append_eos(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Make a tokenizer put its `eos_token` after each sentence, in saved copies too, as Qwen3-Embedding's does.

    sentence-transformers adds no such token by itself, so last-token pooling depends on the tokenizer.

    Args:
        tokenizer: It changes in place, unless it is slow or has no `eos_token`.

    Returns:
        Whether sentences end with a special token now.
    """
    if ends_with_special_token(tokenizer):
        return True
    eos, backend = tokenizer.eos_token, getattr(tokenizer, "backend_tokenizer", None)
    if eos is None or backend is None:
        return False
    own, ids = backend.post_processor, tokenizer("a")["input_ids"]
    content = json.loads(backend.to_str())
    end = {"SpecialToken": {"id": eos, "type_id": 0}}
    content["post_processor"] = _append(content["post_processor"], end, tokenizer.eos_token_id)
    backend.post_processor = Tokenizer.from_str(json.dumps(content)).post_processor
    if tokenizer("a")["input_ids"] == [*ids, tokenizer.eos_token_id]:
        return True
    backend.post_processor = own
    return False


def _append(processor: dict | None, end: dict, token_id: int) -> dict:
    """Return the JSON of a post-processor that also puts a token at the end.

    A second template after a first one would repeat the token, because it takes the tokens of the first for a pair
    (tokenizers 0.23), so the first one is extended.

    Args:
        processor: The JSON of the post-processor; None for none.
        end: The token, as templates have it.
        token_id: Its id.
    """
    text, second = ({"Sequence": {"id": name, "type_id": number}} for number, name in enumerate("AB"))
    token = end["SpecialToken"]["id"]
    if processor is None:
        processor = {"type": "TemplateProcessing", "single": [text], "pair": [text, second], "special_tokens": {}}
    if processor["type"] == "TemplateProcessing":
        known = {token: {"id": token, "ids": [token_id], "tokens": [token]}}
        longer = {name: [*processor[name], end] for name in ("single", "pair")}
        return processor | longer | {"special_tokens": processor["special_tokens"] | known}
    parts = processor["processors"] if processor["type"] == "Sequence" else [processor]
    places = [place for place, part in enumerate(parts) if part["type"] == "TemplateProcessing"]
    if places:
        parts[places[-1]] = _append(parts[places[-1]], end, token_id)
    else:
        parts = [*parts, _append(None, end, token_id)]
    return {"type": "Sequence", "processors": parts}


def prepare_last_token(tokenizer: PreTrainedTokenizerBase, is_trained: bool) -> None:
    """Let sentences end with a special token for last-token pooling, and say so; warn if they do not.

    Args:
        tokenizer: Of the start of a training with the pooling "lasttoken".
        is_trained: Whether the start was trained with this pooling; then the tokenizer stays as it is.
    """
    if ends_with_special_token(tokenizer):
        return
    if not is_trained and append_eos(tokenizer):
        logger.warning(printable(f"The tokenizer now ends each sentence with {tokenizer.eos_token}, which is pooled."))
        return
    logger.warning(
        "The tokenizer ends sentences without a special token, so the last word is pooled, or the cut of a long "
        "sentence; if the model was trained otherwise, correct the post-processor of its tokenizer.json."
    )
