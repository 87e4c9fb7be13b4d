"""Which queued keys count, and how much, against loops over plain lists."""

import math
import random
import sys
from fractions import Fraction
from itertools import pairwise, product

import numpy as np
import pytest
import torch
from builders import WAITING, Operations, random_batch, tiny_model
from list_queue import ListQueue
from sklearn.cluster import KMeans
from slow_losses import slow_loss_and_gradient, unit_rows
from slow_queue_weighting import (
    BATCH_IDS,
    HALF,
    QUARTER,
    RANGES,
    TEMPERATURE,
    slow_counts,
    slow_loss_of_a_policy,
    slow_weights,
)
from torch.nn import functional as F
from transformers import AutoModel

from mocose_hf import MoCoSEForPreTraining, NegativeQueue
from mocose_hf.models.queue_centroids import find_centroids
from mocose_hf.models.queue_weighting import (
    WINDOWS,
    half_life_log_weights,
    parse_window,
    window_log_weights,
)

DIM = 5
COMPLEMENTS = [
    ("newest", "oldest"),
    ("middle", "without_middle"),
    ("0-0.1", "0.1-0.3,.7-.8", "0.3-0.7", "0.8-1"),
    ("0-1/3", "1/3-2/3", "2/3-1"),
    ("0.25-0.5,0.75-1", "0-0.25,0.5-0.75"),
]


def log_weights(window: str, num_filled: int, softness: float = 0.0) -> torch.Tensor:
    return window_log_weights(torch.arange(num_filled), torch.tensor(num_filled), window, softness)


def filled_queue(size: int, init_size: int, rows: list[int], dtype=torch.float32) -> tuple[NegativeQueue, ListQueue]:
    """A queue, and the list it is, after a batch of each number of rows, three optimizer steps apart."""
    torch.manual_seed(size + len(rows))
    queue = NegativeQueue(size, DIM, init_size, dtype)
    model = ListQueue(size, queue.rows[:init_size].tolist())
    for number, count in enumerate(rows, start=1):
        keys = unit_rows(count, DIM, seed=number)
        queue.enqueue(keys, step=3 * number)
        model.enqueue(keys.to(dtype).tolist(), [-1] * count, 3 * number)
    return queue, model


FILLS = {
    "empty": (7, 0, []),
    "one row": (7, 0, [1]),
    "initial rows": (9, 4, []),
    "growing": (11, 2, [3, 4]),
    "just full": (9, 3, [3, 3]),
    "wrapped": (10, 3, [4, 4, 4]),
    "wrapped more than once": (7, 0, [5, 5, 5, 5]),
    "a batch larger than the queue": (5, 2, [12]),
}


# Windows


@pytest.mark.parametrize("window", RANGES)
def test_a_window_holds_the_ranks_between_its_shares_exactly(window):
    for fill in (*range(1, 40), 1000, 1023, 1024):
        expected = [0.0 if counts else -math.inf for counts in slow_counts(window, fill)]
        assert log_weights(window, fill).tolist() == expected, fill


def test_the_windows_of_the_paper_are_halves_and_quarters_of_its_queue():
    counted = {name: log_weights(name, 1024).isfinite().nonzero()[:, 0].tolist() for name in WINDOWS}
    assert counted["all"] == list(range(1024))
    assert counted["newest"] == list(range(512))
    assert counted["middle"] == list(range(256, 768))
    assert counted["oldest"] == list(range(512, 1024))
    assert counted["without_middle"] == [*range(256), *range(768, 1024)]


@pytest.mark.parametrize(("size", "init_size", "rows"), FILLS.values(), ids=FILLS)
@pytest.mark.parametrize("windows", COMPLEMENTS, ids=str)
def test_each_row_lies_in_exactly_one_of_windows_that_complement_each_other(windows, size, init_size, rows):
    queue, _ = filled_queue(size, init_size, rows)
    together = torch.stack([queue.log_weights(window).exp() for window in windows])
    assert set(together.flatten().tolist()) <= {0.0, 1.0}
    assert torch.equal(together.sum(0), queue.log_weights().exp())


