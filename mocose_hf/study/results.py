"""What a trial of a study gave."""

import json
from dataclasses import asdict, dataclass, field

from mocose_hf.study.field_checks import (
    check_fields,
    is_mapping,
    is_number,
    is_text,
    is_whole,
    list_of,
    mapping_of,
    optional,
)
from mocose_hf.study.plain_text import visible
from mocose_hf.study.redaction import redact_options

STATES = ("complete", "failed", "running", "interrupted", "waiting")
"""Of a trial; one that is interrupted has lost its worker, and the next run takes it up again."""

SCORE = "dev_spearman"
"""The figure that cells are compared by: Spearman × 100 on development pairs, of the best checkpoint by them."""


@dataclass(frozen=True)
class TrialResult:
    """One cell with one seed.

    Args:
        study: Name of the study.
        cell: Label of the cell.
        seed: Its seed.
        state: One of `STATES`.
        figures: Figures by name; a complete trial has `SCORE`. Others: `dev_step`, the step of that checkpoint,
            `last_dev_spearman`, `start_dev_spearman`, `dev_alignment`, `dev_uniformity`, `<task>_spearman` and
            `sts_avg_spearman`, or `sts_avg_of_<n>_spearman`, of the test sets, `alarm_step` where the embeddings
            collapsed, `seconds`.
        curve: Optimizer step and development score of each evaluation.
        spectrum: Singular values of the embeddings, the largest first, empty where not asked for.
        reason: Why it failed, in one line.
        options: All options it was run with, by name, with secrets masked.
        pair_scores, pair_cosines: Score and cosine of each development pair, by the checkpoint that `SCORE` is of;
            empty if its cosines are not known.
    """

    study: str
    cell: str
    seed: int
    state: str
    figures: dict[str, float] = field(default_factory=dict)
    curve: list[tuple[int, float]] = field(default_factory=list)
    spectrum: list[float] = field(default_factory=list)
    reason: str = ""
    options: dict[str, object] = field(default_factory=dict)
    pair_scores: list[float] = field(default_factory=list)
    pair_cosines: list[float] = field(default_factory=list)

    def __post_init__(self):
        for name in ("cell", "reason"):
            object.__setattr__(self, name, visible(getattr(self, name)))
        object.__setattr__(self, "options", redact_options(self.options))

    def as_dict(self) -> dict:
        """Return it as JSON can hold it."""
        return asdict(self)

    def as_json(self) -> str:
        """Return it as JSON to read, with the figures of all pairs on one line each."""
        made = self.as_dict()
        long = {name: made.pop(name) for name in ("pair_scores", "pair_cosines")}
        lines = [f'  "{name}": {json.dumps(figures)}' for name, figures in long.items()]
        return ",\n".join([json.dumps(made, indent=2).removesuffix("\n}"), *lines]) + "\n}\n"

    @classmethod
    def from_dict(cls, made: dict) -> "TrialResult":
        """Make it of what `as_dict` gave, be it read from JSON.

        Raises:
            ValueError: Naming the field that is missing or has another type.
        """
        check_fields(made, _FIELDS, needed=("study", "cell", "seed", "state"))
        if made["state"] == "complete" and not is_number(made.get("figures", {}).get(SCORE)):
            raise ValueError(f"a complete trial needs a number as its `{SCORE}`")
        if len(made.get("pair_scores", [])) != len(made.get("pair_cosines", [])):
            raise ValueError("`pair_scores` and `pair_cosines` have different lengths")
        curve = [(int(step), float(score)) for step, score in made.get("curve", [])]
        return cls(**{name: made[name] for name in _FIELDS if name in made} | {"curve": curve})


def _is_point(value: object) -> bool:
    return list_of(is_number)(value) and len(value) == 2 and is_whole(value[0])


_FIELDS = {
    "study": is_text,
    "cell": is_text,
    "seed": is_whole,
    "state": lambda value: value in STATES,
    "figures": mapping_of(optional(is_number)),
    "curve": list_of(_is_point),
    "spectrum": list_of(is_number),
    "reason": is_text,
    "options": is_mapping,
    "pair_scores": list_of(is_number),
    "pair_cosines": list_of(is_number),
}
