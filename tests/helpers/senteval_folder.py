"""Write small tasks in SentEval's layout, of sentences that the tiny tokenizer knows."""

from pathlib import Path

from builders import sentences

SUBSETS = {
    "STS12": ["MSRpar", "MSRvid", "SMTeuroparl", "surprise.OnWN", "surprise.SMTnews"],
    "STS13": ["FNWN", "headlines", "OnWN"],
    "STS14": ["deft-forum", "deft-news", "headlines", "images", "OnWN", "tweet-news"],
    "STS15": ["answers-forums", "answers-students", "belief", "headlines", "images"],
    "STS16": ["answer-answer", "headlines", "plagiarism", "postediting", "question-question"],
}


def scored(count: int, seed: int) -> list[tuple[float, str, str]]:
    """Pairs that share more words the higher they are scored, from 0 to 5."""
    firsts, others = sentences(count, seed=seed), sentences(count, seed=seed + 1000)
    pairs = []
    for i, (first, other) in enumerate(zip(firsts, others, strict=True)):
        share = i / (count - 1)
        kept = round(share * len(first.split()))
        second = first.split()[:kept] + other.split()[kept:]
        pairs.append((round(5 * share, 2), first, " ".join(second)))
    return pairs


def write_senteval(folder: Path, years: list[str] = (*SUBSETS,), pairs: int = 6, sick: bool = True) -> Path:
    """Write STS-B (dev and test), SICK-R, the years, MR and TREC."""
    sts = folder / "downstream" / "STS"
    (sts / "STSBenchmark").mkdir(parents=True)
    for seed, split in enumerate(("dev", "test")):
        lines = [f"g\tf\ty\t{i}\t{s}\t{a}\t{b}\n" for i, (s, a, b) in enumerate(scored(3 * pairs, seed))]
        (sts / "STSBenchmark" / f"sts-{split}.csv").write_text("".join(lines))
    for year in years:
        (sts / f"{year}-en-test").mkdir()
        for number, subset in enumerate(SUBSETS[year]):
            made = scored(pairs, seed=int(year[3:]) * 10 + number)
            gold = [str(s) for s, _, _ in made]
            gold.insert(2, "")  # nobody scored this pair
            texts = [f"{a}\t{b}" for _, a, b in made]
            texts.insert(2, "not scored\tat all")
            (sts / f"{year}-en-test" / f"STS.gs.{subset}.txt").write_text("\n".join(gold) + "\n")
            (sts / f"{year}-en-test" / f"STS.input.{subset}.txt").write_text("\n".join(texts) + "\n")
    if sick:
        (folder / "downstream" / "SICK").mkdir()
        rows = ["pair_ID\tsentence_A\tsentence_B\trelatedness_score\tentailment_judgment"]
        rows += [f"{i}\t{a}\t{b}\t{s}\tNEUTRAL" for i, (s, a, b) in enumerate(scored(pairs, seed=77))]
        path = folder / "downstream" / "SICK" / "SICK_test_annotated.txt"
        path.write_bytes(("\r\n".join(rows) + "\r\n").encode())
    (folder / "downstream" / "MR").mkdir()
    for seed, part in enumerate(("pos", "neg")):
        text = "\n".join(f"{part} {line}" for line in sentences(15, seed=40 + seed))
        (folder / "downstream" / "MR" / f"rt-polarity.{part}").write_text(text + "\n")
    return folder
