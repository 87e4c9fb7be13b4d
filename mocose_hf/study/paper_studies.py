"""The paper's experiments as studies, with its figures (https://arxiv.org/abs/2202.13093), and some of our own.

The paper's figures are Spearman × 100, averaged over seven STS test sets, for BERT-base trained on a million sentences
of Wikipedia. Each is the best of one run's evaluations on those test sets.
"""

from mocose_hf.study.study import BASELINE, Cell, Study


def _by(option: str, paper: dict, symbol: str = "", **more) -> list[Cell]:
    """Return a cell for each value of one option, with the paper's figure."""
    return [
        Cell(f"{symbol}{value:g}", options={option: value, **more}, paper=figure, x=float(value))
        for value, figure in paper.items()
    ]


def _heads() -> list[Cell]:
    paper = {
        0: (60.46, 62.67, 63.62),
        1: (76.74, 76.89, 76.24),
        2: (66.96, 66.29, 61.57),
        3: (31.51, 43.97, 39.13),
    }
    return [
        Cell(f"P = {p}", f"M = {m}", {"num_projection_layers": p, "num_predictor_layers": m}, figure)
        for p, figures in paper.items()
        for m, figure in enumerate(figures, start=1)
    ]


def _initial_parts() -> list[Cell]:
    sizes = (128, 256, 512, 1024, 4096)
    paper = {
        "none": (0, (76.40, 76.19, 75.38, 76.63, 50.17)),
        "¼": (0.25, (75.92, 76.34, 77.30, 76.20, 50.42)),
        "½": (0.5, (76.16, 76.39, 76.94, 76.57, 38.74)),
        "all": (1, (76.87, 75.81, 76.29, 76.45, 45.80)),
    }
    return [
        Cell(part, f"K = {size}", {"queue_size": size, "queue_init_size": int(share * size)}, figure, x=size)
        for part, (share, figures) in paper.items()
        for size, figure in zip(sizes, figures, strict=True)
    ]


_DISTANCES = ((0.75, 1), (0.75, 2), (0.85, 1), (0.75, 4), (0.85, 2), (0.85, 4), (0.75, 8), (0.85, 8), (0.95, 1))
"""η and K / B, sorted by their maximum traceable distance."""

_DISTANCE_FIGURES = {
    64: (76.50, 76.66, 76.64, 75.90, 76.87, 76.39, 76.38, 77.30, 76.33),
    128: (76.80, 77.05, 76.64, 76.80, 76.90, 76.78, 76.98, 76.62, 76.58),
    256: (76.76, 76.74, 76.59, 76.66, 76.62, 76.73, 76.77, 76.76, 75.41),
}


def _distances(*batch_sizes: int) -> list[Cell]:
    cells = []
    for batch in batch_sizes:
        for (decay, ratio), figure in zip(_DISTANCES, _DISTANCE_FIGURES[batch], strict=True):
            # As `maximum_traceable_distance`, which loads torch: `study list` should start fast.
            size, distance = ratio * batch, 1 / (1 - decay) + ratio
            options = {
                "ema_decay": decay,
                "queue_size": size,
                "queue_init_size": size // 4,
                "per_device_train_batch_size": batch,
            }
            cells.append(Cell(f"d_trace = {distance:.4g}", f"B = {batch}", options, figure, x=round(distance, 2)))
    return cells


_WINDOWS = {
    "newest": ("newest half", 76.10),
    "middle": ("middle half", 77.02),
    "oldest": ("oldest half", 75.71),
    "without_middle": ("without the middle", 76.18),
    "all": ("all", 76.86),
}

_COLLAPSE = {"ema_decay": 0.0, "ema_decay_end": 0.0}
_START = Cell("start", options={BASELINE: "start"})
_TFIDF = Cell("TF-IDF", options={BASELINE: "tfidf"})
_SIMCSE = Cell("SimCSE", options={"algorithm": "simcse"}, paper=76.25)

