"""Search with a trained encoder in sentence-transformers, without mocose_hf.

python examples/use_in_sentence_transformers.py out sentences.txt "a question"
"""

import sys
from pathlib import Path

from sentence_transformers import SentenceTransformer, util


def main(model_dir: str, text: str, query: str, top_k: int = 5) -> list[tuple[float, str]]:
    """Return the nearest sentences of a file with their cosines, and print them."""
    model = SentenceTransformer(model_dir)
    sentences = Path(text).read_text(encoding="utf-8").splitlines()
    embeddings = model.encode(sentences, convert_to_tensor=True, show_progress_bar=False)
    (hits,) = util.semantic_search(model.encode(query, convert_to_tensor=True), embeddings, top_k=top_k)
    found = [(float(hit["score"]), sentences[int(hit["corpus_id"])]) for hit in hits]
    for score, sentence in found:
        print(f"{score:.3f}  {sentence}")
    return found


if __name__ == "__main__":
    main(*sys.argv[1:4])
