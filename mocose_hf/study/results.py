"""What a trial of a study gave."""

from dataclasses import asdict, dataclass, field

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
            `last_dev_spearman`, `start_dev_spearman`, `alignment`, `uniformity`, `<task>_spearman` and
            `sts_avg_spearman`, or `sts_avg_of_<n>_spearman`, of the test sets, `alarm_step` where the embeddings
            collapsed, `seconds`.
        curve: Optimizer step and development score of each evaluation.
        spectrum: Singular values of the embeddings, the largest first, empty where not asked for.
        reason: Why it failed, in one line.
        options: All options it was run with, by name, with secrets masked.
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

    def __post_init__(self):
        object.__setattr__(self, "options", redact_options(self.options))

    def as_dict(self) -> dict:
        """Return it as JSON can hold it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, made: dict) -> "TrialResult":
        """Make it of what `as_dict` gave, be it read from JSON."""
        return cls(**made | {"curve": [(int(step), float(score)) for step, score in made.get("curve", [])]})
