"""Choose between the recipes that a name such as `domain` stands for, by the embeddings of the start.

Each recipe whitens the embeddings of the start (`DenseLayer.whiten`), trains it towards its own embeddings in another
shape (`losses.reshape_keys`), or does both. The development set is scored on the start's embeddings in each of these
shapes, without any training. This costs one encoding of the set and of the sentences that whitening and queue take.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from datasets import Dataset
from torch import Tensor
from torch.nn import functional as F

from mocose_hf.cli.factory import build_model, is_plain_language_model
from mocose_hf.cli.options import Options
from mocose_hf.cli.output_dir import CHOICE_FILE
from mocose_hf.errors import InputError
from mocose_hf.evaluation.development import DevelopmentSets
from mocose_hf.evaluation.sentence_embeddings import embed
from mocose_hf.files import read_json_object, write_text
from mocose_hf.models.dense_layer import WHITENING_SENTENCES, DenseLayer
from mocose_hf.models.losses import reshape_keys
from mocose_hf.parallel.collectives import broadcast
from mocose_hf.recipes import CHOICES
from mocose_hf.training.queue_prefill import draw_sentences

_ROWS_AT_ONCE = 1024


@dataclass(frozen=True)
class Shape:
    """How a recipe changes embeddings; see `DenseLayer.whiten` and `reshape_keys`.

    Args:
        fixed_whitening: `whitening`, by the dense layer behind the pooling.
        whitening, smoothing, temperature: Of the reshaping term, that is, of training.
    """

    fixed_whitening: float
    whitening: float
    smoothing: float
    temperature: float


def choose_recipe(
    options: Options, development: Dataset | DevelopmentSets | None, sentences, checkpoint: str | None
) -> tuple[Options, dict[str, object] | None]:
    """Return the options of the recipe that this run trains with, and what to record about the choice.

    Args:
        options: If their recipe stands for others, one of these is chosen; else they are returned as they are.
        development: What decides. If there is none, the first recipe is taken.
        sentences: `Sentences` to train on.
        checkpoint: The checkpoint that the run resumes from. Its choice is read from the output directory and holds.

    Raises:
        InputError: If a run resumes whose choice is not recorded.
    """
    name = options.model.recipe
    if name not in CHOICES:
        return options, None
    if checkpoint is not None:
        chosen, changed = _read_choice(options)
        options.say(f"--recipe {name}: {chosen}, as this run chose before training.")
        return _with_values(options.with_recipe(chosen), changed), None
    candidates = {other: options.with_recipe(other) for other in CHOICES[name]}
    shapes = {other: _shape(candidate) for other, candidate in candidates.items()}
    if len(set(shapes.values())) == 1 or None in shapes.values():  # typed options leave nothing to choose
        return options, None
    if name == "domain" and is_plain_language_model(options):
        options.say(
            "--recipe domain: this encoder states no pooling, so it looks like a plain language model; --recipe "
            "from-mlm, which whitens its embeddings first, gains more from those that we measured."
        )
    first, *rest = candidates
    if development is None or options.training.eval_strategy == "no" or options.data.streaming:
        options.say(
            f"--recipe {name}: no development set decides, so {first} is taken, which moves neighbours together. If "
            f"your task must tell each text from all others, such as a search, give --recipe {rest[0]}."
        )
        return candidates[first], {"recipe": first}
    metric = options.training.best_metric
    scores = score_shapes(candidates[first], development, sentences.dataset, shapes)
    sign = 1.0 if options.training.greater_is_better else -1.0
    gains = torch.tensor([sign * (scores[other] - scores["start"]) for other in candidates])
    gains = gains.to(options.training.device)
    broadcast(gains)  # all processes choose alike, even if their machines round differently
    chosen = list(candidates)[int(gains.argmax())]
    found = ", ".join(f"{key} {value:.2f}" for key, value in scores.items())
    options.say(f"--recipe {name}: {chosen}. {metric} of the start's embeddings, reshaped without training: {found}.")
    choice: dict[str, object] = {"recipe": chosen, "metric": metric, "scores": scores}
    values: dict[str, object] = {}
    if float(gains.max()) <= 0.0:
        options.say("No shape is better than the start, so the run may well end with the start.")
        if shapes[chosen].fixed_whitening:  # so that the start itself stays a candidate
            choice["values"] = values = {"whitening": 0.0}
    return _with_values(candidates[chosen], values), choice


def record_choice(options: Options, choice: dict[str, object] | None) -> None:
    """Write the choice into the output directory, on the first process."""
    if choice is not None and options.training.process_index == 0:
        write_text(Path(options.output_dir) / CHOICE_FILE, json.dumps(choice, indent=2) + "\n")


def score_shapes(
    options: Options,
    development: Dataset | DevelopmentSets,
    dataset: Dataset,
    shapes: dict[str, Shape],
) -> dict[str, float]:
    """Score the start's embeddings as they are ("start") and in each shape.

    Args:
        options: Say which encoder to start from, and how many sentences of the dataset fill the queue.
        development: What is scored.
        dataset: The training sentences, a column `text`.
        shapes: Shapes by name.
    """
    training = options.training
    model, tokenizer = build_model(options)
    model.to(training.device)
    encoding = training.evaluation_encoding
    sets = development if isinstance(development, DevelopmentSets) else DevelopmentSets(development)
    num_queued = options.method.queue_size
    num_whitened = WHITENING_SENTENCES if any(shape.fixed_whitening for shape in shapes.values()) else 0
    drawn = dataset.select(draw_sentences(len(dataset), max(num_queued, num_whitened), training.seed))["text"]
    start = embed(model.mocose, tokenizer, sets.role_texts(), **encoding)
    rows = embed(model.mocose, tokenizer, drawn, max_seq_length=training.max_seq_length, **encoding)(drawn)
    scores = {"start": float(sets.score(start)[training.best_metric])}
    for name, shape in shapes.items():
        reshaped = _Reshaped(start, rows, drawn, shape, num_queued)
        scores[name] = float(sets.score(reshaped)[training.best_metric])
    return scores


class _Reshaped:
    """Embeddings as rows reshape them; called as `SentenceEmbeddings`.

    Args:
        embeddings: Those to reshape.
        rows: (N, H), of training sentences, which whiten the embeddings.
        texts: Their N texts. No text is smoothed with itself.
        shape: What changes.
        num_queued: How many of the rows are in the queue.
    """

    def __init__(self, embeddings, rows: Tensor, texts: Sequence[str], shape: Shape, num_queued: int):
        self.similarity_fn_name = embeddings.similarity_fn_name
        self._embeddings, self._shape = embeddings, shape
        self._dense = DenseLayer(rows.shape[1])
        if shape.fixed_whitening:
            self._dense.whiten(rows, shape.fixed_whitening)
        self._rows = F.normalize(self._dense(rows[:num_queued]), dim=-1)
        self._places = {text: place for place, text in enumerate(texts)}

    def __call__(self, sentences: Sequence[str], role: str | None = None) -> Tensor:
        """Return the reshaped embeddings of M sentences in a role, (M, H), L2-normalised."""
        matrix = F.normalize(self._dense(self._embeddings(sentences, role)), dim=-1)
        own = torch.tensor([self._places.get(sentence, -1) for sentence in sentences])  # (M,)
        columns = torch.arange(len(self._rows))
        parts = zip(matrix.split(_ROWS_AT_ONCE), own.split(_ROWS_AT_ONCE), strict=True)
        return torch.cat(
            [
                reshape_keys(
                    keys,
                    self._rows,
                    place[:, None] == columns,
                    self._shape.whitening,
                    self._shape.smoothing,
                    self._shape.temperature,
                )
                for keys, place in parts
            ]
        )


def _shape(options: Options) -> Shape | None:
    """Return how a recipe changes embeddings, None if it does not."""
    method = options.method
    if method.reshaping_weight and method.queue_size:
        shape = (method.reshaping_whitening, method.reshaping_smoothing, method.reshaping_temperature)
        return Shape(method.whitening, *shape)
    return Shape(method.whitening, 0.0, 0.0, 1.0) if method.whitening else None


def _with_values(options: Options, values: Mapping[str, object]) -> Options:
    return options.with_values(values) if values else options


def _read_choice(options: Options) -> tuple[str, dict[str, object]]:
    """Return the recipe that a run chose, and the values that it changed in it."""
    path, name = Path(options.output_dir) / CHOICE_FILE, options.model.recipe
    recorded = read_json_object(path) if path.is_file() else {}
    chosen = recorded.get("recipe")
    if chosen not in CHOICES[name]:
        raise InputError(
            f"{path}: does not tell which recipe the run has that is to be resumed; give --recipe "
            f"{' or '.join(CHOICES[name])} instead of {name}."
        )
    return str(chosen), recorded.get("values", {})
