import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections import Counter

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution

from mocose_hf.errors import InputError
from mocose_hf.study import trial_records, trial_store
from mocose_hf.study.provenance import find_differences
from mocose_hf.study.storage import open_storage
from mocose_hf.study.study import TrialResult
from mocose_hf.study.trial_records import Lease
from mocose_hf.study.trial_store import MAX_ATTEMPTS, TrialStore

CELLS = {"a": {"ema_decay": 0.5}, "b": {"ema_decay": 0.9, "queue_size": 64}}
KEYS = [(cell, (seed,)) for cell in CELLS for seed in (0, 1)]


@pytest.fixture
def url(tmp_path) -> str:
    return f"sqlite:///{tmp_path / 'deep' / 'study.db'}"


def store_of(url: str, description=None) -> TrialStore:
    store = TrialStore(open_storage(url), "grid")
    store.begin(description or {"options": "x"})
    store.declare({"title": "Grid"})
    return store


def complete(lease: Lease, score: float = 50.0) -> TrialResult:
    return TrialResult("grid", lease.cell, lease.seeds[0], "complete", {"dev_spearman": score})


def test_trials_are_taken_once_each_and_in_order(url):
    store = store_of(url)
    store.enqueue(KEYS, CELLS)
    store.enqueue(KEYS, CELLS)
    taken = []
    while (lease := store.claim()) is not None:
        taken.append((lease.cell, lease.seeds))
        store.record(lease, complete(lease, score=len(taken)))

    assert taken == KEYS
    assert [(r.cell, r.seed, r.state, r.figures["dev_spearman"]) for r in store.results()] == [
        ("a", 0, "complete", 1), ("a", 1, "complete", 2), ("b", 0, "complete", 3), ("b", 1, "complete", 4)
    ]  # fmt: skip


def test_parameters_are_the_options_that_vary(url):
    store = store_of(url)
    store.enqueue(KEYS, {name: {**options, "temperature": 0.05} for name, options in CELLS.items()})

    assert store.claim().parameters == {"ema_decay": 0.5, "queue_size": None}


def test_a_resumed_study_keeps_finished_trials(url):
    store = store_of(url)
    store.enqueue(KEYS, CELLS)
    store.record(lease := store.claim(), complete(lease))
    again = store_of(url)
    again.enqueue([*KEYS, ("a", (2,))], CELLS)

    states = Counter((result.cell, result.state) for result in again.results())
    assert states == {("a", "complete"): 1, ("a", "waiting"): 2, ("b", "waiting"): 2}


def test_a_study_with_other_options_fails(url):
    store_of(url, {"options": {"max_steps": "10"}, "encoder": "bert"})

    with pytest.raises(InputError, match=r"other settings: `encoder` was bert and is mini now.*another --storage"):
        store_of(url, {"options": {"max_steps": "10"}, "encoder": "mini"})
    assert store_of(url, {"options": {"max_steps": "10"}, "encoder": "bert"}).declaration() == {"title": "Grid"}


def test_a_study_may_get_more_cells_but_no_other_ones(url):
    store_of(url, {"encoder": "bert", "cell a": {"ema_decay": "0.5"}})
    more = store_of(url, {"encoder": "bert", "cell b": {"ema_decay": "0.9"}})
    assert more.settings() == {"encoder": "bert", "cell a": {"ema_decay": "0.5"}, "cell b": {"ema_decay": "0.9"}}

    with pytest.raises(InputError, match=r"`cell a` was \{'ema_decay': '0.5'\} and is \{'ema_decay': '0.6'\} now"):
        store_of(url, {"encoder": "bert", "cell a": {"ema_decay": "0.6"}})


def test_cells_that_come_later_may_take_other_values_and_other_options(url):
    store_of(url).enqueue(KEYS, CELLS)
    more = CELLS | {"c": {"ema_decay": 0.99, "temperature": 0.1}, "d": {"ema_decay": 0.5, "queue_size": 64}}
    store = store_of(url)
    store.enqueue([*KEYS, ("c", (0,)), ("d", (0,))], more)

    assert store.claim(lambda cell, seed: cell == "c").parameters == {"queue_size": None, "temperature": 0.1}
    assert store.claim(lambda cell, seed: cell == "d").parameters == {
        "ema_decay": 0.5,
        "queue_size": 64,
        "temperature": None,
    }
    assert len(store.results()) == len(KEYS) + 2


def test_claims_are_of_the_cells_asked_for(url):
    store = store_of(url)
    store.enqueue(KEYS, CELLS)

    assert store.claim(lambda cell, seed: cell == "b").cell == "b"


