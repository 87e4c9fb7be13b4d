import io
import math

import pytest
import torch
from builders import WAITING, Operations
from list_queue import ListQueue

from mocose_hf import NegativeQueue, info_nce_loss
from mocose_hf.models.losses import contrastive_logits

DIM = 3
SIZES = [
    # K, B, initial rows
    (7, 3, 0),
    (7, 3, 2),
    (7, 3, 7),
    (5, 12, 0),
    (5, 12, 1),
    (4, 4, 0),
    (4, 4, 4),
    (6, 4, 3),
    (8, 1, 5),
    (1, 1, 0),
    (1, 3, 1),
    (0, 2, 0),
]


def random_keys(rows: int, seed: int) -> torch.Tensor:
    return torch.randn(rows, DIM, generator=torch.Generator().manual_seed(seed))


def numbered_keys(first: int, last: int) -> torch.Tensor:
    return torch.arange(first, last + 1).float()[:, None].expand(-1, DIM)


def numbers(queue: NegativeQueue) -> list[int]:
    return queue.stored_keys()[:, 0].int().tolist()


def state(queue: NegativeQueue) -> dict[str, list]:
    return {name: value.tolist() for name, value in queue.state_dict().items()}


# Filling and dropping


@pytest.mark.parametrize(("size", "rows", "init_size"), SIZES)
def test_queue_is_a_list_that_drops_its_front(size, rows, init_size):
    queue = NegativeQueue(size, DIM, init_size)
    model = ListQueue(size, queue.rows[:init_size].tolist())
    for step in range(0, 10):
        if step > 0:
            keys = random_keys(rows, seed=step)
            ids = [100 * step + i for i in range(rows)]
            queue.enqueue(keys, torch.tensor(ids), step)
            model.enqueue(keys.tolist(), ids, step)
        expected = model.newest_first()
        assert queue.stored_keys().shape == (len(expected), DIM)
        assert queue.stored_keys().tolist() == [row for row, _, _ in expected]
        assert queue.sentence_ids().tolist() == [number for _, _, number in expected]
        assert queue.ages(step + 2).tolist() == [step + 2 - made for _, made, _ in expected]
        assert int(queue.num_filled) == len(expected)


def test_queue_is_a_list_under_batches_of_changing_size():
    queue = NegativeQueue(6, DIM, 2)
    model = ListQueue(6, queue.rows[:2].tolist())
    for step, rows in enumerate([1, 3, 0, 6, 2, 15, 5, 7, 1, 1], start=1):
        keys = random_keys(rows, seed=step)
        ids = list(range(10 * step, 10 * step + rows))
        queue.enqueue(keys, torch.tensor(ids, dtype=torch.int64), step)
        model.enqueue(keys.tolist(), ids, step)
        assert queue.stored_keys().tolist() == [row for row, _, _ in model.newest_first()]
        assert queue.sentence_ids().tolist() == [number for _, _, number in model.newest_first()]
        assert queue.ages(step).tolist() == [step - made for _, made, _ in model.newest_first()]


def test_queue_drops_oldest_keys_first():
    queue = NegativeQueue(4, DIM)
    queue.enqueue(numbered_keys(1, 3))
    assert numbers(queue) == [3, 2, 1]
    queue.enqueue(numbered_keys(4, 6))
    assert numbers(queue) == [6, 5, 4, 3]


def test_of_more_keys_than_fit_the_last_stay():
    queue = NegativeQueue(3, DIM, 3)
    queue.enqueue(numbered_keys(1, 8), torch.arange(1, 9), step=1)
    assert numbers(queue) == [8, 7, 6]
    assert queue.sentence_ids().tolist() == [8, 7, 6]


def test_random_rows_are_dropped_before_any_key():
    queue = NegativeQueue(4, DIM, 2)
    random_rows = queue.rows[:2].tolist()
    queue.enqueue(numbered_keys(1, 2))
    assert queue.stored_keys()[2:].tolist() == random_rows[::-1]
    queue.enqueue(numbered_keys(3, 3))
    assert queue.stored_keys()[3:].tolist() == random_rows[1:]
    queue.enqueue(numbered_keys(4, 4))
    assert numbers(queue) == [4, 3, 2, 1]


