"""Precision, kernels, random numbers, and which device it is."""

import os
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from epsball.build import ConfigError
from epsball.runtime.device import (
    allow_tf32,
    autocast,
    borrowed_seed,
    choose_device,
    choose_kernels,
    derived_seed,
    random_state,
    set_random_state,
)

CPU = torch.device("cpu")


def test_tf32_is_borrowed() -> None:
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    for precision, allowed in (("fp32", False), ("tf32", True), ("bf16", True)):
        with allow_tf32(precision):  # type: ignore[arg-type]
            assert torch.backends.cuda.matmul.allow_tf32 is torch.backends.cudnn.allow_tf32 is allowed
        assert (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32) == before


def test_bf16_is_for_products_alone() -> None:
    net, x = nn.Linear(4, 2), torch.rand(3, 4)
    with autocast("bf16", CPU):
        assert net(x).dtype is torch.bfloat16 and (x + 1).dtype is torch.float32
    with autocast("tf32", CPU):
        assert net(x).dtype is torch.float32


def test_the_device_is_one_that_is_there() -> None:
    assert choose_device("cpu") == CPU and choose_device("auto").type in ("cpu", "cuda", "mps")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="device is 'cuda', which this machine lacks: it has cpu"):
            choose_device("cuda")


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's choice of kernels, given back after the test."""
    for name in ("benchmark", "deterministic"):
        monkeypatch.setattr(torch.backends.cudnn, name, False)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")  # taken away again after a test that sets it
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")


def chosen() -> tuple[bool, bool, bool, str | None]:
    cudnn = torch.backends.cudnn
    algorithms = torch.are_deterministic_algorithms_enabled()
    return cudnn.benchmark, cudnn.deterministic, algorithms, os.environ.get("CUBLAS_WORKSPACE_CONFIG")


def test_cuda_takes_the_fastest_kernels_or_those_of_the_same_bits(kernels: None) -> None:
    cuda = torch.device("cuda", 0)
    try:
        choose_kernels(cuda, deterministic=True)
        assert chosen() == (False, True, True, ":4096:8")
        choose_kernels(cuda, deterministic=False)
        assert chosen()[:3] == (True, False, False)
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("deterministic", [False, True])
def test_the_cpu_has_no_kernels_to_choose(deterministic: bool, kernels: None) -> None:
    choose_kernels(CPU, deterministic)
    assert chosen() == (False, False, False, None)


def test_a_random_state_goes_on_where_it_was_taken() -> None:
    with borrowed_seed(1, CPU):
        torch.rand(2)
        state = random_state(CPU)
        expected = torch.rand(3)
        set_random_state(state, CPU)
        assert torch.equal(torch.rand(3), expected)
        set_random_state({**state, "cuda": torch.empty(16, dtype=torch.uint8)}, CPU)  # of a training on a card
        assert torch.equal(torch.rand(3), expected)


def test_derived_seeds_are_stable_and_unrelated() -> None:
    assert derived_seed(0, "fit") == derived_seed(0, "fit")
    found = {derived_seed(*parts) for parts in ((0, "fit"), (1, "fit"), (0, "init"), (0, "order", 0), (0, "order", 1))}
    assert len(found) == 5 and all(0 <= seed < 2**63 for seed in found)


def test_derived_seeds_stay() -> None:
    """Every trained model and every row depends on them."""
    assert derived_seed(0, "fit") == 6545204788550610758
    assert derived_seed(3, "source", "step_ll", 0.25) == 4844453842727062411


@pytest.fixture
def state_before() -> Iterator[Tensor]:
    torch.manual_seed(11)
    torch.rand(3)
    yield torch.get_rng_state()


def test_a_borrowed_seed_is_given_back(state_before: Tensor) -> None:
    with borrowed_seed(5, CPU):
        first = torch.rand(4)
    assert torch.equal(torch.get_rng_state(), state_before)
    with pytest.raises(ValueError), borrowed_seed(5, CPU):
        assert torch.equal(torch.rand(4), first)
        raise ValueError
    assert torch.equal(torch.get_rng_state(), state_before)
    with borrowed_seed(6, CPU):
        assert not torch.equal(torch.rand(4), first)
