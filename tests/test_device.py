"""Precision, seeds, and the launcher that CUDA records: here on the CPU, where it must change nothing."""

import pytest
import torch
from torch import nn

from epsball.build import ConfigError
from epsball.device import Replay, autocast, choose_device, graphs, launch, tensor_cores

CPU = torch.device("cpu")


def test_launch_is_the_function_itself_on_the_cpu() -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        return x + torch.rand(3)

    with graphs(CPU):
        torch.manual_seed(0)
        replayed = [launch("key", function, torch.zeros(3)) for _ in range(6)]
    torch.manual_seed(0)
    plain = [function(torch.zeros(3)) for _ in range(6)]
    assert all(torch.equal(a, b) for a, b in zip(replayed, plain, strict=True))
    assert not torch.equal(plain[4], plain[5])


def test_replay_on_the_cpu_records_nothing() -> None:
    replay = Replay(CPU)
    for _ in range(5):
        replay("key", torch.neg, torch.ones(2))
    assert not replay.active and not replay.graphs and not replay.calls


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA: what a captured graph does")
def test_a_captured_graph_draws_fresh_numbers_and_sees_new_parameters() -> None:
    device, weight = torch.device("cuda", 0), torch.ones(1, device="cuda")
    replay = Replay(device)
    results = [
        replay("key", lambda x: (x + 1) * weight + torch.rand_like(x), torch.zeros(4, device=device)) for _ in range(8)
    ]
    assert replay.graphs and len({tuple(r.tolist()) for r in results}) == 8
    weight.fill_(100.0)
    assert (replay("key", torch.neg, torch.ones(4, device=device)) >= 100).all()  # the recorded function, not another


def test_tensor_cores_are_borrowed() -> None:
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    for precision, allowed in (("fp32", False), ("tf32", True), ("bf16", True)):
        with tensor_cores(precision):  # type: ignore[arg-type]
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
