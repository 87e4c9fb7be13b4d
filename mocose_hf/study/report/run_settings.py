"""The settings of a study's trials, as its report shows them."""

import json
import re
from collections.abc import Iterable
from typing import Any

from mocose_hf.study.analysis.analysis import Analysis
from mocose_hf.study.provenance import DISPLAY_OPTIONS, ENCODER, SENTENCES, SHA256_PREFIX
from mocose_hf.study.redaction import redact_options
from mocose_hf.study.study import TrialResult

RUN_OPTIONS = ("seed", "output_dir")
"""Options that differ between the trials of a cell."""

_HIDDEN = {*RUN_OPTIONS, *DISPLAY_OPTIONS}
_DATA = {
    "model_name_or_path": "encoder",
    "train_file": "training sentences",
    "dataset_name": "training sentences",
    "validation_file": "development pairs",
    "retrieval_file": "retrieval files",
    "label_file": "label files",
    "senteval_dir": "SentEval files",
}
"""Options that name data, and the name of that data in a report. Its path may differ between machines."""
_DIGEST_NAMES = {SENTENCES: "training sentences"}
_SHA256 = re.compile(r"\b([0-9a-f]{12})[0-9a-f]{52}\b")


def facts(analysis: Analysis) -> dict[str, str]:
    """Return what all trials have in common by name: encoder, data, digests, seeds and options.

    The last entry lists options that override the study's own.
    """
    constants = constant_options(analysis)
    options = {name: as_text(value) for name, value in constants.items() if name not in _HIDDEN | _DATA.keys()}
    stored: dict[str, Any] = redact_options(_stored_settings(analysis))
    digests = {name: value for name, value in stored.items() if name.startswith(SHA256_PREFIX)}
    seeds = sorted({trial.seed for outcome in analysis.cells if not outcome.cell.is_fixed for trial in outcome.trials})
    found = _data(analysis) | digests
    if seeds:
        found["seeds"] = ", ".join(map(str, seeds))
    found |= dict(sorted((stored | options).items() - digests.items()))
    declared = redact_options(analysis.study.options)
    overrides = [
        f"{name} {as_text(constants[name])} instead of {as_text(declared[name])}"
        for name in declared
        if name in constants and str(constants[name]) != str(declared[name])
    ]
    return found | ({"overrides of the study's options": "; ".join(overrides)} if overrides else {})


def settings_sentence(analysis: Analysis, shorten: bool = False) -> str:
    """Return `facts` in one sentence, "" without any.

    Args:
        analysis: The study.
        shorten: Whether to cut each SHA-256 to its first 12 digits.
    """
    text = "; ".join(f"{name} {fact}" for name, fact in facts(analysis).items())
    text = _SHA256.sub(r"\1…", text) if shorten else text
    return f"Settings: {text}." if text else ""


def cell_options(analysis: Analysis) -> dict[str, str]:
    """Return the options of each cell as typed on a command line; empty if no cell has any."""
    if not any(outcome.cell.options for outcome in analysis.cells):
        return {}
    return {
        outcome.cell.label: " ".join(
            f"--{name} {as_text(value)}" for name, value in redact_options(outcome.cell.options).items()
        )
        or "as above"
        for outcome in analysis.cells
    }


def constant_options(analysis: Analysis) -> dict[str, object]:
    """Return the options that all trials that have run share and that no cell sets."""
    options_of_trials = [trial.options for trial in _run_trials(analysis)]
    of_cells = {name for outcome in analysis.cells for name in outcome.cell.options}
    names = {name for options in options_of_trials for name in options} - of_cells - {*RUN_OPTIONS}
    return {
        name: options_of_trials[0][name]
        for name in sorted(names)
        if len({as_text(options.get(name)) for options in options_of_trials}) == 1
    }


def as_text(value: object) -> str:
    """Return the value of an option as text; JSON if it is not a string, "" for None."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _run_trials(analysis: Analysis) -> Iterable[TrialResult]:
    """Return the trials that have run. Only their options are known."""
    return [trial for trial in analysis.trials if trial.options]


def _data(analysis: Analysis) -> dict[str, str]:
    data: dict[str, list[str]] = {}
    for option, name in _DATA.items():
        values = [as_text(trial.options[option]) for trial in _run_trials(analysis) if option in trial.options]
        data[name] = [*data.get(name, []), *values]
    return {name: ", ".join(dict.fromkeys(values)) for name, values in data.items() if values}


def _stored_settings(analysis: Analysis) -> dict[str, str]:
    """Return the settings in the storage, without those that the trials' options already give in full."""
    encoders = _data(analysis).get("encoder", "")
    found = {}
    for name, value in analysis.settings.items():
        if not isinstance(value, str) or name in _HIDDEN:
            continue
        if _SHA256.search(value):
            subject = name.removeprefix(SHA256_PREFIX)
            found[f"{SHA256_PREFIX}{_DIGEST_NAMES.get(subject, subject)}"] = value
        elif not (name == ENCODER and encoders.endswith(value)):
            found[name] = value
    return found