@pytest.mark.parametrize(("size", "init_size", "rows"), FILLS.values(), ids=FILLS)
@pytest.mark.parametrize("windows", COMPLEMENTS, ids=str)
def test_soft_windows_that_complement_each_other_share_each_row(windows, size, init_size, rows):
    queue, _ = filled_queue(size, init_size, rows)
    for softness in (1e-6, 0.02, 0.1, 1.0, 50.0):
        together = torch.stack([queue.log_weights(window, softness).exp() for window in windows])
        torch.testing.assert_close(together.sum(0), queue.log_weights().exp(), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("size", "init_size", "rows"), FILLS.values(), ids=FILLS)
@pytest.mark.parametrize("window", RANGES)
def test_the_rows_in_a_window_are_those_of_a_list(window, size, init_size, rows):
    queue, model = filled_queue(size, init_size, rows)
    entries = model.newest_first()
    expected = [entry[0] for entry, counts in zip(entries, slow_counts(window, len(entries)), strict=True) if counts]
    counted = queue.newest_first()[queue.log_weights(window)[queue.newest_first()].isfinite()]
    assert queue.rows[counted].tolist() == expected
    assert queue.log_weights(window).isfinite().sum() == len(expected)  # no empty slot among them


@pytest.mark.parametrize("window", RANGES)
def test_soft_edges_are_logistics_of_the_age(window):
    for fill, softness in product((1, 2, 5, 16, 33), (0.003, 0.05, 0.4, 3.0)):
        expected = torch.tensor(slow_weights(window, fill, softness), dtype=torch.float64)
        torch.testing.assert_close(log_weights(window, fill, softness).double().exp(), expected, atol=1e-6, rtol=1e-5)


def test_a_soft_edge_worked_by_hand():
    # of four rows two are in the newest half; the first lies 1.5 rows before the edge, that is 3/8 of the queue
    weights = log_weights("newest", 4, 0.125).exp()
    expected = [1 / (1 + math.exp(-3)), 1 / (1 + math.exp(-1)), 1 / (1 + math.exp(1)), 1 / (1 + math.exp(3))]
    assert weights.tolist() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("window", RANGES)
def test_a_soft_window_goes_to_the_hard_one(window):
    for fill in (1, 2, 3, 5, 8, 33, 1024):
        hard = log_weights(window, fill).exp()
        distances = [(log_weights(window, fill, s).exp() - hard).abs().max() for s in (1e-1, 1e-2, 1e-3, 1e-4)]
        assert all(nearer <= farther + 1e-6 for farther, nearer in pairwise(distances)), fill
        for softness in (1e-6, 1e-12, 1e-40, 5e-324):
            assert torch.equal(log_weights(window, fill, softness).exp(), hard), fill


@pytest.mark.parametrize("softness", [5e-324, 1e-9, 0.1, 1e30, sys.float_info.max])
@pytest.mark.parametrize(("size", "init_size", "rows"), FILLS.values(), ids=FILLS)
def test_no_softness_makes_a_bias_that_is_not_a_number(size, init_size, rows, softness):
    queue, _ = filled_queue(size, init_size, rows)
    for window in RANGES:
        log_weights = queue.log_weights(window, softness, half_life=0.5)
        assert not log_weights.isnan().any()
        assert (log_weights <= 1e-6).all()


@pytest.mark.parametrize(
    ("window", "ranges"),
    [
        ("0-0.5,0.5-1", [(0, 1)]),
        ("0.5-1,0-0.25", [(0, QUARTER), (HALF, 1)]),
        (" 0 - .25 , 0.25-1/2 ", [(0, HALF)]),
        ("0.333333-1", [(Fraction(333333, 10**6), 1)]),
        ("0-1.0", [(0, 1)]),
    ],
)
def test_ranges_are_sorted_and_those_that_touch_are_one(window, ranges):
    assert list(parse_window(window)) == ranges


