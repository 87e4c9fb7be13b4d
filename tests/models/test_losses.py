import math
from contextlib import nullcontext
from itertools import pairwise

import pytest
import torch
from builders import WAITING, Operations
from slow_losses import slow_loss_and_gradient, unit_rows
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from mocose_hf import info_nce_loss
from mocose_hf.models.losses import SentenceIds, chunked_info_nce_loss, contrastive_logits

SHAPES = [(1, 0), (1, 3), (4, 0), (4, 9), (6, 2)]
TEMPERATURES = [0.05, 0.2, 1.0]


def batch(rows: int, negatives: int, keys: int | None = None) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return unit_rows(rows, seed=1), unit_rows(rows if keys is None else keys, seed=2), unit_rows(negatives, seed=3)


def masked_loss(queries, keys, negatives, temperature, labels):
    return F.cross_entropy(contrastive_logits(queries, keys, negatives, temperature, labels, False), labels)


# By hand


def test_one_orthogonal_negative_worked_by_hand():
    query, negative = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    # −log(e / (e + 1))
    assert info_nce_loss(query, query, negative, 1.0).item() == pytest.approx(0.3132616875, abs=1e-6)


def test_a_batch_of_two_and_a_queue_of_one_worked_by_hand():
    queries = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    keys = torch.tensor([[0.6, 0.8], [0.0, -1.0]])
    negatives = torch.tensor([[-1.0, 0.0]])
    # Row 0 has logits 1.2, 0, −2 and row 1 has 1.6, −2, 0, at temperature 0.5.
    first = math.log(math.exp(1.2) + 1 + math.exp(-2)) - 1.2
    second = math.log(math.exp(1.6) + math.exp(-2) + 1) + 2
    loss = info_nce_loss(queries, keys, negatives, 0.5)
    assert loss.item() == pytest.approx((first + second) / 2, abs=1e-6)
    assert loss.item() == pytest.approx(2.0503, abs=1e-4)


def test_lone_query_without_negatives_loses_nothing():
    query, key, _ = batch(1, 0)
    assert info_nce_loss(query, key, torch.empty(0, 5), 0.05).item() == 0.0


def test_logits_are_cosines_over_the_temperature_keys_first():
    queries = torch.tensor([[1.0, 0.0]])
    logits = contrastive_logits(queries, torch.tensor([[0.6, 0.8]]), torch.tensor([[0.0, 1.0], [-1.0, 0.0]]), 0.5)
    assert logits.tolist() == [pytest.approx([1.2, 0.0, -2.0])]


# Against the slow loop


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize(("rows", "negatives"), SHAPES)
def test_loss_is_the_slow_loops(rows, negatives, temperature):
    queries, keys, queue = batch(rows, negatives)
    expected, _ = slow_loss_and_gradient(queries, keys, queue, temperature)
    assert info_nce_loss(queries, keys, queue, temperature).item() == pytest.approx(expected, rel=2e-6, abs=2e-6)


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize(("rows", "negatives"), SHAPES)
def test_gradient_of_the_queries_is_the_slow_loops(rows, negatives, temperature):
    queries, keys, queue = batch(rows, negatives)
    queries.requires_grad_()
    info_nce_loss(queries, keys, queue, temperature).backward()
    _, expected = slow_loss_and_gradient(queries.detach(), keys, queue, temperature)
    torch.testing.assert_close(queries.grad.double(), expected, rtol=1e-5, atol=1e-5)


def test_labels_name_the_own_keys_of_a_later_process():
    queries, keys, queue = batch(4, 9, keys=8)
    labels = torch.arange(4) + 4
    loss = info_nce_loss(queries, keys, queue, 0.1, labels)
    expected, _ = slow_loss_and_gradient(queries, keys, queue, 0.1, labels)
    assert loss.item() == pytest.approx(expected, rel=2e-6)
    assert loss.item() != pytest.approx(info_nce_loss(queries, keys, queue, 0.1).item(), rel=1e-2)


def test_no_labels_are_the_labels_of_the_first_process():
    queries, keys, queue = batch(4, 9, keys=8)
    assert torch.equal(
        info_nce_loss(queries, keys, queue, 0.1), info_nce_loss(queries, keys, queue, 0.1, torch.arange(4))
    )


