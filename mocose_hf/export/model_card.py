"""The model card: README.md of an output directory, with scores, command, seed and data of the run."""

import html
import platform
import re
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from mocose_hf.evaluation.pairs import DEV_SPEARMAN
from mocose_hf.version import __version__

_UNTRAINED = (
    "**No checkpoint of the training scored better on the development pairs than its start, so the weights are those "
    "of the start.**\n"
)


@dataclass
class RunRecord:
    """The facts about a run that its model card states.

    Args:
        start: Name or path of the encoder that the run started from.
        command: The command line.
        seed: The seed of heads, queue, dropout and data order.
        data: One line about the training text.
        data_sha256: Hash of the clean sentences in order, if all of them were read before training.
        data_fingerprint: Fingerprint of the training text, if it was streamed.
        scores: Rows of a name, such as the step, and metrics by name.
        settings: Settings of model and training by name.
        results: Tables of scores on tasks, in Markdown.
        approach: The training approach, for the title.
        method: The algorithm with its source, in Markdown.
        is_start: Whether the weights are those of the start, because no checkpoint scored better.
    """

    start: str
    command: str
    seed: int
    data: str
    data_sha256: str
    scores: list[tuple[str, dict[str, float]]] = field(default_factory=list)
    settings: dict[str, object] = field(default_factory=dict)
    data_fingerprint: str = ""
    results: str = ""
    approach: str = "momentum contrast"
    method: str = "[MoCoSE](https://arxiv.org/abs/2202.13093)"
    is_start: bool = False


def build_model_card(record: RunRecord, pooling_mode: str, similarity_fn_name: str = "cosine") -> str:
    """Return the text of a model card, with the metadata block that the hub reads.

    Args:
        record: The run.
        pooling_mode, similarity_fn_name: Those of the model's configuration.
    """
    data = ModelCardData(
        library_name="sentence-transformers",
        pipeline_tag="sentence-similarity",
        tags=["sentence-transformers", "feature-extraction", "sentence-similarity", "mocose"],
        base_model=record.start if _is_hub_id(record.start) else None,
    )
    settings = [[f"`{name}`", markdown_code(str(value))] for name, value in record.settings.items()]
    fingerprint = (
        f"fingerprint: {markdown_code(record.data_fingerprint)}"
        if record.data_fingerprint
        else f"sha256: `{record.data_sha256}`"
    )
    sections = [
        f"---\n{data.to_yaml()}\n---\n",
        f"# Sentence encoder trained by {record.approach}\n",
        f"Trained without labels from {markdown_code(record.start)} by {record.method}; the sentence embedding is the "
        f"last hidden state under {pooling_mode} pooling. Compare embeddings by {similarity_fn_name}.\n",
        *([_UNTRAINED] if record.is_start else []),
        "## Use\n",
        "```python\nfrom sentence_transformers import SentenceTransformer\n\n"
        'model = SentenceTransformer(".")  # the folder of this card, or its name on the hub\n'
        'embeddings = model.encode(["A sentence.", "Another one."])\n```\n',
        *_development_section(record, similarity_fn_name),
        *(["## Scores on tasks\n", f"{record.results}\n"] if record.results else []),
        "## Training\n",
        f"* Data: {escape_markdown(record.data)}\n* Data, {fingerprint}\n* Seed: {record.seed}\n",
        f"{markdown_code_block(record.command)}\n",
        _markdown_table(["setting", "value"], settings),
        "Versions: " + ", ".join(f"{name} {version}" for name, version in library_versions().items()) + ".\n",
    ]
    return "\n".join(sections)


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