@pytest.mark.parametrize(
    "window",
    [
        "",
        "new",
        "Newest",
        "0-0.5,",
        ",",
        "0.5",
        "0.5-0.5",
        "0.6-0.5",
        "0-1.1",
        "-0.1-0.5",
        "0-2",
        "3/2-1",
        "0-0.5;0.6-1",
    ]
    + [
        "0-0.5,0.4-1",
        "0-1/0",
        "0-nan",
        "0-1e-1",
        "0-0.1234567",
        "0-1,0-1",
        "٠-١",
        "newest,oldest",
        "0-.",
        "0" * 10**5,
    ],
)
def test_an_invalid_window_raises_a_one_line_error(window):
    with pytest.raises(ValueError, match="`queue_window` is one of all, newest") as refusal:
        parse_window(window)
    assert len(str(refusal.value)) < 300


# Half-life


@pytest.mark.parametrize(("size", "init_size", "rows"), FILLS.values(), ids=FILLS)
@pytest.mark.parametrize("half_life", [0.5, 3, 7.0, -2.0, 1e300])
def test_a_row_counts_half_for_each_half_life_of_its_age(half_life, size, init_size, rows):
    queue, model = filled_queue(size, init_size, rows)
    steps = [step for _, step, _ in model.newest_first()]
    expected = [0.5 ** ((steps[0] - step) / half_life) for step in steps]
    assert queue.log_weights(half_life=half_life)[queue.newest_first()].exp().tolist() == pytest.approx(
        expected, rel=1e-5
    )
    assert queue.log_weights(half_life=half_life).isfinite().sum() == len(steps)


def test_a_row_of_one_half_life_counts_half_and_of_two_a_quarter():
    ages = torch.tensor([0, 5, 10, 50])
    assert half_life_log_weights(ages, 5).exp().tolist() == pytest.approx([1, 1 / 2, 1 / 4, 1 / 1024], rel=1e-6)
    assert half_life_log_weights(ages, -5).exp().tolist() == pytest.approx([1, 2, 4, 1024], rel=1e-6)


@pytest.mark.parametrize("half_life", [1e-6, 0.01, 1e308, -1e-6, -1e308])
def test_long_ages_keep_biases_finite(half_life):
    assert half_life_log_weights(torch.tensor([0, 1, 10**6, 10**12]), half_life).isfinite().all()


def test_rows_of_an_earlier_training_are_as_old_as_the_oldest_of_this_one():
    queue = NegativeQueue(8, DIM)
    for step in (400, 401, 1, 2):  # a model saved after step 401, trained on from step 1
        queue.enqueue(unit_rows(2), step=step)
    assert queue.slot_ages()[queue.newest_first()].tolist() == [0, 0, 1, 1, 1, 1, 1, 1]


# Centroids


