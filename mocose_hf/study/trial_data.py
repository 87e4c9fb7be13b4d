"""The data of a study's trials: each file is read once, and its digest identifies it."""

from collections.abc import Callable

from datasets import Dataset

from mocose_hf.cli.factory import fingerprint_encoder, read_encoder_config, read_training_sentences
from mocose_hf.cli.options import Options
from mocose_hf.cli.scoring import Tasks, read_development, read_evaluation_tasks, with_held_out
from mocose_hf.evaluation.development import DevelopmentSets
from mocose_hf.evaluation.tasks import averages
from mocose_hf.files import content_sha256
from mocose_hf.study.provenance import ENCODER_DIGEST, SENTENCES, SHA256_PREFIX

_AVERAGED = ("spearman", "dev_accuracy", "test_accuracy")
"""The figures of test sets that have averages."""


class TrialData:
    """Read training sentences, development sets, test sets and the encoder's configuration once for all cells."""

    def __init__(self):
        self._cache: dict[tuple, object] = {}

    def sentences(self, options: Options):
        """Return the training sentences of a cell."""
        data = options.data
        names = ("encoding", "dataset_name", "dataset_split", "text_column", "negative_column")
        settings = [options.evaluation.dev_from_text, *(getattr(data, name) for name in names)]
        key = ("sentences", *settings, tuple(data.train_file or ()), tuple(data.key_column or ()))
        return self._once(key, lambda: read_training_sentences(options))

    def development(self, options: Options) -> Dataset | DevelopmentSets | None:
        """Return the development sets of a cell."""
        evaluation, sentences = options.evaluation, self.sentences(options)
        names = ("validation_file", "validation_dataset_name", "validation_dataset_split", "senteval_dir", "v_measure")
        files = tuple(evaluation.retrieval_file or ()), tuple(evaluation.label_file or ())
        key = ("development", id(sentences), *files, *(getattr(evaluation, name) for name in names))
        return self._once(key, lambda: with_held_out(read_development(options), sentences))

    def development_sets(self, options: Options) -> DevelopmentSets:
        """Return the development sets of a cell in their general form."""
        development = self.development(options)
        return development if isinstance(development, DevelopmentSets) else DevelopmentSets(development)

    def tasks(self, options: Options) -> Tasks:
        """Return the test sets of a cell."""
        evaluation = options.evaluation
        tasks = tuple(evaluation.eval_tasks or ())
        key = ("tasks", evaluation.senteval_dir, tasks, evaluation.report_test_selection)
        return self._once(key, lambda: read_evaluation_tasks(options))

    def encoder(self, options: Options):
        """Return the configuration and the tokenizer of a cell's encoder."""
        return self._once(("encoder config", *_encoder_key(options)), lambda: read_encoder_config(options))

    def has_metric(self, name: str, options: Options) -> bool:
        """Return whether the trials of a cell have a figure."""
        name = name.removeprefix("last_").removeprefix("start_")
        tasks = self.tasks(options).final
        means = averages({f"{task.name}_{figure}": 0.0 for task in tasks for figure in _AVERAGED})
        return (
            name in self.development_sets(options).metric_names
            or name in means
            or any(name.startswith(f"{task.name}_") for task in tasks)
        )

    def digests(self, options: Options) -> dict[str, str]:
        """Return the digests of a cell's data and encoder."""
        sentences, tasks = self.sentences(options), self.tasks(options)
        digests = {SENTENCES: sentences.fingerprint if options.data.streaming else sentences.sha256}
        sets = self.development_sets(options)
        if sets.pairs is not None:
            digests[f"{SHA256_PREFIX}development pairs"] = self._digest(sets.pairs)
        if sets.tasks:
            content = [[task.name, task.sentences(), task.targets()] for task in sets.tasks]
            digests[f"{SHA256_PREFIX}development sets"] = content_sha256(content)
        has_tests = tasks.final or tasks.during_training
        digests[f"{SHA256_PREFIX}test sets"] = self._digest(tasks) if has_tests else "none"
        digests[ENCODER_DIGEST] = self._once(("encoder", *_encoder_key(options)), lambda: fingerprint_encoder(options))
        return digests

    def _digest(self, value: object) -> str:
        """Return the digest of a cached value."""
        return self._once(("digest", id(value)), lambda: content_sha256(value))

    def _once(self, key: tuple, read: Callable[[], object]):
        if key not in self._cache:
            self._cache[key] = read()
        return self._cache[key]


def _encoder_key(options: Options) -> tuple:
    model = options.model
    return model.model_name_or_path, model.model_revision, model.cache_dir
