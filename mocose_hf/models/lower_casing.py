"""Lower-case text inside the tokenizer, so that all users of the tokenizer get the same tokens."""

import copy

from tokenizers.normalizers import Lowercase, Sequence
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.utils import logging

logger = logging.get_logger(__name__)


def lower_case(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """Return a tokenizer that lower-cases text first, as sentence-transformers does for `do_lower_case`.

    Args:
        tokenizer: A tokenizer, which does not change. It is returned itself if it lower-cases already.

    Returns:
        A `PreTrainedTokenizerFast`, because transformers 5 rebuilds the normalizer of other classes on loading and
        would lose the lower-casing. A tokenizer without a fast backend is copied and gets `do_lower_case`.
    """
    if not tokenizer.is_fast:
        lowered = copy.deepcopy(tokenizer)
        lowered.do_lower_case = True
        if lowered.tokenize("CASE") != lowered.tokenize("case"):
            logger.warning_once(
                f"`do_lower_case` has no effect on a {type(tokenizer).__name__}; sentence-transformers ignores it too."
            )
        return lowered
    normalizer = tokenizer.backend_tokenizer.normalizer
    if normalizer is not None and "a" in normalizer.normalize_str("A"):
        return tokenizer
    backend = copy.deepcopy(tokenizer.backend_tokenizer)
    backend.normalizer = Sequence([Lowercase(), *([normalizer] if normalizer is not None else [])])
    names = (
        "model_max_length",
        "padding_side",
        "truncation_side",
        "model_input_names",
        "clean_up_tokenization_spaces",
    )
    options = {name: getattr(tokenizer, name) for name in names}
    options |= tokenizer.special_tokens_map | {"extra_special_tokens": list(tokenizer.extra_special_tokens)}
    lowered = PreTrainedTokenizerFast(tokenizer_object=backend, **options)
    lowered.name_or_path = tokenizer.name_or_path
    return lowered