def kmeans_by_hand(rows: torch.Tensor, weights: list[float], count: int) -> torch.Tensor:
    clustering = KMeans(n_clusters=count, n_init=1, random_state=0)
    clustering.fit(rows.float().numpy(), sample_weight=np.array(weights, dtype=np.float32))
    return F.normalize(torch.from_numpy(clustering.cluster_centers_), dim=-1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("count", [2, 5])
def test_centroids_are_those_of_scikit_learn_on_the_rows_that_count(count, dtype):
    queue, model = filled_queue(40, 3, [16, 16, 16], dtype)
    log_weights = queue.log_weights("middle")
    kept = slow_counts("middle", 40)
    by_rank = [entry[0] for entry, counts in zip(model.newest_first(), kept, strict=True) if counts]
    in_ring_order = [row for row in queue.rows.tolist() if row in by_rank]
    assert len(in_ring_order) == 20
    centroids, added = find_centroids(queue.rows, log_weights, count)
    expected = kmeans_by_hand(torch.tensor(in_ring_order), [1.0] * 20, count)
    torch.testing.assert_close(centroids, expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(centroids.norm(dim=-1), torch.ones(count))
    assert added.tolist() == [0.0] * count


@pytest.mark.parametrize("count", [1, 4])
def test_weights_of_the_rows_are_weights_of_the_samples(count):
    queue, model = filled_queue(24, 0, [6, 6, 6, 6])
    weights = [0.5 ** ((12 - step) / 2) for _, step, _ in reversed(model.newest_first())]
    centroids, _ = find_centroids(queue.rows, queue.log_weights(half_life=2), count)
    expected = kmeans_by_hand(queue.rows, weights, count)
    torch.testing.assert_close(centroids, expected, atol=1e-6, rtol=0)
    unweighted, _ = find_centroids(queue.rows, queue.log_weights(), count)
    assert (unweighted - expected).abs().max() > 1e-2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [9, 5000])
def test_one_centroid_is_the_mean_at_length_one(rows, dtype):
    keys = unit_rows(rows, DIM, seed=3).to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        centroids, log_weights = find_centroids(keys, torch.zeros(rows), 1)
    mean = keys.double().mean(0)
    torch.testing.assert_close(centroids[0].double(), mean / mean.norm(), atol=1e-5, rtol=0)
    assert (centroids.dtype, log_weights.tolist()) == (torch.float32, [0.0])


@pytest.mark.parametrize("count", [1, 3, 5])
def test_no_more_rows_than_centroids_stand_for_themselves_and_no_row_for_none(count):
    queue, _ = filled_queue(7, 0, [2])
    centroids, log_weights = find_centroids(queue.rows, queue.log_weights(half_life=1), count)
    assert centroids.shape == (count, DIM)
    if count > 2:
        assert torch.equal(centroids[:2], queue.rows[:2])
        assert log_weights.tolist() == [0.0, 0.0] + [-math.inf] * (count - 2)
    queue, _ = filled_queue(7, 0, [])
    centroids, log_weights = find_centroids(queue.rows, queue.log_weights(), count)
    assert centroids.tolist() == [[0.0] * DIM] * count
    assert log_weights.tolist() == [-math.inf] * count


@pytest.mark.parametrize("count", [1, 3])
def test_rows_that_are_all_equal_or_weigh_nothing_beside_others_give_finite_centroids(count, recwarn):
    equal = unit_rows(1, DIM).expand(9, -1).contiguous()
    log_weights = torch.tensor([0.0, -200.0, -1e30, 1.0, 2.0, -math.inf, -90.0, 0.0, 0.0])
    centroids, _ = find_centroids(equal, log_weights, count)
    torch.testing.assert_close(centroids, equal[:count])
    assert not recwarn.list
    centroids, _ = find_centroids(unit_rows(9, DIM), log_weights, count)
    torch.testing.assert_close(centroids.norm(dim=-1), torch.ones(count))


def random_states() -> list:
    name, numbers, *rest = np.random.get_state()
    return [torch.get_rng_state().tolist(), (name, numbers.tolist(), rest), random.getstate()]


@pytest.mark.parametrize("count", [1, 5])
def test_the_same_rows_give_the_same_bits_on_any_number_of_threads_and_no_random_state_is_touched(count):
    rows, log_weights = unit_rows(600, 16, seed=1), torch.zeros(600)
    threads, found = torch.get_num_threads(), []
    try:
        for number in (1, 4, 4, 2):
            torch.set_num_threads(number)
            for seed in (torch.manual_seed, np.random.seed, random.seed):
                seed(number)
            before = random_states()
            found.append(find_centroids(rows, log_weights, count)[0])
            assert random_states() == before
            assert torch.get_num_threads() == number
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(one, found[0]) for one in found)


def test_a_compiled_function_finds_the_same_centroids():
    rows, log_weights = unit_rows(40, DIM), torch.zeros(40)
    compiled = torch.compile(lambda rows: find_centroids(rows * 1.0, log_weights, 4)[0], backend="eager")
    assert torch.equal(compiled(rows), find_centroids(rows, log_weights, 4)[0])


# In the model

POLICIES = {
    "newest": {"queue_window": "newest"},
    "middle": {"queue_window": "middle"},
    "without_middle": {"queue_window": "without_middle"},
    "ranges": {"queue_window": "0-0.25,0.5-0.75"},
    "soft": {"queue_window": "middle", "queue_window_softness": 0.1},
    "half-life": {"queue_half_life": 2.5},
    "older count more": {"queue_half_life": -4.0},
    "masked": {"mask_same_sentence": True},
    "masked without the batch": {"mask_same_sentence": True, "in_batch_negatives": False},
    "all but centroids": {
        "queue_window": "0-0.25,0.5-0.75",
        "queue_window_softness": 0.05,
        "queue_half_life": 3.0,
        "mask_same_sentence": True,
        "queue_dtype": "bfloat16",
    },
}
CENTROIDS = {
    "mean": {"queue_centroids": 1},
    "centroids": {"queue_centroids": 3, "queue_dtype": "bfloat16"},
    "centroids of a window": {"queue_centroids": 2, "queue_window": "oldest", "queue_half_life": 2.0},
    "centroids without the batch": {"queue_centroids": 4, "in_batch_negatives": False},
}


