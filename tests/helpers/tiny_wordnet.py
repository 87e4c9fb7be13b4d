"""Write a small WordNet in the format of its database files, https://wordnet.princeton.edu/documentation/wndb5wn."""

import shutil
from collections import defaultdict
from pathlib import Path

LICENCE = "  1 A licence stands in front of the entries.  \n  2 Its lines are indented.  \n"

PARTS = {"noun": "n", "verb": "v", "adj": "a", "adv": "r"}

SYNSETS = {
    "noun": [
        ["cat", "true_cat"],
        ["guy", "cat", "hombre", "bozo"],
        ["horse", "Equus_caballus"],
        ["river"],
        ["house"],
        ["train", "railroad_train"],
        ["gear_train", "train", "geartrain"],
        ["inch", "in"],
        ["can", "tin"],
        ["child", "kid", "X-er"],
    ],
    "verb": [
        ["see", "comprehend"],
        ["house", "put_up", "domiciliate"],
        ["horse", "mount"],
        ["paint", "Paint", "daub"],
    ],
    "adj": [["old", "aged(p)", "aged"], ["small", "little(a)"], ["red", "crimson"], ["blue"]],
    "adv": [["often", "frequently", "oft"]],
}
"""Of each part of speech; the senses of a word in the order in which they are written."""

SYNONYMS = {
    "cat": ("guy", "hombre", "bozo"),
    "guy": ("cat", "hombre", "bozo"),
    "hombre": ("guy", "cat", "bozo"),
    "bozo": ("guy", "cat", "hombre"),
    "horse": ("mount",),
    "mount": ("horse",),
    "house": ("domiciliate",),
    "domiciliate": ("house",),
    "train": ("geartrain",),
    "geartrain": ("train",),
    "inch": ("in",),
    "tin": ("can",),
    "child": ("kid", "X-er"),
    "kid": ("child", "X-er"),
    "see": ("comprehend",),
    "comprehend": ("see",),
    "paint": ("daub",),
    "daub": ("paint", "Paint"),
    "old": ("aged",),
    "aged": ("old",),
    "small": ("little",),
    "little": ("small",),
    "red": ("crimson",),
    "crimson": ("red",),
    "often": ("frequently", "oft"),
    "frequently": ("often", "oft"),
    "oft": ("often", "frequently"),
}
"""What `read_wordnet` is to find there, by hand."""


def write_wordnet(root: Path, zipped: bool = False) -> Path:
    """Write it below `root` as the downloader of nltk leaves it; return the folder or archive."""
    folder = root / "corpora" / "wordnet"
    folder.mkdir(parents=True)
    for part, letter in PARTS.items():
        text, senses = LICENCE, defaultdict(list)
        for names in SYNSETS[part]:
            offset = f"{len(text):08d}"
            words = " ".join(f"{name} 0" for name in names)
            frames = " 00" if part == "verb" else ""
            text += f"{offset} 00 {letter} {len(names):02x} {words} 000{frames} | of no meaning  \n"
            for name in names:
                lemma = name.partition("(")[0].lower()
                if offset not in senses[lemma]:
                    senses[lemma].append(offset)
        (folder / f"data.{part}").write_text(text)
        lines = [
            f"{lemma} {letter} {len(found)} 1 @ {len(found)} 0 {' '.join(found)}  \n"
            for lemma, found in sorted(senses.items())
        ]
        (folder / f"index.{part}").write_text(LICENCE + "".join(lines))
        (folder / f"{part}.exc").write_text("")
    (folder / "lexnames").write_text("00\tadj.all\t3\n")
    for name in ("index.sense", "cntlist.rev"):
        (folder / name).write_text("")
    if not zipped:
        return folder
    made = shutil.make_archive(str(folder), "zip", root_dir=root / "corpora", base_dir="wordnet")
    shutil.rmtree(folder)
    return Path(made)