@pytest.mark.parametrize(("size", "rows", "init_size"), SIZES)
def test_queue_grows_with_each_batch_until_it_is_full(size, rows, init_size):
    queue = NegativeQueue(size, DIM, init_size)
    for step in range(1, 12):
        queue.enqueue(random_keys(rows, seed=step), step=step)
        assert len(queue.stored_keys()) == min(size, init_size + step * rows)


def test_slots_never_filled_are_no_negatives():
    queue = NegativeQueue(5, DIM)
    assert queue.stored_keys().shape == (0, DIM)
    queue.enqueue(numbered_keys(1, 2), step=1)
    assert queue.rows[2:].eq(0).all()
    assert queue.enqueued_at.tolist() == [1, 1, -1, -1, -1]
    assert len(queue.stored_keys()) == len(queue.ages(1)) == len(queue.sentence_ids()) == 2


@pytest.mark.parametrize(("size", "init_size"), [(7, 0), (7, 2), (7, 7), (1, 0), (1, 1)])
def test_pointer_is_the_slot_written_next(size, init_size):
    queue = NegativeQueue(size, DIM, init_size)
    assert int(queue.pointer) == init_size % size
    for step in range(1, 10):
        slot = int(queue.pointer)
        queue.enqueue(random_keys(1, seed=step), step=step)
        assert int(queue.enqueued_at[slot]) == step
        assert int(queue.pointer) == (slot + 1) % size


def test_queue_of_size_zero_stays_empty():
    queue = NegativeQueue(0, DIM)
    queue.enqueue(numbered_keys(1, 3), torch.arange(3), step=1)
    assert queue.stored_keys().shape == (0, DIM)
    assert queue.sentence_ids().shape == queue.ages(3).shape == (0,)


def test_an_empty_batch_changes_nothing():
    queue = NegativeQueue(4, DIM, 2)
    before = state(queue)
    queue.enqueue(torch.empty(0, DIM), torch.empty(0, dtype=torch.int64), step=3)
    assert state(queue) == before


def test_loss_over_equal_embeddings_and_a_full_queue_is_log_of_all_candidates():
    row = torch.nn.functional.normalize(torch.ones(1, DIM), dim=-1)
    queue = NegativeQueue(7, DIM, 4)
    for step in (1, 2):
        queue.enqueue(row.expand(4, -1), step=step)
    loss = info_nce_loss(row.expand(4, -1), row.expand(4, -1), queue.stored_keys(), 0.05)
    assert loss.item() == pytest.approx(torch.log(torch.tensor(4.0 + 7.0)).item(), abs=1e-5)


# Ids and ages


def test_keys_without_ids_have_id_minus_one():
    queue = NegativeQueue(3, DIM)
    queue.enqueue(numbered_keys(1, 3), torch.tensor([7, 8, 9]), step=1)
    queue.enqueue(numbered_keys(4, 5), step=2)
    assert queue.sentence_ids().tolist() == [-1, -1, 9]


def test_random_rows_have_no_id_and_are_as_old_as_the_training():
    queue = NegativeQueue(5, DIM, 2)
    queue.enqueue(numbered_keys(1, 1), torch.tensor([6]), step=4)
    assert queue.sentence_ids().tolist() == [6, -1, -1]
    assert queue.ages(4).tolist() == [0, 4, 4]


def test_ids_and_ages_are_whole_numbers_of_64_bits():
    queue = NegativeQueue(2, DIM)
    large = 2**40 + 1
    queue.enqueue(numbered_keys(1, 1), torch.tensor([large]), step=large)
    assert queue.sentence_ids().tolist() == [large]
    assert queue.ages(large + 3).tolist() == [3]
    queue.enqueue(numbered_keys(1, 1), torch.tensor([5], dtype=torch.int32), step=1)
    assert queue.sentence_ids().dtype == torch.int64


# The random part


@pytest.mark.parametrize(("size", "init_size"), [(8, 5), (8, 8), (1, 1)])
def test_random_rows_have_unit_length_and_the_rest_is_zero(size, init_size):
    queue = NegativeQueue(size, DIM, init_size)
    assert queue.stored_keys().norm(dim=-1).tolist() == pytest.approx([1.0] * init_size, abs=1e-6)
    assert queue.rows[init_size:].eq(0).all()
    assert queue.rows.dtype == torch.float32
    assert len(torch.unique(queue.stored_keys(), dim=0)) == init_size


