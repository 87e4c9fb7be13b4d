"""The model card: README.md of an output directory, with loading code, scores and the settings of the run."""

import glob
import html
import math
import os
import platform
import re
import shlex
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from mocose_hf.errors import escape_controls
from mocose_hf.evaluation.pairs import DEV_SPEARMAN
from mocose_hf.export.sentence_encoder import WHOLE_MODEL
from mocose_hf.version import __version__

_UNTRAINED = (
    "**No checkpoint of the training scored better on the development pairs than its start, so the weights are those "
    "of the start.**\n"
)

_DENSE = (
    ", then a fixed dense layer, which `SentenceTransformer` applies and `AutoModel` and `pipeline` alone leave out"
)

_PLACEHOLDER_OWNER = "your-name"

_TASK_TYPES = {
    "spearman": ("semantic-similarity", "Semantic Similarity"),
    "ndcg_at_10": ("information-retrieval", "Information Retrieval"),
    "mrr_at_10": ("information-retrieval", "Information Retrieval"),
    "recall_at_1": ("information-retrieval", "Information Retrieval"),
    "recall_at_10": ("information-retrieval", "Information Retrieval"),
    "recall_at_100": ("information-retrieval", "Information Retrieval"),
    "precision_at_10": ("information-retrieval", "Information Retrieval"),
    "knn_accuracy_at_1": ("text-classification", "Text Classification"),
    "knn_accuracy_at_10": ("text-classification", "Text Classification"),
    "test_accuracy": ("text-classification", "Text Classification"),
    "v_measure": ("clustering", "Clustering"),
}
"""Type and title of the task that a metric belongs to; other metrics are not in the model index."""


@dataclass
class RunRecord:
    """The facts about a run that its model card states.

    Args:
        start: Name or path of the encoder that the run started from.
        command: The command line.
        seed: The seed of heads, queue, dropout and data order.
        source: File or dataset of the training text; a card has the name of a file without its folder.
        data: One line about the training text.
        data_sha256: Hash of the clean sentences in order, if all of them were read before training.
        data_fingerprint: Fingerprint of the training text, if it was streamed.
        scores: Rows of a name, such as the step, and metrics by name.
        settings: Settings of model and training by name.
        changed_settings: Those that define the recipe: basic ones, and all that differ from their default.
        results: Tables of scores on tasks, in Markdown.
        approach: The training approach, for the title.
        method: The algorithm with its source, in Markdown.
        is_start: Whether the weights are those of the start, because no checkpoint scored better.
        repo_id: The repository on the hub, "" if it is not known.
        name: The name of the output directory.
        task_scores: Metrics of the finished model on tasks, by name.
        license: Licence of the model, if given.
        language: Languages of the text, if given.
        dataset: Training dataset on the hub, if there is one.
        has_whole_model: Whether heads, target and queue are saved beside the encoder.
    """

    start: str
    command: str
    seed: int
    source: str
    data: str
    data_sha256: str
    scores: list[tuple[str, dict[str, float]]] = field(default_factory=list)
    settings: dict[str, object] = field(default_factory=dict)
    data_fingerprint: str = ""
    results: str = ""
    approach: str = "momentum contrast"
    method: str = "[MoCoSE](https://arxiv.org/abs/2202.13093)"
    is_start: bool = False
    changed_settings: dict[str, object] = field(default_factory=dict)
    repo_id: str = ""
    name: str = "sentence-encoder"
    task_scores: dict[str, float] = field(default_factory=dict)
    license: str | None = None
    language: list[str] | None = None
    dataset: str | None = None
    has_whole_model: bool = True


def build_model_card(
    record: RunRecord, pooling_mode: str, similarity_fn_name: str = "cosine", has_dense: bool = False
) -> str:
    """Return the text of a model card, with the metadata block that the hub reads.

    Args:
        record: The run.
        pooling_mode, similarity_fn_name: Those of the model's configuration.
        has_dense: Whether a fixed dense layer follows the pooling.
    """
    repo_id = record.repo_id or f"{_PLACEHOLDER_OWNER}/{re.sub(r'[^A-Za-z0-9._-]+', '-', record.name)}"
    results = _eval_results(record, similarity_fn_name)
    data = ModelCardData(
        language=record.language,
        license=record.license,
        library_name="sentence-transformers",
        pipeline_tag="sentence-similarity",
        tags=["sentence-transformers", "feature-extraction", "sentence-similarity", "mocose"],
        base_model=record.start if _is_hub_id(record.start) else None,
        datasets=record.dataset,
        model_name=repo_id.rpartition("/")[2] if results else None,
        eval_results=results or None,
    )
    start, source = (without_folder(value) for value in (record.start, record.source))
    settings = [
        [f"`{name}`", markdown_code(without_folder(str(value)))] for name, value in record.changed_settings.items()
    ]
    fingerprint = (
        f"fingerprint: {markdown_code(record.data_fingerprint)}"
        if record.data_fingerprint
        else f"sha256: `{record.data_sha256}`"
    )
    sections = [
        f"---\n{data.to_yaml()}\n---\n",
        f"# Sentence encoder trained by {record.approach}\n",
        f"Trained without labels from {markdown_code(start)} by {record.method}; the sentence embedding is the "
        f"last hidden state under {pooling_mode} pooling{_DENSE if has_dense else ''}. Compare embeddings by "
        f"{similarity_fn_name}.\n",
        *([_UNTRAINED] if record.is_start else []),
        *_use_section(repo_id, bool(record.repo_id), record.has_whole_model),
        *_development_section(record, similarity_fn_name),
        *(["## Scores on tasks\n", f"{record.results}\n"] if record.results else []),
        "## Training\n",
        f"* Data: {escape_markdown(f'{source}: {record.data}')}\n* Data, {fingerprint}\n* Seed: {record.seed}\n",
        f"{markdown_code_block(without_folders(record.command))}\n",
        "All other settings have their defaults.\n",
        _markdown_table(["setting", "value"], settings),
        "Versions: " + ", ".join(f"{name} {version}" for name, version in library_versions().items()) + ".\n",
    ]
    return escape_controls("\n".join(sections))  # a file name may hold bytes that are no text