def test_processes_together_lose_what_one_process_loses_on_the_whole_batch():
    queries, keys, queue = batch(8, 5)
    ranks = [
        info_nce_loss(queries[4 * r : 4 * r + 4], keys, queue, 0.1, torch.arange(4) + 4 * r).item() for r in (0, 1)
    ]
    assert sum(ranks) / 2 == pytest.approx(info_nce_loss(queries, keys, queue, 0.1).item(), rel=1e-6)


# Identities


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize(("rows", "negatives"), SHAPES)
def test_loss_is_log_of_the_candidates_if_all_embeddings_are_equal(rows, negatives, temperature):
    one = unit_rows(1)
    loss = info_nce_loss(one.expand(rows, -1), one.expand(rows, -1), one.expand(negatives, -1), temperature)
    assert loss.item() == pytest.approx(math.log(rows + negatives), abs=1e-5)


def test_order_of_the_queue_does_not_matter():
    queries, keys, queue = batch(4, 9)
    loss = info_nce_loss(queries, keys, queue, 0.1)
    assert info_nce_loss(queries, keys, queue.flip(0), 0.1).item() == pytest.approx(loss.item(), rel=1e-6)


def test_rows_of_the_queue_count_like_other_keys_of_the_batch():
    queries, keys, queue = batch(4, 9)
    loss = info_nce_loss(queries, keys, queue, 0.1)
    joined = info_nce_loss(queries, torch.cat([keys, queue]), torch.empty(0, 5), 0.1)
    assert loss.item() == pytest.approx(joined.item(), rel=1e-6)


def test_each_negative_more_raises_the_loss():
    queries, keys, queue = batch(4, 9)
    losses = [info_nce_loss(queries, keys, queue[:n], 0.5).item() for n in range(10)]
    assert all(fewer < more for fewer, more in pairwise(losses))


def test_a_small_temperature_does_not_overflow():
    query = torch.tensor([[1.0, 0.0]], requires_grad=True)
    loss = info_nce_loss(query, torch.tensor([[-1.0, 0.0]]), torch.tensor([[1.0, 0.0]]), 1e-3)
    loss.backward()
    assert loss.item() == pytest.approx(2000.0, rel=1e-6)
    assert query.grad.isfinite().all()


# Without the negatives of the batch


def test_other_keys_have_minus_infinity_without_in_batch_negatives():
    queries, keys, queue = batch(2, 3, keys=4)
    labels = torch.arange(2) + 2
    with_others = contrastive_logits(queries, keys, queue, 0.1, labels)
    without = contrastive_logits(queries, keys, queue, 0.1, labels, in_batch_negatives=False)
    kept = torch.tensor([[False, False, True, False] + [True] * 3, [False, False, False, True] + [True] * 3])
    assert torch.equal(without[kept], with_others[kept])
    assert (without[~kept] == -math.inf).all()


@pytest.mark.parametrize("offset", [0, 4])
def test_loss_without_the_batch_is_that_of_own_key_and_queue_alone(offset):
    queries, keys, queue = batch(4, 9, keys=8)
    labels = torch.arange(4) + offset
    alone = [info_nce_loss(queries[[i]], keys[[i + offset]], queue, 0.1).item() for i in range(4)]
    expected, _ = slow_loss_and_gradient(queries, keys, queue, 0.1, labels, in_batch_negatives=False)
    loss = masked_loss(queries, keys, queue, 0.1, labels).item()
    assert loss == pytest.approx(sum(alone) / 4, rel=2e-6)
    assert loss == pytest.approx(expected, rel=2e-6)


def test_no_labels_mask_all_but_the_diagonal():
    queries, keys, queue = batch(4, 9)
    logits = contrastive_logits(queries, keys, queue, 0.1, in_batch_negatives=False)
    assert torch.equal(logits[:, :4].isfinite(), torch.eye(4, dtype=torch.bool))
    assert logits[:, 4:].isfinite().all()


@pytest.mark.parametrize("offset", [0, 4])
def test_gradient_without_the_batch_is_the_slow_loops_and_never_nan(offset):
    queries, keys, queue = (tensor.requires_grad_() for tensor in batch(4, 9, keys=8))
    labels = torch.arange(4) + offset
    masked_loss(queries, keys, queue, 0.1, labels).backward()
    _, expected = slow_loss_and_gradient(queries, keys, queue, 0.1, labels, in_batch_negatives=False)
    torch.testing.assert_close(queries.grad.double(), expected, rtol=1e-5, atol=1e-5)
    assert keys.grad.isfinite().all()
    assert queue.grad.isfinite().all()
    others = [j for j in range(8) if j not in labels.tolist()]
    assert (keys.grad[others] == 0).all()