def test_random_rows_come_from_the_global_generator():
    torch.manual_seed(3)
    first = NegativeQueue(8, DIM, 5)
    torch.manual_seed(3)
    again = NegativeQueue(8, DIM, 5)
    other = NegativeQueue(8, DIM, 5)
    assert torch.equal(first.rows, again.rows)
    assert not torch.equal(first.rows, other.rows)


def test_random_rows_point_everywhere():
    torch.manual_seed(0)
    mean = NegativeQueue(4000, DIM, 4000).rows.mean(0)
    assert mean.abs().max() < 0.05


# Copies, graphs and storage


def test_negatives_are_a_copy():
    queue = NegativeQueue(4, DIM, 4)
    negatives = queue.stored_keys()
    kept = negatives.clone()
    queue.enqueue(numbered_keys(1, 4))
    assert torch.equal(negatives, kept)
    negatives.zero_()
    assert numbers(queue) == [4, 3, 2, 1]


def test_ids_and_ages_are_copies():
    queue = NegativeQueue(4, DIM, 4)
    before = state(queue)
    queue.sentence_ids().fill_(9)
    queue.ages(0).fill_(9)
    assert state(queue) == before


def test_queue_keeps_its_own_copy_of_the_keys():
    queue = NegativeQueue(4, DIM)
    keys = numbered_keys(1, 4).clone()
    queue.enqueue(keys)
    keys.zero_()
    assert numbers(queue) == [4, 3, 2, 1]


def test_enqueue_never_builds_a_graph():
    queue = NegativeQueue(4, DIM)
    keys = (random_keys(2, seed=0).requires_grad_() * 2).clone()
    queue.enqueue(keys)
    assert keys.requires_grad
    assert not queue.rows.requires_grad
    assert queue.rows.grad_fn is None
    assert not queue.stored_keys().requires_grad


def test_enqueue_between_forward_and_backward_does_not_disturb_the_gradient():
    gradients = []
    for enqueue in (False, True):
        torch.manual_seed(0)
        queue = NegativeQueue(4, DIM, 4)
        queries = random_keys(2, seed=1).requires_grad_()
        loss = info_nce_loss(queries, random_keys(2, seed=2), queue.stored_keys(), 0.5)
        if enqueue:
            queue.enqueue(random_keys(4, seed=3))
        loss.backward()
        gradients.append(queries.grad)
    assert torch.equal(*gradients)


def test_enqueue_writes_in_place():
    queue = NegativeQueue(4, DIM, 2)
    buffers = {name: buffer for name, buffer in queue.named_buffers()}
    queue.enqueue(numbered_keys(1, 3), torch.arange(3), step=1)
    assert all(getattr(queue, name) is buffer for name, buffer in buffers.items())


def test_bfloat16_keys_are_held_in_float32():
    queue = NegativeQueue(4, DIM)
    keys = random_keys(2, seed=0).bfloat16()
    queue.enqueue(keys)
    assert queue.stored_keys().dtype == torch.float32
    assert torch.equal(queue.stored_keys(), keys.float().flip(0))


def test_a_queue_in_bfloat16_holds_its_rows_rounded_in_half_the_memory():
    torch.manual_seed(0)
    whole = NegativeQueue(4, DIM, 2)
    torch.manual_seed(0)
    half = NegativeQueue(4, DIM, 2, torch.bfloat16)
    assert torch.equal(half.rows, whole.rows.bfloat16())
    for step in range(1, 4):
        keys = random_keys(3, seed=step)
        for queue in (whole, half):
            queue.enqueue(keys, torch.arange(3), step)
        assert half.stored_keys().dtype == torch.bfloat16
        assert torch.equal(half.stored_keys(), whole.stored_keys().bfloat16())
        assert half.log_weights().dtype == torch.float32
    assert 2 * half.rows.nbytes == whole.rows.nbytes


