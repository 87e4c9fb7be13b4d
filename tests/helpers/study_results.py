"""Invented trials of studies, finished and unfinished."""

import random

from mocose_hf.study import Cell, Study, TrialResult

SEEDS = (42, 43, 44)

NASTY = "η|½ ≥ 5% a_b & <b>$x$</b>"
"""A label with special characters of LaTeX, Markdown, HTML and matplotlib."""


def complete(study: str, cell: str, seed: int, score: float, **more) -> TrialResult:
    figures = {"dev_spearman": score, "dev_step": 400.0, "last_dev_spearman": score - 0.2, "seconds": 61.5}
    return TrialResult(study, cell, seed, "complete", figures | more.pop("figures", {}), **more)


def decay_study() -> tuple[Study, list[TrialResult]]:
    """Ten rows of three seeds, drawn as bars, one cell far below, one failed, one running and one waiting trial."""
    rows = {"0.5": 75.76, "0.75": None, "0.8": 75.19, "0.85": 76.49, "0.9": 76.05, "0.95": 76.08, "0.99": 75.12}
    cells = [Cell(f"η = {row}", options={"ema_decay": float(row)}, paper=paper) for row, paper in rows.items()]
    cells += [
        Cell(NASTY, options={"ema_decay": 0.85, "symmetric": True}, paper=24.0),
        Cell("no target at all: the encoder itself, with gradient", options={"ema_decay": 0.0}),
        Cell("never run", options={"ema_decay": 1.0}, paper=70.0),
    ]
    study = Study("ema_decay", "EMA decay", "How slow should the target be?", "Table 3", cells, default="η = 0.85")
    noise = random.Random(3)
    results = []
    for number, cell in enumerate(cells[:-1]):
        base = 30.0 if cell.row == NASTY else 71 + 0.4 * (number % 4)
        for seed in SEEDS:
            score = base + noise.gauss(0, 0.3)
            options = {"seed": seed, "learning_rate": 3e-5, "output_dir": f"out/{number}-{seed}", **cell.options}
            figures = {"sts_avg_spearman": score - 6 + noise.gauss(0, 0.2)}
            results.append(complete(study.name, cell.label, seed, score, figures=figures, options=options))
    results[3] = TrialResult(study.name, cells[1].label, 42, "failed", reason="the disk | is full <now> & 100%")
    results[4] = TrialResult(study.name, cells[1].label, 43, "running")
    results[12] = TrialResult(study.name, cells[4].label, 42, "waiting")
    return study, results


def queue_study(plot: str = "line") -> tuple[Study, list[TrialResult]]:
    """Table 7: four initial parts by five sizes, two seeds, one size that does not learn, one cell empty."""
    paper = {
        "none": (76.40, 76.19, 75.38, 76.63, 50.17),
        "¼": (75.92, 76.34, 77.30, 76.20, 50.42),
        "½": (76.16, 76.39, 76.94, 76.57, 38.74),
        "all": (76.87, 75.81, 76.29, 76.45, 45.80),
    }
    sizes = (128, 256, 512, 1024, 4096)
    cells = [
        Cell(part, f"K = {size}", {"queue_size": size, "part": part}, figure, float(size))
        for part, figures in paper.items()
        for size, figure in zip(sizes, figures, strict=True)
    ]
    if plot == "line":  # a line for each part
        cells = [Cell(cell.column, cell.row, cell.options, cell.paper, cell.x) for cell in cells]
    default = "K = 512, ¼" if plot == "line" else "¼, K = 512"
    study = Study(
        "queue", "Queue size", "How long should the queue be?", "Table 7", cells, default, {}, plot, "queue size K"
    )
    noise = random.Random(7)
    results = []
    for cell in cells[:-1]:
        base = 58.0 if cell.x == 4096 else 71.2 + 0.3 * (cell.x == 512)
        results += [complete(study.name, cell.label, seed, base + noise.gauss(0, 0.25)) for seed in SEEDS[:2]]
    return study, results


def collapse_study() -> tuple[Study, list[TrialResult]]:
    """Scores over steps of three cells, of which one collapses with an alarm."""
    cells = [Cell("with predictor"), Cell("without predictor"), Cell("symmetric, η = 0", paper=0.0)]
    study = Study("collapse", "Collapse", "What keeps the embeddings apart?", "Figures 5 and 6", cells, plot="curves")
    noise = random.Random(5)
    results = []
    for number, cell in enumerate(cells):
        for seed in SEEDS:
            curve = [(0, 62.0)]
            for step in range(50, 801, 50):
                height = 62 + 9 * step / (step + 150) if number < 2 else max(2.0, 62 - 0.14 * step)
                curve.append((step, height - number + noise.gauss(0, 0.5)))
            alarm = {"alarm_step": 260.0 + 10 * (seed - 42)} if number == 2 else {}
            best = max(score for _, score in curve)
            results.append(complete(study.name, cell.label, seed, best, curve=curve, figures=alarm))
    return study, results


def spectrum_study() -> tuple[Study, list[TrialResult]]:
    """Singular values of three encoders, two seeds each."""
    cells = [Cell("start"), Cell("SimCSE"), Cell("MoCoSE")]
    study = Study("spectrum", "Singular values", "How evenly are the embeddings spread?", "Figure 7", cells)
    study = Study(**vars(study) | {"plot": "spectrum"})
    results = []
    for number, cell in enumerate(cells):
        for seed in SEEDS[:2]:
            spectrum = [(380 - 120 * number) / (1 + index) ** (0.9 - 0.25 * number) for index in range(64)]
            results.append(
                complete(study.name, cell.label, seed, 70.0 + number + 0.1 * (seed - 42), spectrum=spectrum)
            )
    return study, results


def all_studies() -> list[tuple[Study, list[TrialResult]]]:
    return [decay_study(), queue_study(), collapse_study(), spectrum_study()]
