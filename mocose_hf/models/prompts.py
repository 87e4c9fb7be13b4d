"""The prompts that a model can put before sentences."""

from typing import Any

from mocose_hf.models.configuration_base import ContrastiveConfig

PROMPT_ARGUMENTS = ("prompt", "query_prompt", "key_prompt")
"""Training arguments that replace the prompts of a model."""


def resolve_prompt(config: ContrastiveConfig, prompt: str | None = None, prompt_name: str | None = None) -> str:
    """Return the text to put before sentences, "" for none.

    Args:
        config: Of the model.
        prompt: The text itself.
        prompt_name: The name of one of `config.prompts`; the default prompt if neither is given.

    Raises:
        ValueError: If both are given or there is no prompt of that name.
    """
    if prompt is not None and prompt_name is not None:
        raise ValueError("`prompt` and `prompt_name` are both given; leave one of them out.")
    if prompt_name is None:
        return config.default_prompt if prompt is None else prompt
    prompts = config.prompts or {}
    if prompt_name not in prompts:
        raise ValueError(f"`prompt_name` is {prompt_name!r:.60}, but `prompts` has {', '.join(prompts) or 'none'}.")
    return prompts[prompt_name]


def set_prompts(
    config: ContrastiveConfig, prompt: str | None, query_prompt: str | None, key_prompt: str | None
) -> None:
    """Replace the prompts of a model by those of a training, if it has any.

    Args:
        config: Of the model; it changes in place.
        prompt: The new default prompt, "" for none. It is stored under the name "default".
        query_prompt, key_prompt: The new prompts "query" and "document", the names of sentence-transformers. If only
            one is given, the other is empty.
    """
    if prompt is not None:
        config.prompts = {"default": prompt} if prompt else None
        config.default_prompt_name = "default" if prompt else None
    elif query_prompt is not None or key_prompt is not None:
        config.prompts = {"query": query_prompt or "", "document": key_prompt or ""}
        config.default_prompt_name = None


def prompt_options(
    config: ContrastiveConfig, query_prompt: str | None = None, key_prompt: str | None = None
) -> dict[str, Any]:
    """Return the options of `SentenceCollator` that put prompts before sentences.

    These are the default prompt of a model before every sentence, or prompts of queries and keys if one is given.
    """
    if query_prompt is None and key_prompt is None:
        query_prompt = key_prompt = config.default_prompt
    return {"prompt": query_prompt or "", "key_prompt": key_prompt or "", "include_prompt": config.include_prompt}


def count_prompt_tokens(tokenizer, prompt: str, max_seq_length: int | None = None) -> int:
    """Return the number of tokens of a prompt at the start of a sentence, including special tokens before it.

    As in sentence-transformers, these are the tokens of the prompt alone, without a special token at its end.
    """
    ids = tokenizer(prompt, truncation=max_seq_length is not None, max_length=max_seq_length)["input_ids"]
    return len(ids) - int(bool(ids) and ids[-1] in tokenizer.all_special_ids)
