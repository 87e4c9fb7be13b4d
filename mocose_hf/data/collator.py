"""Turn rows of text into batches of tokens: tokenise, draw token views, pad or pack."""

import random
from copy import copy
from itertools import accumulate, chain

import torch
from transformers import TrainerCallback

from mocose_hf.data.sentences import sentence_number
from mocose_hf.data.text_augmentation import TextAugmentation
from mocose_hf.data.token_views import TokenViews
from mocose_hf.models.encoding import PADDING, model_inputs, validate_tokens
from mocose_hf.models.prompts import count_prompt_tokens


class SentenceCollator:
    """Tokenise the texts of a batch, and pad them on the right to the longest one or pack them into one row.

    The random views of a sentence depend on the seed, the epoch and the sentence id (the text if there is no id). They
    do not depend on the batch, the DataLoader worker, the number of processes or an earlier resume.

    Args:
        tokenizer: A tokenizer of transformers.
        max_seq_length: Longest input in tokens.
        first_position: The position id of the first token of each packed sentence; None for padded batches.
        key_augmentation: Changes the text of the key view; None for no change.
        seed: Seed of the random views.
        token_views: Crops, deletes or repeats tokens; None for no change.
        augment_view: The view that `token_views` applies to: query, key or both, each with its own draws.
        prompt: Text to put before each sentence.
        key_prompt: Text to put before those of the key view and hard negatives; None for that of the query view.
        include_prompt: Whether the tokens of the prompt are pooled.
    """

    def __init__(
        self,
        tokenizer,
        max_seq_length: int = 32,
        first_position: int | None = None,
        key_augmentation: TextAugmentation | None = None,
        seed: int = 0,
        token_views: TokenViews | None = None,
        augment_view: str = "query",
        prompt: str = "",
        include_prompt: bool = True,
        key_prompt: str | None = None,
    ):
        self.tokenizer = tokenizer
        self.max_seq_length = max_seq_length
        self.first_position = first_position
        self.key_augmentation = key_augmentation
        self.seed = seed
        self.token_views = token_views
        self.augment_view = augment_view
        self.prompt = prompt
        self.key_prompt = prompt if key_prompt is None else key_prompt
        self.include_prompt = include_prompt
        self._prompt_tokens = {
            text: count_prompt_tokens(tokenizer, text, max_seq_length) if text else 0
            for text in (self.prompt, self.key_prompt)
        }
        self._epoch = torch.zeros((), dtype=torch.int64)
        if self.draws_views:
            self._epoch.share_memory_()  # persistent workers keep this object, so a plain number would get stale

    def __call__(self, rows: list[dict]) -> dict:
        """Collate rows with `text` and optionally `key_text`, `sentence_id`, `negative_text` and `negative_id`.

        Returns:
            `input_ids`, `attention_mask` and `token_type_ids` (B, L) as the tokenizer gives them; the same under
            `key_…` (B, L') if the key view differs from the query view; `sentence_ids` (B,) if rows have ids.
            A packed batch has `input_ids` and `token_type_ids` (1, T) and, instead of the mask, `position_ids` (1, T),
            `cu_seq_lens_q` (B + 1,) int32 with the start of each sentence and T at the end, and `max_length_q`, the
            length of the longest sentence. `prompt_length` is the number of leading tokens that are not pooled.
            If rows have `negative_text`, the hard negatives are under `negative_…` in the same way, with
            `negative_rows`, `negative_ids` and `positive_ids` as in `HardNegatives`.
        """
        texts = [row["text"] for row in rows]
        batch = self._tokenize(texts, self._view_generators(rows, "query"), self.prompt)
        key_texts = self._key_texts(rows)
        if key_texts is None and (self.token_views is not None or self.key_prompt != self.prompt):
            key_texts = texts
        if key_texts is not None:
            key_view = self._tokenize(key_texts, self._view_generators(rows, "key"), self.key_prompt)
            batch |= {f"key_{name}": value for name, value in key_view.items()}
        if "sentence_id" in rows[0]:
            batch["sentence_ids"] = torch.tensor([sentence_number(row["sentence_id"]) for row in rows])
        return batch | self._collate_negatives(rows) if "negative_text" in rows[0] else batch

    @property
    def draws_views(self) -> bool:
        """Whether a text or its tokens are changed at random."""
        return self.key_augmentation is not None or self.token_views is not None

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch that views are drawn for, in DataLoader workers too; `StreamedRow` brings its own."""
        self._epoch.fill_(epoch)

    def without_views(self) -> "SentenceCollator":
        """Return a collator with the same settings, prompt included, that changes neither texts nor tokens."""
        plain = copy(self)
        plain.key_augmentation = plain.token_views = None
        return plain

    def _collate_negatives(self, rows: list[dict]) -> dict:
        """Return the hard negatives of a batch, changed at random as texts of the key view are.

        A batch without any has the tokens of one text, because ZeRO-3 needs as many passes on every process.
        """
        places = [place for place, row in enumerate(rows) if (row["negative_text"] or "").strip()]
        chosen = [rows[place] for place in places] or rows[:1]
        texts = [row["negative_text"] if places else row["text"] for row in chosen]
        if self.key_augmentation is not None:
            generators = [self._generator(row, "negative text") for row in chosen]
            texts = [self.key_augmentation(*pair) for pair in zip(texts, generators, strict=True)]
        view = self._tokenize(texts, self._view_generators(chosen, "negative"), self.key_prompt)
        batch = {f"negative_{name}": value for name, value in view.items()}
        if "negative_id" in rows[0]:  # of the whole dataset, as its sentence ids are
            positives, name = [row["sentence_id"] for row in rows], "negative_id"
        else:
            positives, name = [row.get("key_text", row["text"]) for row in rows], "negative_text"
        numbers = {
            "negative_rows": places,
            "negative_ids": [sentence_number(rows[place][name]) for place in places],
            "positive_ids": [sentence_number(positive) for positive in positives],
        }
        return batch | {key: torch.tensor(values, dtype=torch.int64) for key, values in numbers.items()}

    def _key_texts(self, rows: list[dict]) -> list[str] | None:
        """Return the texts of the key view, None if they are those of the query view."""
        if self.key_augmentation is None:
            return [row["key_text"] for row in rows] if "key_text" in rows[0] else None
        return [
            self.key_augmentation(row.get("key_text", row["text"]), self._generator(row, "key text")) for row in rows
        ]

    def _view_generators(self, rows: list[dict], view: str) -> list[random.Random] | None:
        """Return a generator for the token view of each row, None if the tokens stay as they are.

        Hard negatives, the view "negative", change as the key view does.
        """
        if self.token_views is None or self.augment_view not in ("query" if view == "query" else "key", "both"):
            return None
        return [self._generator(row, view) for row in rows]

    def _generator(self, row: dict, purpose: str) -> random.Random:
        name = sentence_number(row["sentence_id"]) if "sentence_id" in row else row["text"]
        epoch = getattr(row, "epoch", None)
        epoch = int(self._epoch) if epoch is None else epoch
        return random.Random(f"{self.seed} {epoch} {purpose} {name!a}")  # ASCII: half a surrogate pair has no UTF-8

    def _draw_views(self, columns: dict[str, list[list[int]]], generators: list[random.Random], n: int) -> dict:
        """Return the tokens of a view of each sentence behind n of a prompt, which stays whole.

        All columns follow the same positions.
        """
        rows = zip(columns["special_tokens_mask"], generators, strict=True)
        positions = [
            self.token_views.draw([1] * n + special[n:], self.max_seq_length, generator) for special, generator in rows
        ]
        return {
            name: [[row[position] for position in view] for row, view in zip(column, positions, strict=True)]
            for name, column in columns.items()
            if name != "special_tokens_mask"
        }

    def _tokenize(self, texts: list[str], generators: list[random.Random] | None, prompt: str) -> dict:
        options = {"truncation": True, "max_length": self.max_seq_length}
        texts = [prompt + text for text in texts] if prompt else texts
        extra = {} if self.include_prompt or not prompt else {"prompt_length": self._prompt_tokens[prompt]}
        is_drawn = generators is not None
        if self.first_position is None and not is_drawn:
            batch = model_inputs(self.tokenizer(texts, return_tensors="pt", **options, **PADDING))
            validate_tokens(batch["attention_mask"], texts)
            return batch | extra
        columns = self.tokenizer(texts, return_attention_mask=False, return_special_tokens_mask=is_drawn, **options)
        if is_drawn:
            columns = self._draw_views(columns, generators, self._prompt_tokens[prompt])
        columns = model_inputs(columns)
        validate_tokens(columns["input_ids"], texts)
        if self.first_position is None:
            return self.tokenizer.pad(columns, return_tensors="pt", **PADDING).data | extra
        lengths = [len(ids) for ids in columns["input_ids"]]
        packed = {name: torch.tensor([list(chain.from_iterable(column))]) for name, column in columns.items()}
        positions = torch.cat([torch.arange(length) for length in lengths])[None] + self.first_position
        bounds = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32)
        return packed | {"position_ids": positions, "cu_seq_lens_q": bounds, "max_length_q": max(lengths)} | extra


class ViewEpochCallback(TrainerCallback):
    """Tell a collator which epoch begins, so that each epoch draws its own views."""

    def __init__(self, collator: SentenceCollator):
        self._collator = collator

    def on_epoch_begin(self, args, state, control, **kwargs):
        """Take the epoch from the state: after a resume it lies within the epoch that goes on."""
        self._collator.set_epoch(int(state.epoch or 0))
