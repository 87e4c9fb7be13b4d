"""Tiny models, tokenizers and texts built in code."""

from pathlib import Path

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import BertConfig, BertTokenizer

from mocose_hf import MoCoSEConfig, MoCoSEForPreTraining

HELPERS = Path(__file__).parent
REPOSITORY = HELPERS.parents[1]

WORDS = """
a the one two old new red blue small large cat dog bird horse river stone tree house road train ship
bread soup man woman child king farmer doctor sees hears makes finds sells paints under over near
behind today often never
""".split()  # noqa: SIM905


WAITING = {"_local_scalar_dense", "is_nonzero", "nonzero", "index_put_", "lift_fresh", "lift_fresh_copy"}
"""Operations that wait for a GPU: to read a number of it, or to bring one to it."""


class Operations(TorchDispatchMode):
    """Note the names of the operations that are called."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def tiny_bert_config(**fields) -> BertConfig:
    sizes = {
        "vocab_size": 120,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 48,
        "max_position_embeddings": 40,
    }
    return BertConfig(**sizes | fields)


def tiny_model(seed: int = 0, encoder: dict | None = None, **config) -> MoCoSEForPreTraining:
    torch.manual_seed(seed)
    settings = {"queue_size": 16, "queue_init_size": 4} | config
    return MoCoSEForPreTraining(MoCoSEConfig(encoder_config=tiny_bert_config(**(encoder or {})), **settings))


def random_batch(seed: int = 0, rows: int = 4, length: int = 7) -> dict[str, torch.Tensor]:
    """Token ids with the tail of row 1 padded."""
    generator = torch.Generator().manual_seed(seed)
    input_ids = torch.randint(5, 100, (rows, length), generator=generator)
    attention_mask = torch.ones_like(input_ids)
    attention_mask[1, length // 2 :] = 0
    input_ids[1, length // 2 :] = 0
    return {"input_ids": input_ids, "attention_mask": attention_mask}


def sentences(count: int, seed: int = 0) -> list[str]:
    """Different sentences of three to nine words."""
    generator = torch.Generator().manual_seed(seed)
    made: dict[str, None] = {}
    while len(made) < count:
        length = int(torch.randint(3, 10, (), generator=generator))
        picks = torch.randint(len(WORDS), (length,), generator=generator).tolist()
        made[" ".join(WORDS[i] for i in picks)] = None
    return list(made)


def write_tokenizer(directory: Path) -> BertTokenizer:
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    tokenizer = BertTokenizer.from_pretrained(directory)
    tokenizer.model_max_length = 40
    tokenizer.save_pretrained(directory)
    return tokenizer