def write_model_card(directory: str | Path, text: str) -> None:
    """Write README.md, the file that the hub shows as the model card."""
    ModelCard(text).save(Path(directory) / "README.md")


def library_versions() -> dict[str, str]:
    """Return the versions of the libraries that affect the results of a run."""
    names = ("torch", "transformers", "accelerate", "datasets", "tokenizers")
    python = {"Python": platform.python_version(), "mocose_hf": __version__}
    return python | {name: metadata.version(name) for name in names}


def escape_markdown(text: str) -> str:
    """Return a text on one line with HTML and Markdown escaped; it may be a table cell."""
    return re.sub(r"([\\`*_\[\]|~$])", r"\\\1", html.escape(" ".join(text.split()), quote=False))


def markdown_code(text: str) -> str:
    """Return a text on one line as inline code; it may be a table cell."""
    text = " ".join(text.split())
    if re.search(r"[<>&`|\\]", text):  # not every renderer escapes these between backticks
        return f"<code>{escape_markdown(text)}</code>"
    return f"`{text}`"


def markdown_code_block(text: str) -> str:
    """Return a text as a code block."""
    if re.search(r"[<>&`]|~~~", text):
        return f"<pre><code>{html.escape(text, quote=False)}</code></pre>"
    return f"```\n{text}\n```"


def without_folder(path: str) -> str:
    """Return the name of a file or folder of this machine, and anything else, such as a hub id, as it is."""
    if os.path.isabs(path) or path.startswith("~") or os.path.exists(path) or any(glob.iglob(path)):
        return os.path.basename(path.rstrip("/")) or path
    return path


def without_folders(command: str) -> str:
    """Return a command with the names of files in place of their paths, which tell about the user's machine."""
    shown = []
    for word in shlex.split(command):
        option, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
        shown.append(option + equals + without_folder(value))
    return shlex.join(shown)


def _use_section(repo_id: str, is_uploaded: bool, has_whole_model: bool) -> list[str]:
    note = "" if is_uploaded else "Before you upload it, put the folder of this file in place of the name.\n"
    plain = (
        "```python\nfrom sentence_transformers import SentenceTransformer\n\n"
        f'model = SentenceTransformer("{repo_id}")\n'
        'embeddings = model.encode(["A sentence.", "Another one."])\n'
        "similarities = model.similarity(embeddings, embeddings)\n```\n"
    )
    whole = (
        "Heads, target and queue of the training need `mocose_hf`:\n\n"
        "```python\nfrom mocose_hf import MoCoSEForPreTraining\n\n"
        f'model = MoCoSEForPreTraining.from_pretrained("{repo_id}", subfolder="{WHOLE_MODEL}")\n```\n'
    )
    return ["## Use\n", *([note] if note else []), plain, *([whole] if has_whole_model else [])]


def _eval_results(record: RunRecord, similarity_fn_name: str) -> list[EvalResult]:
    """Return the scores of the finished model, × 100, as entries of the model index."""
    development = record.scores[-1][1] if record.scores else {}
    results = []
    for name, value in (development | record.task_scores).items():
        ends = [metric for metric in _TASK_TYPES if name.endswith(f"_{metric}")]
        if not ends or not math.isfinite(value):
            continue
        metric = max(ends, key=len)
        task_type, task_name = _TASK_TYPES[metric]
        dataset = name.removesuffix(f"_{metric}")
        results.append(
            EvalResult(
                task_type=task_type,
                task_name=task_name,
                dataset_type="unknown" if name in development else dataset,
                dataset_name="development pairs" if name == DEV_SPEARMAN else dataset,
                metric_type=f"spearman_{similarity_fn_name}" if metric == "spearman" else metric,
                metric_name=f"{metric.replace('_', ' ')} × 100",
                metric_value=round(value, 4),
            )
        )
    return results


def _development_section(record: RunRecord, similarity_fn_name: str) -> list[str]:
    if not record.scores:
        return []
    names = sorted({name for _, metrics in record.scores for name in metrics})
    rows = [[escape_markdown(scored), *(_number(m.get(name)) for name in names)] for scored, m in record.scores]
    has_pairs = DEV_SPEARMAN in names
    legend = (
        f"`dev_spearman` is Spearman's correlation of {similarity_fn_name} and human score, × 100; lower is better "
        "for `dev_alignment` and `dev_uniformity`.\n"
        if has_pairs
        else "All scores are × 100; higher is better.\n"
    )
    title = f"## Scores on the development {'pairs' if has_pairs else 'sets'}\n"
    return [title, _markdown_table(["", *names], rows), legend]


def _is_hub_id(name: str) -> bool:
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return not Path(name).exists()


def _markdown_table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