def model_with_a_queue(size: int, init_size: int, rows: list[int], **policy):
    """A model with 5-dimensional keys, and the list that its queue is: (row, step, id), the newest last."""
    model = tiny_model(
        queue_size=size, queue_init_size=init_size, projection_dim=DIM, temperature=TEMPERATURE, **policy
    )
    model.eval()
    entries = ListQueue(size, model.queue.rows[:init_size].tolist())
    for number, count in enumerate(rows, start=1):
        keys, ids = unit_rows(count, DIM, seed=number), [(number + i) % 7 - 1 for i in range(count)]
        model.queue.enqueue(keys, torch.tensor(ids), step=2 * number)
        entries.enqueue(keys.to(model.queue.dtype).tolist(), ids, 2 * number)
    return model, entries.newest_first()


def found_loss(model, queries, keys):
    queries = queries.clone().requires_grad_()
    output = model.contrast(queries, keys, torch.tensor(BATCH_IDS))
    if output.loss.requires_grad:
        output.loss.backward()
    return output, queries.grad


@pytest.mark.parametrize("chunked_from", [1, 1000])
@pytest.mark.parametrize(("size", "init_size", "rows"), [fill for name, fill in FILLS.items() if name != "empty"])
@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_loss_and_gradient_of_a_policy_are_the_slow_loops(monkeypatch, policy, size, init_size, rows, chunked_from):
    monkeypatch.setattr("mocose_hf.models.queue_contrast.CHUNKED_FROM", chunked_from)
    model, entries = model_with_a_queue(size, init_size, rows, **policy)
    queries, keys = unit_rows(4, DIM, seed=50), unit_rows(4, DIM, seed=51)
    loss, gradient = slow_loss_of_a_policy(queries, keys, entries, policy)
    output, found = found_loss(model, queries, keys)
    assert output.loss.item() == pytest.approx(loss, rel=5e-6, abs=5e-6)
    torch.testing.assert_close(found.double(), gradient, rtol=2e-5, atol=2e-5)
    assert (output.logits is None) == (chunked_from == 1)


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_each_policy_changes_the_loss(policy):
    entries = FILLS["wrapped"]
    queries, keys = unit_rows(4, DIM, seed=50), unit_rows(4, DIM, seed=51)
    plain = {name: value for name, value in policy.items() if name in ("queue_dtype", "in_batch_negatives")}
    losses = [found_loss(model_with_a_queue(*entries, **p)[0], queries, keys)[0].loss.item() for p in (policy, plain)]
    assert abs(losses[0] - losses[1]) > 1e-3


@pytest.mark.parametrize("chunked_from", [1, 1000])
@pytest.mark.parametrize("policy", CENTROIDS.values(), ids=CENTROIDS)
def test_loss_with_centroids_is_that_with_them_as_the_queue(monkeypatch, policy, chunked_from):
    monkeypatch.setattr("mocose_hf.models.queue_contrast.CHUNKED_FROM", chunked_from)
    model, entries = model_with_a_queue(17, 2, [6, 6, 6], **policy)
    queries, keys = unit_rows(4, DIM, seed=50), unit_rows(4, DIM, seed=51)
    in_ring_order = [(entries[rank], rank) for rank in model.queue.ranks().tolist()]
    window, half_life = policy.get("queue_window", "all"), policy.get("queue_half_life", math.inf)
    counted = [(entry, slow_counts(window, 17)[rank]) for entry, rank in in_ring_order]
    kept = [(row, 0.5 ** ((entries[0][1] - step) / half_life)) for (row, step, _), counts in counted if counts]
    centroids = kmeans_by_hand(torch.tensor([row for row, _ in kept]), [w for _, w in kept], policy["queue_centroids"])
    in_batch = policy.get("in_batch_negatives", True)
    loss, gradient = slow_loss_and_gradient(queries, keys, centroids, TEMPERATURE, in_batch_negatives=in_batch)
    output, found = found_loss(model, queries, keys)
    assert output.loss.item() == pytest.approx(loss, rel=5e-6, abs=5e-6)
    torch.testing.assert_close(found.double(), gradient, rtol=2e-5, atol=2e-5)
    if chunked_from > 1:
        assert output.logits.shape == (4, 4 + policy["queue_centroids"])