# Negatives weighted and taken out

WEIGHTS = {
    "all as they are": [1.0] * 9,
    "some taken out": [1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 0.0],
    "weighted": [0.5, 2.0, 1.0, 0.0, 0.1, 3.0, 1.0, 7.5, 0.25],
    "whole chunks taken out": [0.0] * 6 + [1.0, 0.5, 1.0],
    "all taken out": [0.0] * 9,
}


def log(weights: list[float]) -> torch.Tensor:
    return torch.tensor(weights).log()


def chunked_loss(queries, keys, queue, temperature, labels, in_batch_negatives, log_weights):
    return chunked_info_nce_loss(queries, keys, queue, temperature, labels, in_batch_negatives, 3, log_weights)[0]


def plain_loss(queries, keys, queue, temperature, labels, in_batch_negatives, log_weights):
    return F.cross_entropy(
        contrastive_logits(queries, keys, queue, temperature, labels, in_batch_negatives, log_weights), labels
    )


@pytest.mark.parametrize("in_batch_negatives", [True, False])
@pytest.mark.parametrize("loss_of", [plain_loss, chunked_loss])
@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("weights", WEIGHTS.values(), ids=WEIGHTS.keys())
def test_a_bias_of_log_w_counts_a_negative_w_times(weights, temperature, loss_of, in_batch_negatives):
    queries, keys, queue = batch(4, 9, keys=8)
    labels = torch.arange(4) + 3
    loss, gradient = slow_loss_and_gradient(queries, keys, queue, temperature, labels, in_batch_negatives, weights)
    queries.requires_grad_()
    found = loss_of(queries, keys, queue, temperature, labels, in_batch_negatives, log(weights))
    found.backward()
    assert found.item() == pytest.approx(loss, rel=2e-6, abs=2e-6)
    torch.testing.assert_close(queries.grad.double(), gradient, rtol=1e-5, atol=1e-5)


def test_a_negative_taken_out_has_minus_infinity_and_the_others_are_as_without_a_bias():
    queries, keys, queue = batch(2, 4)
    plain = contrastive_logits(queries, keys, queue, 0.1)
    biased = contrastive_logits(queries, keys, queue, 0.1, log_weights=torch.tensor([0.0, -math.inf, 0.0, 1.5]))
    assert torch.equal(biased[:, [0, 1, 2, 4]], plain[:, [0, 1, 2, 4]])
    assert (biased[:, 3] == -math.inf).all()
    torch.testing.assert_close(biased[:, 5], plain[:, 5] + 1.5)


def test_the_loss_with_all_negatives_taken_out_is_that_of_the_batch_alone():
    queries, keys, queue = batch(4, 9)
    alone = info_nce_loss(queries, keys, queue[:0], 0.05)
    assert torch.equal(info_nce_loss(queries, keys, queue, 0.05, log_weights=torch.full((9,), -math.inf)), alone)


@pytest.mark.parametrize("negatives", [0, 9])
def test_a_bias_of_zeros_changes_no_bit(negatives):
    queries, keys, queue = batch(4, negatives)
    plain = contrastive_logits(queries, keys, queue, 0.05)
    assert torch.equal(contrastive_logits(queries, keys, queue, 0.05, log_weights=torch.zeros(negatives)), plain)


def test_negatives_taken_out_get_no_gradient():
    queries, keys, queue = (tensor.requires_grad_() for tensor in batch(4, 9))
    info_nce_loss(queries, keys, queue, 0.1, log_weights=log(WEIGHTS["some taken out"])).backward()
    assert queue.grad.abs().sum(1).gt(0).tolist() == [weight > 0 for weight in WEIGHTS["some taken out"]]


def test_nothing_but_chunks_that_are_taken_out_is_passed_over_on_a_cpu():
    """Empty chunks are skipped, so a large queue costs only its filled part."""
    queries, keys, queue = unit_rows(4, 16), unit_rows(4, 16), unit_rows(100, 16)
    log_weights = torch.full((100,), -math.inf)
    log_weights[41] = 0.0
    with CountProducts() as counted:
        loss, _ = chunked_info_nce_loss(queries, keys, queue, 0.1, chunk_size=10, log_weights=log_weights)
    assert counted.rows == [10]
    assert loss.item() == pytest.approx(info_nce_loss(queries, keys, queue[41:42], 0.1).item(), rel=1e-6)


