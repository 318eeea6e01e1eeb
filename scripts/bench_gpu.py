"""One GPU: training steps per second captured and eager, their share of the card's peak, attack throughput, parity.

Run by scripts/gpu_bench.sh; --device cpu checks that the script itself works. Writes one CSV per part under --out.
"""

import argparse
import csv
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from bench import composed
from bench_training import random_data
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from epsball.attacks import ATTACKS
from epsball.build import build, construct
from epsball.device import graphs, tensor_cores
from epsball.models import MODELS
from epsball.train import Trainer, Work

MNIST, CIFAR = (1, 28, 28), (3, 32, 32)
GAL = ["trainer=diversity", "trainer.objective.data=null", "trainer.augment=null"]
# image shape, overrides, and what a step costs per image in forward passes of the model: a backward pass to the input
# counts 1, one to parameters and input 2, GAL's double backward 4; other models' passes count as the model's own
CASES = {
    "madry mnist, batch 50": (MNIST, ["arch=madry_mnist", "trainer=madry"], 83),
    "A fgsm_adv, batch 64": (MNIST, ["arch=mnist_a", "trainer=fgsm_adv"], 8),
    "A ensemble_adv, batch 64": (MNIST, ["arch=mnist_a", "trainer=ensemble_adv"], 8),
    "5 x conv3 GAL, batch 64": (MNIST, ["arch=ensemble", *GAL], 6),
    "resnet20 PGD-7, batch 128": (CIFAR, ["dataset=cifar10", "arch=resnet20", "trainer=madry_cifar"], 17),
    "wide_resnet PGD-7, batch 128": (CIFAR, ["dataset=cifar10", "arch=wide_resnet", "trainer=madry_cifar"], 17),
}
PEAK = {"fp32": 67e12, "tf32": 394e12, "bf16": 788e12}  # FLOP/s of an H200: data sheet, half of bf16, measured


def begin(shape: tuple[int, int, int], overrides: list[str], precision: str, device: torch.device) -> Work:
    torch.manual_seed(0)
    chosen: dict[str, Any] = composed(*overrides, f"precision={precision}", "scale=paper")
    trainer: Trainer = construct(Trainer, chosen["trainer"], where="trainer")
    specs = [chosen["arch"], *(source["arch"] for source in trainer.sources.values())]
    model, *sources = (build(MODELS, spec, shape, 10, where="arch").to(device) for spec in specs)
    frozen = [source.eval().requires_grad_(False) for source in sources]
    return Work.begin(model, trainer, frozen, random_data(shape).to(device), seed=0)


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def steps_per_second(work: Work, index: Tensor, seconds: float) -> float:
    """After enough steps that every source's graph is recorded."""
    for _ in range(24 if work.replay.active else 2):
        work.advance(index, 0.0)
    wait(index.device)
    began, steps = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        for _ in range(8 if index.device.type == "cuda" else 1):
            work.advance(index, 0.0)
            steps += 1
        wait(index.device)
    return steps / (time.perf_counter() - began)


def training(device: torch.device, seconds: float, only: str) -> Iterator[list[object]]:
    yield ["case", "precision", "launch", "steps_per_second", "gflop_per_step", "share_of_peak"]
    for name, (shape, overrides, passes) in ((n, case) for n, case in CASES.items() if only in n):
        for precision in ("fp32", "tf32", "bf16"):
            for captured in (False, True):
                with tensor_cores(precision):  # type: ignore[arg-type]
                    work = begin(shape, overrides, precision, device)
                    work.replay.active = captured and device.type == "cuda"
                    index = torch.arange(work.trainer.batch_size, device=device)
                    rate = steps_per_second(work, index, seconds)
                    graphed = bool(work.replay.graphs)
                flop = passes * work.trainer.batch_size * forward_flop(work.model, shape)
                launch = "graph" if graphed else "eager"
                yield [
                    name,
                    precision,
                    launch,
                    f"{rate:.2f}",
                    f"{flop / 1e9:.2f}",
                    f"{rate * flop / PEAK[precision]:.4f}",
                ]


def forward_flop(model: nn.Module, shape: tuple[int, int, int]) -> float:
    """Floating-point operations of one image's forward pass."""
    model.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, *shape, device=next(model.parameters()).device))
    model.train()
    return float(counter.get_total_flops())


def throughput(device: torch.device, seconds: float) -> Iterator[list[object]]:
    """PGD-40 on the Madry net, batch 256."""
    yield ["attack", "who", "images_per_second"]
    torch.manual_seed(0)
    model: nn.Module = build(MODELS, composed("arch=madry_mnist")["arch"], MNIST, 10, where="arch").to(device).eval()
    x, y = torch.rand(256, *MNIST, device=device), torch.randint(10, (256,), device=device)
    ours = build(ATTACKS, composed("attack=pgd")["attack"]["pgd"], where="attack")
    who: dict[str, Callable[[], object]] = {"eager": lambda: ours(model, x, y), "graph": lambda: ours(model, x, y)}
    try:
        import torchattacks

        who["torchattacks"] = partial(torchattacks.PGD(model, 0.3, 0.01, 40), x, y)
    except ImportError as error:
        print(f"without torchattacks: {error}")
    for name, attack in who.items():
        with graphs(device) if name == "graph" else nullcontext():
            for _ in range(6):
                attack()
            wait(device)
            began, calls = time.perf_counter(), 0
            while time.perf_counter() - began < seconds:
                attack()
                calls += 1
                wait(device)
        yield ["PGD-40", name, f"{256 * calls / (time.perf_counter() - began):.1f}"]


def parity(device: torch.device, steps: int = 12) -> Iterator[list[object]]:
    """The largest difference of any parameter after some steps without random numbers, captured against eager."""
    yield ["case", "steps", "largest_difference", "largest_parameter"]
    for trainer in ("standard", "fgsm_adv"):
        overrides, ended = ["arch=madry_mnist", f"trainer={trainer}", "trainer.batch_size=64"], []
        for captured in (False, True):
            with tensor_cores("fp32"):
                work = begin(MNIST, overrides, "fp32", device)
                work.replay.active = captured and device.type == "cuda"
                for step in range(steps):
                    work.advance(torch.arange(64 * step, 64 * step + 64, device=device) % 512, 0.0)
            ended.append(torch.cat([p.detach().flatten() for p in work.model.parameters()]))
        difference, largest = (ended[0] - ended[1]).abs().max(), ended[0].abs().max()
        yield [trainer, steps, f"{float(difference):.3g}", f"{float(largest):.3g}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path())
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=3.0, help="of measuring, per line")
    parser.add_argument("--only", default="", help="training cases whose name holds this text")
    given = parser.parse_args()
    device = torch.device(given.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"{name}, torch {torch.__version__}")
    torch.backends.cudnn.benchmark = True
    for part, rows in {
        "parity": parity(device),
        "throughput": throughput(device, given.seconds),
        "training": training(device, given.seconds, given.only),
    }.items():
        with (given.out / f"gpu_{part}.csv").open("w", newline="") as file:
            for row in rows:
                csv.writer(file).writerow(row)
                file.flush()
                print(f"{part}: {', '.join(map(str, row))}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
