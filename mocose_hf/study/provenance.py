"""The settings that all workers of a study must share, and where those of a new worker differ."""

from collections.abc import Mapping

CELL_PREFIX = "cell "
"""Settings of one cell start with this."""

SHA256_PREFIX = "SHA-256 of the "
"""Digests of the data and of the encoder start with this."""

ENCODER = "encoder"
"""The setting that holds the name of the encoder."""

SENTENCES = "sentences"
"""The setting that holds the digest of the training sentences."""

EQUIVALENCE_BOUND = "equivalence bound"
"""The setting that holds the bound of equivalence, which a study declares before its first trial."""

METRIC = "metric"
"""The setting that holds the metric of the study, unless it is the default."""

ENCODER_DIGEST = f"{SHA256_PREFIX}encoder"

DISPLAY_OPTIONS = {
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
"""Options that change only what a run displays and logs, not its scores."""

LOCATION_OPTIONS = {
    "cache_dir",
    "dataloader_num_workers",
    "dataloader_persistent_workers",
    "dataloader_pin_memory",
    "dataloader_prefetch_factor",
    "dataset_name",
    "label_file",
    "model_name_or_path",
    "output_dir",
    "retrieval_file",
    "senteval_dir",
    "train_file",
    "use_cpu",
    "validation_file",
}
"""Options that may differ between machines. Data and encoders are compared by digest instead."""


def find_differences(before: Mapping[str, object], now: Mapping[str, object]) -> list[str]:
    """Return the names of the settings that differ between the start of a study and a new worker.

    Cells may be added or omitted. The same encoder may have another name.
    """
    different = {name for name in before.keys() | now.keys() if before.get(name) != now.get(name)}
    different -= {name for name in different if name.startswith(CELL_PREFIX) and not (name in before and name in now)}
    if ENCODER_DIGEST in before and before[ENCODER_DIGEST] == now.get(ENCODER_DIGEST):
        different.discard(ENCODER)
    return sorted(different)
