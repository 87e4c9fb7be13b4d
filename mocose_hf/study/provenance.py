"""What all workers of a study must have in common, and where one is about to run something else under its name."""

from collections.abc import Mapping

OF_CELL = "cell "
"""How the names begin of what a study keeps of its cells."""

OF_CONTENT = "SHA-256 of the "
"""How the names begin of digests of data and encoder."""

ENCODER, SENTENCES = "encoder", "sentences"
"""The names of the encoder's name, and of the digest of the sentences to train on."""

EQUIVALENCE_BOUND = "equivalence bound"
"""The name of the bound that a study declares before its first trial."""

ENCODER_DIGEST = f"{OF_CONTENT}encoder"

OF_DISPLAY = {
    "disable_tqdm",
    "log_level",
    "log_level_replica",
    "log_on_each_node",
    "logging_first_step",
    "logging_steps",
    "logging_strategy",
    "project",
    "report_to",
    "run_name",
}
"""Options of what a run shows of itself, on which no score hangs."""


def differences(before: Mapping[str, object], run: Mapping[str, object]) -> list[str]:
    """Return the names of what a study was begun with and what a worker would run now that do not agree.

    Cells may come or go. An encoder of the same content may have another name. What earlier versions of this package
    did not keep, the equivalence bound and digests other than that of the sentences, agrees with anything; if cells
    differ in their sentences, they kept the digests of all in one.
    """
    other = {name for name in before.keys() | run.keys() if before.get(name) != run.get(name)}
    of_one = {name for name in other if name.startswith(OF_CELL) and not (name in before and name in run)}
    added = {name for name in other if name.startswith(OF_CONTENT) or name == EQUIVALENCE_BOUND}
    not_known = {name for name in added if name not in before}
    other -= of_one | not_known
    if ENCODER_DIGEST in before and before[ENCODER_DIGEST] == run.get(ENCODER_DIGEST):
        other.discard(ENCODER)
    if ENCODER_DIGEST not in before and run.get(SENTENCES) in str(before.get(SENTENCES)).split(","):
        other.discard(SENTENCES)
    return sorted(other)