# Candidates of the query's own sentence

IDS = SentenceIds(
    queries=torch.tensor([7, 2, -1, 7]),
    keys=torch.tensor([2, 7, -1, 7, 2, -1, 7, 5]),  # those of the queries stand at columns 3 to 6
    negatives=torch.tensor([7, -1, 2, 3, 7, 7, -1, 2, 9]),
)


def slow_masked_loss_and_gradient(queries, keys, negatives, temperature, offset, ids, in_batch_negatives=True):
    """Delete the candidates of each query's own sentence, and loop over the others."""
    losses, gradients = [], []
    for i, own_id in enumerate(ids.queries.tolist()):
        known = own_id != -1
        of_others = [j for j, number in enumerate(ids.keys.tolist()) if j != i + offset and in_batch_negatives]
        others = [j for j in of_others if not (known and ids.keys[j] == own_id)]
        rows = [row for row, number in enumerate(ids.negatives.tolist()) if not (known and number == own_id)]
        left = (queries[[i]], keys[[i + offset, *others]], negatives[rows])
        loss, gradient = slow_loss_and_gradient(*left, temperature)
        losses.append(loss)
        gradients.append(gradient)
    return sum(losses) / len(losses), torch.cat(gradients) / len(losses)


@pytest.mark.parametrize("in_batch_negatives", [True, False])
@pytest.mark.parametrize("chunk_size", [None, 1, 4, 100])
@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_candidates_of_the_own_sentence_are_as_if_deleted(temperature, chunk_size, in_batch_negatives):
    queries, keys, queue = batch(4, 9, keys=8)
    labels, ids = torch.arange(4) + 3, IDS._replace(queries=IDS.keys[3:7])
    loss, gradient = slow_masked_loss_and_gradient(queries, keys, queue, temperature, 3, ids, in_batch_negatives)
    queries.requires_grad_()
    arguments = (queries, keys, queue, temperature, labels, in_batch_negatives)
    logits = contrastive_logits(*arguments, sentence_ids=ids)
    if chunk_size is None:
        found, nearest = F.cross_entropy(logits, labels), logits.argmax(-1) == labels
    else:
        found, nearest = chunked_info_nce_loss(*arguments, chunk_size, sentence_ids=ids)
    found.backward()
    assert found.item() == pytest.approx(loss, rel=2e-6, abs=2e-6)
    torch.testing.assert_close(queries.grad.double(), gradient, rtol=1e-5, atol=1e-5)
    assert torch.equal(nearest, logits.argmax(-1) == labels)


def test_ids_take_nothing_out_but_other_candidates_that_have_them():
    queries, keys, queue = batch(4, 9)
    ids = IDS._replace(keys=IDS.queries)
    plain, masked = (contrastive_logits(queries, keys, queue, 0.1, sentence_ids=given) for given in (None, ids))
    out = [(0, 3), (3, 0)] + [(i, 4 + n) for i in (0, 3) for n in (0, 4, 5)] + [(1, 4 + n) for n in (2, 7)]
    expected = torch.zeros(4, 13, dtype=torch.bool)
    for place in out:
        expected[place] = True
    assert torch.equal(masked == -math.inf, expected)
    assert torch.equal(masked[~expected], plain[~expected])


def test_unknown_ids_match_nothing_and_change_no_bit():
    queries, keys, queue = batch(4, 9)
    unknown = SentenceIds(*(torch.full((n,), -1) for n in (4, 4, 9)))
    plain = contrastive_logits(queries, keys, queue, 0.1)
    assert torch.equal(contrastive_logits(queries, keys, queue, 0.1, sentence_ids=unknown), plain)
    assert torch.equal(
        info_nce_loss(queries, keys, queue, 0.1, sentence_ids=unknown), info_nce_loss(queries, keys, queue, 0.1)
    )
    losses = [
        chunked_info_nce_loss(queries, keys, queue, 0.1, chunk_size=4, sentence_ids=g)[0] for g in (None, unknown)
    ]
    assert torch.equal(*losses)


def test_the_loss_takes_ids_and_labels_together():
    queries, keys, queue = batch(4, 9, keys=8)
    ids, labels = IDS._replace(queries=IDS.keys[3:7]), torch.arange(4) + 3
    expected, _ = slow_masked_loss_and_gradient(queries, keys, queue, 0.2, 3, ids)
    loss = info_nce_loss(queries, keys, queue, 0.2, labels, sentence_ids=ids)
    assert loss.item() == pytest.approx(expected, rel=2e-6)


