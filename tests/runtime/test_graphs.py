"""When a function is captured, which graph gives way, what is said of a capture that fails. Graphs: in test_cuda.py."""

import pickle
import random
import warnings
from collections import Counter
from collections.abc import Hashable

import numpy as np
import pytest
import torch

from epsball.runtime.graphs import (
    EAGER_CALLS,
    GRAPHS_KEPT,
    CapturedGraph,
    CaptureFailed,
    GraphCache,
    capture_failed,
    graphs,
    host_random_state,
    run_captured,
    synchronisation,
)

CPU = torch.device("cpu")


def function(x: torch.Tensor) -> torch.Tensor:
    return x + torch.rand(3)


def test_a_captured_function_is_the_function_itself_on_the_cpu() -> None:
    with graphs(CPU):
        torch.manual_seed(0)
        captured = [run_captured("key", function, torch.zeros(3)) for _ in range(6)]
    torch.manual_seed(0)
    plain = [run_captured("key", function, torch.zeros(3)) for _ in range(6)]
    assert all(torch.equal(a, b) for a, b in zip(captured, plain, strict=True))
    assert not torch.equal(plain[4], plain[5])


@pytest.mark.parametrize("allowed", [True, False])
def test_nothing_is_captured_on_the_cpu(allowed: bool) -> None:
    cache = GraphCache(CPU, allowed)
    for _ in range(5):
        cache("key", torch.neg, torch.ones(2))
    assert not cache.active and not cache.graphs and not cache.calls and cache.replays == 0


def test_the_hosts_random_state_is_another_after_each_draw() -> None:
    states = [host_random_state(), host_random_state()]
    assert states[0] == states[1]
    for draw in (lambda: torch.rand(1), random.random, np.random.rand):
        draw()
        states.append(host_random_state())
    assert len(set(states)) == 4


# ---- which call is captured


def called(cache: GraphCache, keys: list[Hashable]) -> list[str]:
    """How a cache makes the calls with these keys, each of whose captures succeeds."""
    made = []
    for key in keys:
        made.append(cache.next_call(key))
        if made[-1] == "capture":
            cache.keep(key, CapturedGraph(None, [], torch.empty(0)))  # type: ignore[arg-type]
    return made


def test_a_key_is_called_eagerly_then_watched_then_captured_then_replayed() -> None:
    eager = ["eager"] * (EAGER_CALLS - 1)
    assert called(GraphCache(CPU), ["a"] * (EAGER_CALLS + 3)) == [*eager, "watched", "capture", "replay", "replay"]


def test_keys_are_counted_apart() -> None:
    both = called(GraphCache(CPU), ["a", "b"] * (EAGER_CALLS + 2))
    assert both[::2] == both[1::2] == called(GraphCache(CPU), ["a"] * (EAGER_CALLS + 2))


def test_a_function_that_waits_for_the_device_stays_eager() -> None:
    cache = GraphCache(CPU)
    called(cache, ["a"] * EAGER_CALLS)
    cache.never.add("a")
    assert called(cache, ["a"] * 4) == ["eager"] * 4


def test_the_least_recently_used_graph_gives_way_and_is_not_captured_again() -> None:
    cache = GraphCache(CPU)
    for number in range(GRAPHS_KEPT):
        called(cache, [number] * (EAGER_CALLS + 1))
    assert called(cache, [0]) == ["replay"]  # 1 is the oldest now
    called(cache, ["new"] * (EAGER_CALLS + 1))
    assert set(cache.graphs) == {0, *range(2, GRAPHS_KEPT), "new"}
    assert called(cache, [1] * 5) == ["eager"] * 5
    assert called(cache, [0, "new"]) == ["replay", "replay"]


@pytest.mark.parametrize("live", [GRAPHS_KEPT, GRAPHS_KEPT + 1, 3 * GRAPHS_KEPT])
def test_more_live_keys_than_graphs_are_captured_once_and_settle(live: int) -> None:
    cache, rounds = GraphCache(CPU), 10
    calls = called(cache, [*range(live)] * (EAGER_CALLS + rounds))
    captures = Counter(
        key for key, call in zip([*range(live)] * (EAGER_CALLS + rounds), calls, strict=True) if call == "capture"
    )
    assert set(captures.values()) == {1} and len(captures) == live
    assert len(cache.graphs) == GRAPHS_KEPT
    assert Counter(calls[-live:]) == Counter(replay=GRAPHS_KEPT, eager=live - GRAPHS_KEPT)


# ---- what torch warns of


def test_a_warning_of_synchronisation_is_found_and_the_others_are_given_again() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.warn("Synchronization debug mode is a prototype feature and does not yet detect all", stacklevel=1)
        warnings.warn("lr is odd", FutureWarning, stacklevel=1)
        warnings.warn_explicit("called a synchronizing CUDA operation (Triggered internally)", UserWarning, "net.py", 7)
        warnings.warn_explicit("called a synchronizing CUDA operation", UserWarning, "later.py", 8)
    with pytest.warns(FutureWarning, match="lr is odd") as again:
        assert synchronisation(caught) == "net.py:7"
    assert len(again) == 1


def test_no_warning_of_synchronisation() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.warn("Synchronization debug mode is a prototype feature and does not yet detect all", stacklevel=1)
    assert synchronisation(caught) is None


def test_a_failed_capture_tells_the_first_error_in_one_line_and_what_to_do() -> None:
    error = capture_failed(torch.OutOfMemoryError("no memory\nleft"))
    text = "no CUDA graph, OutOfMemoryError: no memory left: run with cuda_graphs=false"
    assert isinstance(error, RuntimeError) and str(error) == text
    again = pickle.loads(pickle.dumps(error))  # on its way out of a worker
    assert type(again) is CaptureFailed and str(again) == text