def test_claims_are_of_the_seeds_asked_for(url):
    store = store_of(url)
    store.enqueue(KEYS, CELLS)
    lease = store.claim(lambda cell, seed: seed == 1)
    assert (lease.cell, lease.seeds) == ("a", (1,))
    store.record(lease, complete(lease))
    store.record(lease := store.claim(lambda cell, seed: seed == 1), complete(lease))

    assert lease.cell == "b"
    assert store.claim(lambda cell, seed: seed == 1) is None
    assert {(r.seed, r.state) for r in store.results()} == {(0, "waiting"), (1, "complete")}


def test_failed_trials_of_other_seeds_are_not_tried_again(url):
    store = store_of(url)
    store.enqueue(KEYS[:2], CELLS)
    while (lease := store.claim()) is not None:
        store.record(lease, TrialResult("grid", "a", lease.seeds[0], "failed", reason="too high a rate"))
    store.retry_failed(lambda cell, seed: seed == 1)

    assert sorted((r.seed, r.state) for r in store.results()) == [(0, "failed"), (1, "waiting")]


def test_a_failed_trial_keeps_its_reason_and_is_not_repeated_unless_asked(url):
    store = store_of(url)
    store.enqueue(KEYS[:1], CELLS)
    store.record(lease := store.claim(), TrialResult("grid", "a", 0, "failed", reason="too high a rate"))
    store.enqueue(KEYS[:1], CELLS)

    assert store.claim() is None
    assert [(r.state, r.reason) for r in store.results()] == [("failed", "too high a rate")]

    store.retry_failed()
    lease = store.claim()
    assert (lease.cell, lease.seeds) == ("a", (0,))
    store.record(lease, complete(lease))
    assert [r.state for r in store.results()] == ["complete"]


def test_a_trial_enqueued_twice_runs_once(url):
    store = store_of(url)
    store.enqueue(KEYS[:1], CELLS)
    other = store_of(url)
    other._current_trials = lambda: []  # what a worker sees that starts at the same moment
    other.enqueue(KEYS[:1], CELLS)
    del other._current_trials

    assert store.claim() is not None
    assert store.claim() is None
    assert other.claim() is None
    assert [r.state for r in store.results()] == ["running"]


def test_a_released_trial_waits_again(url):
    store = store_of(url)
    store.enqueue(KEYS[:1], CELLS)
    for _ in range(MAX_ATTEMPTS + 2):
        store.release(store.claim())

    assert [r.state for r in store.results()] == ["waiting"]


def dead_worker() -> dict:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return {"host": trial_records.socket.gethostname(), "pid": process.pid, "started": 0.0}


def test_the_trial_of_a_dead_worker_waits_again_and_fails_when_it_kills_too_often(url, monkeypatch):
    store = store_of(url)
    store.enqueue(KEYS[:1], CELLS)
    dead = dead_worker()
    monkeypatch.setattr(trial_store, "this_worker", lambda: dead)
    for _ in range(MAX_ATTEMPTS - 1):
        store.claim()
        assert store.requeue_stale() == [("a", (0,))]
    store.claim()

    assert store.requeue_stale() == []
    (result,) = store.results()
    assert result.state == "failed"
    assert "3 workers died in it" in result.reason


def let_time_pass(monkeypatch) -> None:
    later = time.time() + trial_records.HEARTBEAT_TIMEOUT + 60
    monkeypatch.setattr(time, "time", lambda: later)


def test_a_living_worker_keeps_its_trial_and_a_silent_remote_one_does_not(url, monkeypatch):
    store = store_of(url)
    store.enqueue(KEYS[:2], CELLS)
    lease = store.claim()
    assert store.requeue_stale() == []

    monkeypatch.setattr(trial_store, "this_worker", lambda: {"host": "elsewhere", "pid": 1, "started": 0.0})
    far = store.claim()
    store.heartbeat(far)
    assert store.requeue_stale() == []
    let_time_pass(monkeypatch)
    assert store.requeue_stale() == [("a", (1,))]
    assert {(r.seed, r.state) for r in store.results()} == {(lease.seeds[0], "running"), (1, "waiting")}


def test_a_trial_claimed_by_a_worker_that_died_at_once_is_found(url, monkeypatch):
    store = store_of(url)
    store.enqueue(KEYS[:1], CELLS)
    set_attribute = store._set
    store._set = lambda *args, **kwargs: None  # killed before it could store its identity
    store.claim()
    store._set = set_attribute

    assert store.requeue_stale() == []
    let_time_pass(monkeypatch)
    assert store.requeue_stale() == [("a", (0,))]