def test_a_batch_and_a_queue_of_one_sentence_leave_the_own_keys_alone():
    queries, keys, queue = batch(4, 9)
    one = SentenceIds(*(torch.full((n,), 8) for n in (4, 4, 9)))
    queries.requires_grad_()
    for loss in (
        info_nce_loss(queries, keys, queue, 0.05, sentence_ids=one),
        chunked_info_nce_loss(queries, keys, queue, 0.05, chunk_size=4, sentence_ids=one)[0],
    ):
        loss.backward()
        assert loss.item() == 0.0
        assert queries.grad.abs().max() < 1e-5


# Without a look at a number


def test_no_loss_waits_for_a_gpu(monkeypatch):
    monkeypatch.setattr(torch, "autocast", lambda **options: nullcontext())  # which there is none of on `meta`
    queries, keys, queue, log_weights = (
        t.to("meta") for t in (*batch(4, 9, keys=8), torch.zeros(9))
    )  # without numbers
    queries.requires_grad_()
    labels = torch.arange(4, device="meta")
    with Operations() as used:
        for in_batch_negatives in (True, False):
            logits = contrastive_logits(queries, keys, queue, 0.1, labels, in_batch_negatives, log_weights)
            F.cross_entropy(logits, labels).backward()
            loss, _ = chunked_info_nce_loss(queries, keys, queue, 0.1, labels, in_batch_negatives, 4, log_weights)
            loss.backward()
        ids = SentenceIds(*(part.to("meta") for part in IDS))
        contrastive_logits(queries, keys, queue, 0.1, labels, log_weights=log_weights, sentence_ids=ids)
        chunked_info_nce_loss(
            queries, keys, queue, 0.1, labels, chunk_size=4, log_weights=log_weights, sentence_ids=ids
        )
    assert "addmm" in used.names
    assert used.names & WAITING == set()


# Precision


@pytest.mark.parametrize("in_batch_negatives", [True, False])
def test_bfloat16_embeddings_are_contrasted_in_float32(in_batch_negatives):
    halved = [tensor.bfloat16() for tensor in batch(4, 9)]
    logits = contrastive_logits(*halved, 0.05, in_batch_negatives=in_batch_negatives)
    exact = contrastive_logits(*(t.float() for t in halved), 0.05, in_batch_negatives=in_batch_negatives)
    assert logits.dtype == torch.float32
    assert torch.equal(logits, exact)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_loss_is_float32_whatever_the_embeddings_are(dtype):
    loss = info_nce_loss(*(tensor.to(dtype) for tensor in batch(4, 9)), 0.05)
    assert loss.dtype == torch.float32
    assert loss.shape == ()


def test_autocast_changes_no_bit():
    queries, keys, queue = batch(4, 9)
    expected = info_nce_loss(queries, keys, queue, 0.05)
    logits = contrastive_logits(queries, keys, queue, 0.05)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(contrastive_logits(queries, keys, queue, 0.05), logits)
        loss = info_nce_loss(queries, keys, queue, 0.05)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, expected)


def test_gradient_under_autocast_is_that_without():
    gradients = []
    for enabled in (False, True):
        queries, keys, queue = batch(4, 9)
        queries.requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            loss = info_nce_loss(queries, keys, queue, 0.05)
        loss.backward()
        gradients.append(queries.grad)
    assert torch.equal(*gradients)


def test_embeddings_are_left_as_they_were():
    tensors = batch(4, 9)
    before = [t.clone() for t in tensors]
    contrastive_logits(*tensors, 0.05, in_batch_negatives=False)
    assert all(torch.equal(t, b) for t, b in zip(tensors, before, strict=True))


# Chunk by chunk


class CountProducts(TorchDispatchMode):
    """Note how many rows of the queue each matrix product with a bias takes."""

    def __init__(self):
        super().__init__()
        self.rows = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.addmm.default and args[0].ndim == 1:
            self.rows.append(args[0].numel())
        return func(*args, **(kwargs or {}))


class LargestResult(TorchDispatchMode):
    """Note the size of the largest tensor that any operation gives, views aside."""

    def __init__(self, given: int):
        super().__init__()
        self.given, self.numel = given, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.numel() < self.given:
            self.numel = max(self.numel, result.numel())
        return result


