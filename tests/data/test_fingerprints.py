"""Training data and tokenizers are told apart by what training makes of them."""

import random

import numpy as np
import pytest
import torch
from builders import sentences
from datasets import Dataset, concatenate_datasets
from transformers import BertTokenizer

from mocose_hf.data.fingerprints import dataset_fingerprint, rows_sha256, text_number, tokenizer_fingerprint
from mocose_hf.data.streaming import RowStream


def test_all_rows_and_columns_count_in_their_order():
    texts = sentences(6)
    same = [{"text": texts}, {"text": texts, "sentence_id": list(range(6))}]
    others = [
        {"text": texts[::-1]},
        {"text": texts[:5]},
        {"text": [*texts[:5], ""]},
        {"text": texts, "key_text": texts},
        {"text": texts, "sentence_id": [0, 0, 1, 1, 2, 2]},
        {"sentence": texts},
    ]
    found = [dataset_fingerprint(Dataset.from_dict(columns)) for columns in same + others]
    assert found[0] == found[1]
    assert len(set(found)) == len(found) - 1


def test_lists_of_numbers_count_with_their_lengths_and_however_they_are_held(tmp_path):
    rows = [[1, 2], [3], [], [4, 5, 6]]
    plain = Dataset.from_dict({"input_ids": rows})
    plain.save_to_disk(tmp_path / "saved")
    held = [
        Dataset.load_from_disk(tmp_path / "saved"),
        Dataset.from_dict({"input_ids": [[9], *rows, [9]]}).select(range(1, 5)),
        Dataset.from_dict({"input_ids": rows[::-1]}).select([3, 2, 1, 0]),
        concatenate_datasets([plain.select([0]), plain.select(range(1, 4))]),
    ]
    assert {dataset_fingerprint(dataset) for dataset in held} == {dataset_fingerprint(plain)}
    others = [
        [[1], [2, 3], [], [4, 5, 6]],
        [*rows[:3], [4, 5, 7]],
        [*rows[:2], None, rows[3]],
        [*rows[:3], [4, None, 6]],
    ]
    found = [dataset_fingerprint(Dataset.from_dict({"input_ids": other})) for other in (rows, *others)]
    assert len(set(found)) == 5


def test_values_that_look_alike_are_distinguished():
    long = torch.zeros(3000)
    other = long.clone()
    other[1500] = 1.0  # in the part that `repr` leaves out
    values = [1, 1.0, "1", [1], [[1]], torch.tensor(1), torch.tensor(1.0), np.array(1), np.float32(1), long, other]
    values += [long.to(torch.bfloat16)[:3], long[:3], {"a": 1}, {"b": 1}, None, ""]
    digests = [rows_sha256([{"x": value}]) for value in values]
    assert digests[5] == digests[7]  # a tensor and the same array
    assert len(set(digests)) == len(values) - 2  # and bfloat16 as float32
    assert rows_sha256([long]) == rows_sha256([long.clone()])


@pytest.mark.parametrize("read", [random.random, np.random.rand, lambda: torch.rand(()).item()])
def test_rows_drawn_at_random_have_no_fingerprint_and_draw_nothing_from_the_run(read):
    class Rows(torch.utils.data.Dataset):
        def __len__(self):
            return 3

        def __getitem__(self, number):
            return {"text": str(read())}

    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    assert dataset_fingerprint(Rows()) is None
    assert states == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())


def test_streams_are_distinguished_by_their_first_rows():
    def stream(texts):
        return RowStream([{"text": text} for text in texts])

    texts = sentences(6)
    assert dataset_fingerprint(stream(texts)) == dataset_fingerprint(stream(texts))
    assert dataset_fingerprint(stream(texts)) != dataset_fingerprint(stream(texts[::-1]))


def test_tokenizers_are_distinguished_by_casing_and_vocabulary(tokenizer, encoder_dir, tmp_path):
    same = tokenizer_fingerprint(BertTokenizer.from_pretrained(encoder_dir))
    assert tokenizer_fingerprint(tokenizer) == same
    assert tokenizer_fingerprint(None) is None
    cased = BertTokenizer.from_pretrained(encoder_dir, do_lower_case=False)
    assert tokenizer_fingerprint(cased) != same
    larger = BertTokenizer.from_pretrained(encoder_dir)
    larger.add_tokens(["unheardof"])
    assert tokenizer_fingerprint(larger) != same


def test_a_number_of_a_text_fits_64_bits_and_is_not_that_of_none():
    assert text_number(None) == 0
    assert 0 < text_number("a") < 2**63
    assert text_number("a") != text_number("b")