def test_rounding_to_bfloat16_changes_cosines_by_no_more_than_documented():
    def unit(rows, seed):
        generator = torch.Generator().manual_seed(seed)
        return torch.nn.functional.normalize(torch.randn(rows, 256, generator=generator), dim=-1)

    keys, queries = unit(2000, seed=1), unit(500, seed=2)
    queue = NegativeQueue(2000, 256, dtype=torch.bfloat16)
    queue.enqueue(keys)
    change = queue.rows.double() - keys.double()
    assert change.norm(dim=-1).max() <= 2**-8  # with the worst of all unit vectors
    assert 0.5e-4 < (queries.double() @ change.T).square().mean().sqrt() < 1.5e-4
    assert (queries.double() @ change.T).abs().max() < 6e-4


def test_queue_is_all_buffers_and_no_parameters():
    queue = NegativeQueue(4, DIM, 2)
    assert list(queue.parameters()) == []
    assert set(queue.state_dict()) == {"rows", "enqueued_at", "row_ids", "ids_text", "pointer", "num_filled"}


# Saving and loading


@pytest.mark.parametrize("steps", [0, 1, 2, 5])
@pytest.mark.parametrize(("size", "rows", "init_size"), [(7, 3, 2), (5, 12, 1), (4, 4, 4), (1, 1, 0), (0, 2, 0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_saved_queue_is_restored_and_continues_the_same(dtype, size, rows, init_size, steps):
    queue = NegativeQueue(size, DIM, init_size, dtype)
    for step in range(1, steps + 1):
        queue.enqueue(random_keys(rows, seed=step), torch.arange(rows) + 10 * step, step)
    file = io.BytesIO()
    torch.save(queue.state_dict(), file)
    file.seek(0)
    restored = NegativeQueue(size, DIM, init_size, dtype)
    restored.load_state_dict(torch.load(file))
    for step in range(steps + 1, steps + 4):
        assert state(restored) == state(queue)
        assert torch.equal(restored.stored_keys(), queue.stored_keys())
        assert torch.equal(restored.sentence_ids(), queue.sentence_ids())
        assert torch.equal(restored.ages(step), queue.ages(step))
        for each in (queue, restored):
            each.enqueue(random_keys(rows, seed=step), torch.arange(rows) + 10 * step, step)


def test_initial_state_names_every_buffer():
    queue = NegativeQueue(4, DIM, 2)
    fresh = queue.initial_state()
    assert {name: (v.shape, v.dtype) for name, v in fresh.items()} == {
        name: (v.shape, v.dtype) for name, v in queue.state_dict().items()
    }


# What is refused


@pytest.mark.parametrize("arguments", [(-1, 3), (4, 0), (4, -1), (4, 3, 5), (4, 3, -1), (0, 3, 1)])
def test_queue_rejects_bad_sizes(arguments):
    with pytest.raises(ValueError, match="`size`"):
        NegativeQueue(*arguments)


@pytest.mark.parametrize("shape", [(DIM,), (2, DIM + 1), (2, DIM - 1), (1, 2, DIM), (), (0,)])
@pytest.mark.parametrize("size", [0, 4])
def test_enqueue_rejects_keys_of_another_shape_and_changes_nothing(size, shape):
    queue = NegativeQueue(size, DIM)
    before = state(queue)
    with pytest.raises(ValueError, match=rf"\(B, {DIM}\)"):
        queue.enqueue(torch.ones(shape))
    assert state(queue) == before


@pytest.mark.parametrize("shape", [(1,), (3,), (2, 1), (), (0,)])
@pytest.mark.parametrize("size", [0, 4])
def test_enqueue_rejects_ids_that_are_not_one_a_key_and_changes_nothing(size, shape):
    queue = NegativeQueue(size, DIM)
    before = state(queue)
    with pytest.raises(ValueError, match="2 sentence ids"):
        queue.enqueue(torch.ones(2, DIM), torch.ones(shape, dtype=torch.int64))
    assert state(queue) == before


# All slots as they lie, with a log_weights


@pytest.mark.parametrize(("size", "rows", "init_size"), SIZES)
def test_log_weights_are_zero_for_filled_slots_and_minus_infinity_for_others(size, rows, init_size):
    queue = NegativeQueue(size, DIM, init_size)
    for step in range(1, 6):
        assert queue.log_weights().shape == (size,)
        assert queue.log_weights().dtype == torch.float32
        in_use = queue.newest_first().tolist()
        assert queue.log_weights().tolist() == [0.0 if slot in in_use else -math.inf for slot in range(size)]
        queue.enqueue(random_keys(rows, seed=step), step=step)


@pytest.mark.parametrize(("size", "rows", "init_size"), SIZES)
def test_ranks_and_ages_of_slots_are_those_of_a_list(size, rows, init_size):
    queue = NegativeQueue(size, DIM, init_size)
    model = ListQueue(size, queue.rows[:init_size].tolist())
    for step in range(1, 8):
        queue.enqueue(random_keys(rows, seed=step), step=5 * step)
        model.enqueue(random_keys(rows, seed=step).tolist(), [-1] * rows, 5 * step)
        entries = model.newest_first()
        ranks, ages = queue.ranks().tolist(), queue.slot_ages().tolist()
        assert sorted(ranks) == list(range(size))
        for slot, row in enumerate(queue.rows.tolist()):
            if ranks[slot] < len(entries):
                assert (row, ages[slot]) == (entries[ranks[slot]][0], entries[0][1] - entries[ranks[slot]][1])
            else:
                assert queue.log_weights()[slot] == -math.inf


@pytest.mark.parametrize(("size", "rows", "init_size"), SIZES)
def test_loss_of_all_slots_with_the_bias_is_that_of_the_negatives(size, rows, init_size):
    queue = NegativeQueue(size, DIM, init_size)
    queries, keys = (torch.nn.functional.normalize(random_keys(4, seed), dim=-1) for seed in (100, 101))
    for step in range(1, 6):
        expected = info_nce_loss(queries, keys, queue.stored_keys(), 0.1)
        assert info_nce_loss(queries, keys, queue.rows, 0.1, log_weights=queue.log_weights()).item() == pytest.approx(
            expected.item(), rel=1e-6
        )
        logits = contrastive_logits(queries, keys, queue.rows, 0.1, log_weights=queue.log_weights())
        assert logits.shape == (4, 4 + size)
        of_negatives = contrastive_logits(queries, keys, queue.stored_keys(), 0.1)
        torch.testing.assert_close(logits[:, 4:][:, queue.newest_first()], of_negatives[:, 4:])
        assert logits.isfinite().sum() == of_negatives.numel()
        queue.enqueue(torch.nn.functional.normalize(random_keys(rows, seed=step), dim=-1), step=step)


def test_an_empty_queue_leaves_the_loss_of_the_batch():
    queue = NegativeQueue(7, DIM)
    queries, keys = random_keys(4, seed=1), random_keys(4, seed=2)
    in_batch = info_nce_loss(queries, keys, torch.empty(0, DIM), 0.1)
    assert torch.equal(info_nce_loss(queries, keys, queue.rows, 0.1, log_weights=queue.log_weights()), in_batch)


def test_a_backward_pass_over_overwritten_rows_raises_an_error():
    queue = NegativeQueue(4, DIM, 4)
    queries = random_keys(2, seed=1).requires_grad_()
    loss = info_nce_loss(queries, random_keys(2, seed=2), queue.rows, 0.5, log_weights=queue.log_weights())
    queue.enqueue(random_keys(1, seed=3))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("size", [0, 5])
def test_no_number_is_looked_at_so_that_a_gpu_is_not_waited_for(size):
    queue = NegativeQueue(size, DIM).to("meta")  # where there are no numbers
    for ids in (None, torch.arange(3, device="meta")):
        queue.enqueue(torch.empty(3, DIM, device="meta"), ids, step=2)
    assert queue.log_weights().shape == (size,)


def test_enqueue_and_bias_use_no_operation_that_waits_for_a_gpu():
    queue = NegativeQueue(5, DIM, 2)
    keys, ids = random_keys(3, seed=1), torch.arange(3)
    with Operations() as used:
        for given in (ids, None):
            queue.enqueue(keys, given, step=2)
            queue.log_weights()
            queue.log_weights("0-0.25,0.5-0.75")
            queue.log_weights("middle", 0.1, half_life=3.0)
    assert "index_copy_" in used.names
    assert used.names & WAITING == set()