_STUDIES = (
    Study(
        "headline",
        "MoCoSE compared with SimCSE, the start and TF-IDF",
        "Does momentum contrast with a queue give better embeddings than SimCSE from the same start?",
        "Table 1",
        [
            Cell("MoCoSE", paper=77.27),
            _SIMCSE,
            Cell("MoCoSE as released", options={"algorithm": "released", "padding_free": False}, paper=77.27),
            _START,
            _TFIDF,
        ],
    ),
    Study(
        "table3",
        "EMA decay η",
        "How slowly should the target follow?",
        "Table 3",
        _by("ema_decay", {0.5: 75.76, 0.8: 75.19, 0.85: 76.49, 0.9: 76.05, 0.95: 76.08, 0.99: 75.12}, "η = "),
        default="η = 0.85",
        plot="line",
        x_label="EMA decay η",
    ),
    Study(
        "table4",
        "Layers of projection head (P) and predictor (M)",
        "How deep should the heads be?",
        "Table 4",
        _heads(),
        default="P = 1, M = 2",
    ),
    Study(
        "augmentations",
        "Augmentations in addition to dropout",
        "Does a change to the text, its tokens or its embeddings help beyond dropout?",
        "the table of augmentations",
        [
            Cell("dropout only", paper=76.76),
            Cell("FGSM, ε = 5e-9", options={"fgsm_epsilon": 5e-9}, paper=77.04),
            Cell("position shuffle", options={"position_shuffle": True}, paper=73.80),
            Cell("token cut-off 0.1", options={"token_cutoff": 0.1}, paper=41.32),
            Cell("feature cut-off 0.01", options={"feature_cutoff": 0.01}, paper=76.33),
            Cell("feature cut-off 0.1", options={"feature_cutoff": 0.1}, paper=71.62),
            Cell("typos", options={"key_augmentation": "typos"}, paper=22.32),
            Cell("synonyms", options={"key_augmentation": "synonyms"}, paper=28.70, optional=True),
            Cell("paraphrase", options={"key_column": "paraphrase"}, paper=60.45, optional=True),
            Cell("back-translation", options={"key_column": "back_translation"}, paper=69.35, optional=True),
        ],
    ),
    Study(
        "table6b",
        "Batch size B",
        "How many keys should enter the queue per step?",
        "Table 6b",
        _by("per_device_train_batch_size", {32: 73.86, 64: 77.25, 128: 76.78, 256: 76.62}, "B = "),
        default="B = 64",
        plot="line",
        x_label="batch size B",
    ),
    Study(
        "table7",
        "Initial part of the queue and its size K",
        "How large should the queue be, and how much of it should be random at the start?",
        "Table 7",
        _initial_parts(),
        default="¼, K = 512",
        plot="line",
        x_label="queue size K",
    ),
    Study(
        "table8",
        "Part of the queue, by age",
        "Which negatives are best, the newest or the oldest?",
        "Table 8",
        [Cell(row, options={"queue_window": window}, paper=figure) for window, (row, figure) in _WINDOWS.items()],
        default="all",
        options={"queue_size": 1024, "queue_init_size": 256, "per_device_train_batch_size": 256},
    ),
    Study(
        "table9",
        "FGSM ε",
        "How strong should the adversarial step be?",
        "Table 9",
        [
            Cell("none", paper=76.26),
            *_by("fgsm_epsilon", {1e-9: 75.61, 5e-9: 76.64, 1e-8: 75.39, 5e-8: 76.62}, "ε = "),
        ],
    ),
    Study(
        "fgsm",
        "FGSM compared with random signs of the same size",
        "Does the direction of the gradient help, or any small change?",
        "ours, on Table 9",
        [
            Cell("none"),
            *(
                Cell(f"ε = {size:g}", kind, {option: size})
                for size in (5e-9, 1e-3, 1e-2)
                for kind, option in (("FGSM", "fgsm_epsilon"), ("random signs", "embedding_noise"))
            ),
        ],
    ),
    Study(
        "kmeans",
        "Centroids of the queue as negatives",
        "Are a few centroids as good as the whole queue?",
        "the authors' talk",
        [
            Cell("whole queue", paper=76.41),
            Cell("mean", options={"queue_centroids": 1}, paper=76.80),
            *(
                Cell(f"{count} centroids", options={"queue_centroids": count}, paper=figure)
                for count, figure in ((5, 74.37), (10, 77.13), (15, 77.01), (20, 75.82))
            ),
        ],
    ),
    Study(
        "figure2",
        "Maximum traceable distance at B = 64",
        "How far back should the negatives reach?",
        "Figures 2 and 3",
        _distances(64),
        default="d_trace = 14.67, B = 64",
        plot="line",
        x_label="d_trace, optimizer steps",
    ),
    Study(
        "figure3",
        "Maximum traceable distance at three batch sizes",
        "Is the best distance the same at every batch size?",
        "Figures 2 and 3",
        _distances(64, 128, 256),
        default="d_trace = 14.67, B = 64",
        plot="line",
        x_label="d_trace, optimizer steps",
    ),
    Study(
        "figure5",
        "Collapse without momentum and predictor",
        "What happens if the target is a copy of the online branch, without a predictor?",
        "Figure 5",
        [Cell("η = 0.85, predictor"), Cell("η = 0, no predictor", options=_COLLAPSE | {"num_predictor_layers": 0})],
        plot="curves",
    ),
    Study(
        "figure6",
        "Collapse without momentum, with the predictor",
        "Does the predictor alone prevent the collapse?",
        "Figure 6",
        [Cell("η = 0.85, predictor"), Cell("η = 0, predictor", options=_COLLAPSE)],
        plot="curves",
    ),
    Study(
        "figure7",
        "Singular values of the embeddings of STS-B dev",
        "Which embeddings spread most evenly over their dimensions?",
        "Figure 7",
        [Cell("MoCoSE"), Cell("SimCSE", options={"algorithm": "simcse"}), _START],
        plot="spectrum",
    ),
    Study(
        "figure10",
        "Width D of queries and keys",
        "How many dimensions should queries and keys have?",
        "Figure 10",
        _by("projection_dim", {256: 74.5, 512: 76.05, 768: 77.04, 1024: 77.07, 2048: 76.95}, "D = "),
        default="D = 768",
        plot="line",
        x_label="D",
    ),
    Study(
        "recipes",
        "Changes to the paper's recipe",
        "Does any single change to the recipe give better embeddings?",
        "ours",
        [
            Cell("the paper's recipe"),
            Cell("η stays at 0.85", options={"ema_decay_end": 0.85}),
            Cell("d_trace stays constant", options={"ema_schedule": "constant_distance"}),
            Cell("half-life 4 steps", options={"queue_half_life": 4.0}),
            Cell("half-life −4 steps", options={"queue_half_life": -4.0}),
            Cell("10 centroids", options={"queue_centroids": 10}),
            Cell("same sentence masked", options={"mask_same_sentence": True}),
            Cell("no queue", options={"queue_size": 0, "queue_init_size": 0}),
            Cell("queue alone", options={"in_batch_negatives": False}),
            Cell("K = 4096", options={"queue_size": 4096, "queue_init_size": 1024}),
            Cell("mean pooling", options={"pooling_mode": "mean"}),
            Cell("τ = 0.03", options={"temperature": 0.03}),
            Cell("τ = 0.1", options={"temperature": 0.1}),
            Cell("no predictor", options={"num_predictor_layers": 0}),
        ],
    ),
)

PAPER_STUDIES = {study.name: study for study in _STUDIES}
"""The studies by name."""
