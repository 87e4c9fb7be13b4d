import pytest
import torch

from mocose_hf.models.pooling import POOLING_MODES, pool, rotate_rows

TOKENS = torch.tensor([[[1.0, -2.0], [3.0, -4.0], [50.0, 50.0]], [[-1.0, 6.0], [-2.0, 0.0], [-6.0, 3.0]]])
MASK = torch.tensor([[1, 1, 0], [1, 1, 1]])


def right_padded(rows: int, length: int, dim: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(rows, length, dim, generator=generator)
    lengths = torch.randint(1, length + 1, (rows,), generator=generator)
    lengths[0] = length
    return tokens, (torch.arange(length) < lengths[:, None]).long()


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("cls", [[1.0, -2.0], [-1.0, 6.0]]),
        ("mean", [[2.0, -3.0], [-3.0, 3.0]]),
        ("max", [[3.0, -2.0], [-1.0, 6.0]]),
        ("lasttoken", [[3.0, -4.0], [-6.0, 3.0]]),
    ],
)
def test_pooling_worked_by_hand(mode, expected):
    assert pool(TOKENS, MASK, mode).tolist() == expected


@pytest.mark.parametrize("mode", ["mean", "max"])
def test_pooling_is_the_slow_loops(mode):
    tokens, mask = right_padded(5, 9, 4)
    for row in range(5):
        seen = [tokens[row, t].tolist() for t in range(9) if mask[row, t] == 1]
        columns = list(zip(*seen, strict=True))
        expected = [sum(c) / len(c) if mode == "mean" else max(c) for c in columns]
        assert pool(tokens, mask, mode)[row].tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("mode", POOLING_MODES)
def test_padding_does_not_matter(mode):
    tokens, mask = right_padded(5, 9, 4)
    other = torch.where(mask[:, :, None] == 1, tokens, 1e4)
    assert torch.equal(pool(tokens, mask, mode), pool(other, mask, mode))


@pytest.mark.parametrize("mode", POOLING_MODES)
def test_padding_on_the_left_does_not_matter_either(mode):
    tokens, mask = right_padded(5, 9, 4)
    padding = 9 - mask.sum(1)
    left_tokens, left_mask = rotate_rows(tokens, -padding), rotate_rows(mask, -padding)
    assert left_mask[:, -1].tolist() == [1] * 5
    torch.testing.assert_close(pool(left_tokens, left_mask, mode), pool(tokens, mask, mode))


def test_rotated_rows_start_at_the_given_index():
    rows = torch.tensor([[0, 1, 2], [10, 11, 12]])
    assert rotate_rows(rows, torch.tensor([0, 2])).tolist() == [[0, 1, 2], [12, 10, 11]]
    assert rotate_rows(rotate_rows(rows, torch.tensor([1, 2])), torch.tensor([-1, -2])).tolist() == rows.tolist()
    assert rotate_rows(rows[:, :, None], torch.tensor([1, 0]))[..., 0].tolist() == [[1, 2, 0], [10, 11, 12]]


@pytest.mark.parametrize("mode", POOLING_MODES)
def test_no_mask_is_a_mask_of_ones(mode):
    tokens, _ = right_padded(5, 9, 4)
    assert torch.equal(pool(tokens, None, mode), pool(tokens, torch.ones(5, 9, dtype=torch.int64), mode))


@pytest.mark.parametrize("mode", POOLING_MODES)
def test_one_token_is_its_own_embedding(mode):
    tokens, _ = right_padded(5, 1, 4)
    assert torch.equal(pool(tokens, torch.ones(5, 1, dtype=torch.int64), mode), tokens[:, 0])


@pytest.mark.parametrize("dtype", [torch.bool, torch.int32, torch.float32])
@pytest.mark.parametrize("mode", POOLING_MODES)
def test_any_dtype_of_mask_does(mode, dtype):
    tokens, mask = right_padded(5, 9, 4)
    assert torch.equal(pool(tokens, mask.to(dtype), mode), pool(tokens, mask, mode))


def test_max_of_negative_values_is_not_the_padding():
    assert pool(-TOKENS.abs(), MASK, "max").tolist() == [[-1.0, -2.0], [-1.0, 0.0]]


@pytest.mark.parametrize(
    ("mode", "gradient"), [("cls", [1.0, 0.0, 0.0]), ("mean", [0.5, 0.5, 0.0]), ("lasttoken", [0.0, 1.0, 0.0])]
)
def test_gradient_reaches_the_pooled_tokens_alone(mode, gradient):
    tokens = TOKENS.clone().requires_grad_()
    pool(tokens, MASK, mode)[0].sum().backward()
    assert tokens.grad[0, :, 0].tolist() == gradient
    assert tokens.grad[1].eq(0).all()


@pytest.mark.parametrize("mode", POOLING_MODES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("side", ["right", "left"])
def test_pooling_is_to_the_last_bit_that_of_sentence_transformers(mode, dtype, side):
    modules = pytest.importorskip("sentence_transformers.sentence_transformer.modules")
    tokens, mask = right_padded(6, 11, 8)
    mask = mask if side == "right" else mask.flip(1)
    tokens = tokens.to(dtype)
    theirs = modules.Pooling(8, pooling_mode=mode)({"token_embeddings": tokens.clone(), "attention_mask": mask})
    ours = pool(tokens, mask, mode)
    assert ours.dtype == theirs["sentence_embedding"].dtype == dtype
    assert torch.equal(ours, theirs["sentence_embedding"])


def test_mean_of_a_long_sentence_in_bfloat16_counts_all_its_tokens():
    tokens = torch.full((1, 257, 1), 2.0, dtype=torch.bfloat16)
    tokens[0, 0] = 0.0
    # 512 / 257 is 1.99222; a count rounded to the 8 bits of bfloat16 would be 256 and the mean 2.
    assert pool(tokens, torch.ones(1, 257, dtype=torch.int64), "mean").item() == 1.9921875


@pytest.mark.parametrize("mask", [None, MASK])
@pytest.mark.parametrize("mode", ["sum", "CLS", "", None])
def test_unknown_mode_raises_an_error(mode, mask):
    with pytest.raises(ValueError, match="`pooling_mode`"):
        pool(TOKENS, mask, mode)
