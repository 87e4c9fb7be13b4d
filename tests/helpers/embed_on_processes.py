"""Embed and score pairs on as many processes as the launcher started; write what each is given and ends with.

Called with the encoder's directory and the output directory.
"""

import sys
from pathlib import Path

import torch
from builders import sentences, tiny_model
from datasets import Dataset
from torch import distributed

from mocose_hf import load_tokenizer
from mocose_hf.evaluation import DevelopmentSets, LabelTask, RetrievalTask, embed, evaluate_pairs, score_sets
from mocose_hf.evaluation.retrieval import Judgements
from mocose_hf.parallel.collectives import end_process, process_index

TEXTS = [*sentences(41, seed=5), *sentences(10, seed=5), "bread"]
"""With repeats, and 42 different ones."""


def scored_pairs() -> Dataset:
    first, second = sentences(11, seed=6), sentences(11, seed=7)
    return Dataset.from_dict({"score": [i % 6 for i in range(11)], "sentence1": first, "sentence2": second})


def other_sets() -> DevelopmentSets:
    """Retrieval and labels whose figures hardly depend on the last digits of a cosine."""
    texts = sentences(30, seed=8)
    judgements = Judgements.from_entries([(i, i, 1.0) for i in range(15)])
    labels = [str(len(text.split()) % 3) for text in texts]
    return DevelopmentSets(
        tasks=[RetrievalTask("shop", texts[:15], texts[15:], judgements), LabelTask("bank", texts, labels)]
    )


class Noting:
    """A model that keeps what it encodes."""

    def __init__(self):
        self.model, self.encoded = tiny_model(), []
        self.device = self.model.device

    def encode(self, sentences, tokenizer, **options):
        self.encoded.append(list(sentences))
        return self.model.encode(sentences, tokenizer, **options)


def embed_and_score(encoder_dir: str) -> dict:
    model, tokenizer = Noting(), load_tokenizer(encoder_dir)
    embeddings = embed(model, tokenizer, TEXTS, batch_size=4)
    metrics = evaluate_pairs(model, tokenizer, scored_pairs(), batch_size=4)
    encoded = list(model.encoded)
    metrics |= score_sets(model, tokenizer, other_sets(), batch_size=4)
    return {"rows": embeddings(TEXTS), "matrix": embeddings.matrix, "encoded": encoded, "metrics": metrics}


def main(encoder_dir: str, output_dir: str) -> None:
    distributed.init_process_group("gloo")
    torch.save(embed_and_score(encoder_dir), Path(output_dir) / f"rank{process_index()}.pt")


if __name__ == "__main__":
    main(*sys.argv[1:])
    end_process(0)