@pytest.mark.parametrize("policy", [*POLICIES.values(), *CENTROIDS.values()], ids=[*POLICIES, *CENTROIDS])
def test_forward_under_a_policy_changes_no_state_and_is_a_function_also_with_an_empty_queue(policy):
    for fill in (FILLS["empty"], FILLS["wrapped"]):
        model, _ = model_with_a_queue(*fill, **policy)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        generator = torch.get_rng_state()
        batch = random_batch() | {"sentence_ids": torch.tensor(BATCH_IDS)}
        first, second = model(**batch), model(**batch)
        assert torch.equal(first.logits, second.logits)
        assert torch.equal(torch.get_rng_state(), generator)
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        first.loss.backward()
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("policy", [*POLICIES.values(), *CENTROIDS.values()], ids=[*POLICIES, *CENTROIDS])
def test_a_saved_model_loads_with_its_policy(tmp_path, policy):
    model, _ = model_with_a_queue(*FILLS["wrapped"], **policy)
    model.save_pretrained(tmp_path)
    loaded = MoCoSEForPreTraining.from_pretrained(tmp_path).eval()
    batch = random_batch() | {"sentence_ids": torch.tensor(BATCH_IDS)}
    assert {name: getattr(loaded.config, name) for name in policy} == policy
    assert torch.equal(loaded(**batch).logits, model(**batch).logits)


def test_ids_that_are_needed_and_not_given_are_asked_for():
    model, _ = model_with_a_queue(*FILLS["wrapped"], mask_same_sentence=True)
    with pytest.raises(ValueError, match="`mask_same_sentence` and `queue_positives` need the `sentence_ids`"):
        model(**random_batch())


@pytest.mark.parametrize("count", [1, 2])
def test_a_model_that_needs_missing_scikit_learn_raises_an_error_when_built(monkeypatch, tmp_path, count):
    tiny_model(queue_centroids=count).save_pretrained(tmp_path)
    for module in [name for name in sys.modules if name.split(".")[0] == "sklearn"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    if count == 1:
        assert tiny_model(queue_centroids=1)(**random_batch()).loss.isfinite()
        return
    for build in (lambda: tiny_model(queue_centroids=2), lambda: MoCoSEForPreTraining.from_pretrained(tmp_path)):
        with pytest.raises(ValueError, match=r"`queue_centroids` above 1 needs scikit-learn.*pip install"):
            build()
    AutoModel.from_pretrained(tmp_path)  # to embed, no queue is needed


@pytest.mark.parametrize("chunked_from", [1, 1000])
@pytest.mark.parametrize("policy", [*POLICIES.values(), CENTROIDS["mean"]], ids=[*POLICIES, "mean"])
def test_no_policy_but_clustering_waits_for_a_gpu(monkeypatch, policy, chunked_from):
    monkeypatch.setattr("mocose_hf.models.queue_contrast.CHUNKED_FROM", chunked_from)
    model, _ = model_with_a_queue(*FILLS["wrapped"], **policy)
    queries, keys, ids = unit_rows(4, DIM, seed=50).requires_grad_(), unit_rows(4, DIM), torch.tensor(BATCH_IDS)
    looks_at_chunks = {"_local_scalar_dense", "is_nonzero"} if chunked_from == 1 else set()  # on a CPU alone
    with Operations() as used:
        model.contrast(queries, keys, ids).loss.backward()
    assert used.names & (WAITING - looks_at_chunks) == set()


def test_biases_of_all_policies_are_made_without_a_look_at_a_number():
    queue = NegativeQueue(9, DIM, 4).to("meta")  # where there are no numbers
    assert queue.log_weights("0-0.25,0.5-0.75", 0.1, half_life=3.0).shape == (9,)
    assert queue.log_weights("middle").shape == (9,)
