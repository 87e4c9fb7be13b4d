"""What the trials of a study were run with, as its report says it."""

import json
import re
from collections.abc import Iterable

from mocose_hf.study.analysis.analysis import Analysis
from mocose_hf.study.declarations import Cell
from mocose_hf.study.provenance import ENCODER, OF_CONTENT, OF_DISPLAY, SENTENCES
from mocose_hf.study.redaction import redact_options
from mocose_hf.study.results import TrialResult

OF_ONE_RUN = ("seed", "output_dir")
"""Options that differ from trial to trial and say nothing of the cell."""

_SAY_NOTHING = {*OF_ONE_RUN, *OF_DISPLAY}
_PLACES = {
    "model_name_or_path": "encoder",
    "train_file": "training sentences",
    "dataset_name": "training sentences",
    "validation_file": "development pairs",
    "retrieval_file": "retrieval files",
    "label_file": "label files",
    "senteval_dir": "SentEval files",
}
"""What these options name; workers on several machines may have it in several places."""
_HASHED = {SENTENCES: "training sentences"}
_SHA256 = re.compile(r"\b([0-9a-f]{12})[0-9a-f]{52}\b")


def facts(made: Analysis) -> dict[str, str]:
    """Return by name what all trials have in common: encoder, data, seeds and options, SHA-256 sums named as such.

    An option of the study itself that was given otherwise is named last.
    """
    constants = constant_options(made)
    of_trials = {
        name: as_text(value) for name, value in constants.items() if name not in _SAY_NOTHING | _PLACES.keys()
    }
    of_storage = redact_options(_of_storage(made))
    hashes = {name: value for name, value in of_storage.items() if name.startswith(OF_CONTENT)}
    seeds = sorted({trial.seed for outcome in made.cells if not outcome.cell.is_fixed for trial in outcome.trials})
    found = _places(made) | hashes
    if seeds:
        found["seeds"] = ", ".join(map(str, seeds))
    found |= dict(sorted((of_storage | of_trials).items() - hashes.items()))
    declared = redact_options(made.study.options)
    given = {name: constants[name] for name in declared if name in constants}
    other = [
        f"{name} {as_text(value)}, not {as_text(declared[name])}"
        for name, value in given.items()
        if str(value) != str(declared[name])
    ]
    return found | ({"other than the study says": "; ".join(other)} if other else {})


def settings_sentence(made: Analysis, shortened: bool = False) -> str:
    """Return `facts` in a sentence, "" without any.

    Args:
        made: The study.
        shortened: Whether of each SHA-256 sum its first 12 digits are enough.
    """
    text = "; ".join(f"{name} {fact}" for name, fact in facts(made).items())
    text = _SHA256.sub(r"\1…", text) if shortened else text
    return f"Run with: {text}." if text else ""


def own_options(cell: Cell) -> str:
    """Return what a cell sets, as it is typed, "" where it is run as all are."""
    return " ".join(f"--{name} {as_text(value)}" for name, value in redact_options(cell.options).items())


def constant_options(made: Analysis) -> dict[str, object]:
    """Return the options that are the same in all trials that were run and that no cell sets."""
    found = [trial.options for trial in _run(made)]
    of_cells = {name for outcome in made.cells for name in outcome.cell.options}
    names = {name for options in found for name in options} - of_cells - {*OF_ONE_RUN}
    return {name: found[0][name] for name in sorted(names) if len({as_text(of.get(name)) for of in found}) == 1}


def as_text(value: object) -> str:
    """Return an option as a text: JSON where it is none, "" where it is not there."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _run(made: Analysis) -> Iterable[TrialResult]:
    """Return the trials whose options are known, which those that wait or run are not."""
    return [trial for trial in made.trials if trial.options]


def _places(made: Analysis) -> dict[str, str]:
    places: dict[str, list[str]] = {}
    for option, name in _PLACES.items():
        values = [as_text(trial.options[option]) for trial in _run(made) if option in trial.options]
        places[name] = [*places.get(name, []), *values]
    return {name: ", ".join(dict.fromkeys(values)) for name, values in places.items() if values}


def _of_storage(made: Analysis) -> dict[str, str]:
    """Return what the storage says of the run, less what its trials say more fully."""
    encoders = _places(made).get("encoder", "")
    found = {}
    for name, value in made.settings.items():
        if not isinstance(value, str) or name in _SAY_NOTHING:
            continue
        if _SHA256.search(value):
            of_what = name.removeprefix(OF_CONTENT)
            found[f"{OF_CONTENT}{_HASHED.get(of_what, of_what)}"] = value
        elif not (name == ENCODER and encoders.endswith(value)):
            found[name] = value
    return found