@pytest.mark.parametrize("in_batch_negatives", [True, False])
@pytest.mark.parametrize("chunk_size", [1, 3, 9, 100])
@pytest.mark.parametrize("negatives", [0, 1, 9, 20])
@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_chunks_give_the_loss_and_gradient_of_a_slow_loop(temperature, negatives, chunk_size, in_batch_negatives):
    queries, keys, queue = batch(4, negatives, keys=8)
    labels = torch.arange(4) + 3  # as on a second process
    loss, gradient = slow_loss_and_gradient(queries, keys, queue, temperature, labels, in_batch_negatives)
    queries.requires_grad_()
    found, nearest = chunked_info_nce_loss(queries, keys, queue, temperature, labels, in_batch_negatives, chunk_size)
    (3 * found).backward()
    assert found.item() == pytest.approx(loss, rel=1e-6, abs=1e-6)
    assert (queries.grad.double() / 3 - gradient).abs().max() < 1e-5
    logits = contrastive_logits(queries, keys, queue, temperature, labels, in_batch_negatives)
    assert torch.equal(nearest, logits.argmax(-1) == labels)


def test_chunks_agree_with_float64_at_the_temperature_of_the_paper_on_a_large_queue():
    """Where the loss is small, nearer than the plain loss in float32 does."""
    queries, keys, queue = unit_rows(32, 64, seed=1), unit_rows(32, 64, seed=1), unit_rows(20_000, 64, seed=3)
    exact = queries.double().requires_grad_()
    logits = exact @ torch.cat([keys, queue]).double().T / 0.05
    expected = F.cross_entropy(logits, torch.arange(32))
    expected.backward()
    queries.requires_grad_()
    loss, nearest = chunked_info_nce_loss(queries, keys, queue, 0.05, chunk_size=999)
    loss.backward()
    assert nearest.all()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-6)
    assert (queries.grad.double() - exact.grad).abs().max() < 1e-6
    assert abs(loss.item() - expected.item()) < abs(info_nce_loss(queries, keys, queue, 0.05).item() - expected.item())


def test_a_queue_in_bfloat16_is_read_chunk_by_chunk():
    queries, keys, queue = batch(4, 20)
    rounded = queue.bfloat16()
    found, _ = chunked_info_nce_loss(queries, keys, rounded, 0.1, chunk_size=6)
    assert found.item() == pytest.approx(info_nce_loss(queries, keys, rounded.float(), 0.1).item(), abs=1e-6)


@pytest.mark.parametrize("loss_of", [plain_loss, chunked_loss])
@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("in_batch_negatives", [True, False])
def test_the_gradient_of_a_queue_in_bfloat16_is_that_of_a_slow_loop_over_the_rounded_rows(
    loss_of, temperature, in_batch_negatives
):
    queries, keys, queue = batch(4, 9, keys=8)
    labels, rounded = torch.arange(4) + 3, queue.bfloat16()
    loss, gradient = slow_loss_and_gradient(queries, keys, rounded, temperature, labels, in_batch_negatives)
    unrounded, _ = slow_loss_and_gradient(queries, keys, queue, temperature, labels, in_batch_negatives)
    queries.requires_grad_()
    found = loss_of(queries, keys, rounded, temperature, labels, in_batch_negatives, torch.zeros(9))
    found.backward()
    assert found.item() == pytest.approx(loss, rel=1e-6, abs=1e-6)
    assert abs(loss - unrounded) > 1e-5  # which rounding anywhere else, or nowhere, would show
    torch.testing.assert_close(queries.grad.double(), gradient, rtol=1e-5, atol=1e-5)


def test_chunks_hold_no_logits_of_the_whole_queue():
    queries, keys, queue = unit_rows(8, 16), unit_rows(8, 16), unit_rows(10_000, 16)
    queries.requires_grad_()
    ids = SentenceIds(torch.arange(8), torch.arange(8), torch.arange(10_000) % 50)
    with LargestResult(given=queue.numel()) as chunked:
        chunked_info_nce_loss(queries, keys, queue, 0.1, chunk_size=100)[0].backward()
        chunked_info_nce_loss(queries, keys, queue, 0.1, chunk_size=100, sentence_ids=ids)[0].backward()
    with LargestResult(given=queue.numel()) as plain:
        info_nce_loss(queries, keys, queue, 0.1).backward()
    assert chunked.numel <= 100 * 16
    assert plain.numel >= 8 * 10_000