def take_all(url: str, taken, barrier) -> None:
    store = TrialStore(open_storage(url), "grid")
    barrier.wait(timeout=120)
    store.begin({"options": "x"})
    keys = [("a", (seed,)) for seed in range(8)]
    store.enqueue(keys, CELLS)
    lease = store.claim()
    barrier.wait(timeout=120)  # each holds a trial while the other claims one
    while lease is not None:
        taken.put((os.getpid(), lease.seeds))
        store.record(lease, complete(lease))
        lease = store.claim()


def test_two_workers_that_start_at_once_share_all_trials_and_run_none_twice(url):
    open_storage(url)
    context = multiprocessing.get_context("spawn")
    taken, barrier = context.Queue(), context.Barrier(2)
    workers = [context.Process(target=take_all, args=(url, taken, barrier)) for _ in range(2)]
    for worker in workers:
        worker.start()
    takes = [taken.get(timeout=120) for _ in range(8)]
    for worker in workers:
        worker.join()

    assert taken.empty()
    assert sorted(seeds for _, seeds in takes) == [(seed,) for seed in range(8)]
    assert len({worker for worker, _ in takes}) == 2
    assert Counter(result.state for result in store_of(url).results()) == {"complete": 8}


def test_workers_that_make_a_storage_at_one_moment_all_open_it(url):
    together, opened = threading.Barrier(8), []

    def open_():
        together.wait()
        opened.append(open_storage(url))

    threads = [threading.Thread(target=open_) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(opened) == 8
    stores = [TrialStore(storage, "mine") for storage in opened]
    for store in stores:
        store.begin({})
    stores[0].enqueue([("a", (0,))], {"a": {}})
    assert [store.seeds() for store in stores] == [{"a": [0]}] * 8


def test_a_search_draws_settings_runs_all_seeds_of_each_and_comes_to_an_end(url):
    store = store_of(url)
    space = {"temperature": FloatDistribution(0.01, 0.2, log=True), "pooling_mode": CategoricalDistribution(["cls"])}
    store.enqueue([("the options as given", (0, 1))], {"the options as given": {}})
    tried = []
    while (lease := store.claim_or_draw(space, (0, 1), max_settings=4)) is not None:
        for seed in lease.seeds:
            store.record(lease, TrialResult("grid", lease.cell, seed, "complete", {"dev_spearman": 40.0 + seed}))
        tried.append(lease)

    assert tried[0].cell == "the options as given"
    assert len({lease.cell for lease in tried}) == 4
    assert all(0.01 <= lease.parameters["temperature"] <= 0.2 for lease in tried[1:])
    assert len(store.results()) == 8
    assert [trial.value for trial in store._study.get_trials()] == [40.5] * 4


def test_a_search_of_a_small_space_comes_to_an_end(url):
    store = store_of(url)
    cells = []
    while (
        lease := store.claim_or_draw({"pooling_mode": CategoricalDistribution(["cls", "mean"])}, (0,), max_settings=12)
    ) is not None:
        cells.append(lease.cell)
        store.record(lease, complete(lease))

    assert sorted(cells) == ["pooling_mode cls", "pooling_mode mean"]


def test_a_resumed_search_runs_the_missing_seeds(url, monkeypatch):
    store = store_of(url)
    dead = dead_worker()
    monkeypatch.setattr(trial_store, "this_worker", lambda: dead)
    space = {"temperature": FloatDistribution(0.01, 0.2)}
    lease = store.claim_or_draw(space, (0, 1), max_settings=1)
    store.record(lease, TrialResult("grid", lease.cell, 0, "complete", {"dev_spearman": 40.0}))

    store.requeue_stale()
    again = store.claim_or_draw(space, (0, 1), max_settings=1)
    assert (again.cell, again.seeds, again.parameters) == (lease.cell, (1,), lease.parameters)
    store.record(again, TrialResult("grid", again.cell, 1, "complete", {"dev_spearman": 42.0}))
    assert store.claim_or_draw(space, (0, 1), max_settings=1) is None
    assert sorted((r.seed, r.figures["dev_spearman"]) for r in store.results()) == [(0, 40.0), (1, 42.0)]


def run_search(store: TrialStore, seeds: tuple[int, ...], max_settings: int = 3) -> list[Lease]:
    """Run the remaining trials of a search; the score is the seed."""
    taken = []
    store.enqueue([("the options as given", seeds)], {"the options as given": {}})
    while (
        lease := store.claim_or_draw({"temperature": FloatDistribution(0.01, 0.2)}, seeds, max_settings)
    ) is not None:
        taken.append(Lease(**vars(lease)))
        for seed in lease.seeds:
            store.record(lease, TrialResult("grid", lease.cell, seed, "complete", {"dev_spearman": float(seed)}))
    return taken


def test_a_search_of_more_seeds_runs_them_for_all_settings_and_draws_no_other_ones(url):
    store = store_of(url)
    first = run_search(store, (0, 1))
    more = run_search(store, (0, 1, 2))

    assert [lease.seeds for lease in more] == [(2,)] * 3
    assert [(c.cell, c.parameters) for c in more] == [(c.cell, c.parameters) for c in first]
    assert Counter(r.cell for r in store.results()) == {lease.cell: 3 for lease in first}
    assert [lease.seeds for lease in run_search(store, (0, 1, 2), max_settings=4)] == [(0, 1, 2)]


def test_a_search_of_fewer_seeds_leaves_the_others_waiting(url):
    store = store_of(url)
    store.release(store.claim_or_draw({"temperature": FloatDistribution(0.01, 0.2)}, (0, 1, 2), max_settings=1))
    (fewer,) = run_search(store, (1,), max_settings=1)[:1]
    states = {(r.cell, r.seed): r.state for r in store.results()}
    assert fewer.seeds == (1,)
    assert [states[fewer.cell, seed] for seed in (0, 1, 2)] == ["waiting", "complete", "waiting"]

    rest = {lease.cell: lease.seeds for lease in run_search(store, (0, 1, 2), max_settings=1)}
    assert rest[fewer.cell] == (0, 2)
    assert {r.state for r in store.results()} == {"complete"}


def test_the_trial_of_a_dead_worker_is_interrupted_until_it_is_taken_up_again(url, monkeypatch):
    store = store_of(url)
    store.enqueue(KEYS[:1], CELLS)
    dead = dead_worker()
    monkeypatch.setattr(trial_store, "this_worker", lambda: dead)
    store.claim()
    assert [r.state for r in store.results()] == ["interrupted"]

    store.requeue_stale()
    assert [r.state for r in store.results()] == ["waiting"]
    assert store.claim() is not None


def test_a_worker_that_dies_after_its_last_result_leaves_a_complete_trial(url, monkeypatch):
    store = store_of(url)
    store.enqueue(KEYS[:1], CELLS)
    dead = dead_worker()
    monkeypatch.setattr(trial_store, "this_worker", lambda: dead)
    lease = store.claim()
    monkeypatch.setattr(store, "_finish", lambda number: None)  # killed before it could
    store.record(lease, complete(lease))
    monkeypatch.undo()

    assert store.requeue_stale() == []
    assert store.claim() is None
    assert [(r.state, r.figures["dev_spearman"]) for r in store.results()] == [("complete", 50.0)]
    assert [trial.value for trial in store._study.get_trials()] == [50.0]


CONTENT = {
    "encoder": "bert",
    "SHA-256 of the encoder": "e1",
    "SHA-256 of the development pairs": "p1",
    "sentences": "s",
}


@pytest.mark.parametrize(
    ("before", "now", "other"),
    [
        (CONTENT, CONTENT | {"encoder": "copy-of-bert"}, []),
        (CONTENT, CONTENT | {"SHA-256 of the encoder": "e2"}, ["SHA-256 of the encoder"]),
        (CONTENT, CONTENT | {"SHA-256 of the development pairs": "p2"}, ["SHA-256 of the development pairs"]),
        (CONTENT, CONTENT | {"sentences": "t"}, ["sentences"]),
        ({"encoder": "mini"}, {"encoder": "bert"}, ["encoder"]),
    ],
)
def test_digests_decide_and_names_decide_only_without_digests(before, now, other):
    assert find_differences(before, now) == other


def test_reading_creates_no_storage(url, tmp_path):
    with pytest.raises(InputError, match=r"cannot be opened \(there is no such file\)"):
        open_storage(url, create=False)
    assert not list(tmp_path.rglob("*.db"))


@pytest.mark.parametrize(
    "url", ["nonsense", "sqlite:////proc/none/study.db", "postgresql://nobody:secret@127.0.0.1:1/none"]
)
def test_a_storage_that_cannot_be_opened_fails_with_one_line(url):
    with pytest.raises(InputError, match=r"--storage .*: cannot be opened \(.*\); give a URL") as expected:
        open_storage(url)
    assert "\n" not in str(expected.value)
    assert "secret" not in str(expected.value)
