"""One GPU. parity: graphs against eager calls, bit for bit. speed: steps and images per second, captured and eager,
their share of the card's measured peak, peak memory, torchattacks beside them, several processes on the card.

Run by scripts/gpu.sh. Each trial is tried by itself and writes its row at once; one that fails leaves its error as the
row. `--device cpu --smoke` checks that the script itself works.
"""

import argparse
import csv
import importlib.util
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import torch
from bench import composed
from bench_training import GAL, RESNETS, random_data
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from epsball.attacks import ATTACKS
from epsball.build import build, construct, one_line
from epsball.models import MODELS
from epsball.runtime.device import Precision, allow_tf32
from epsball.runtime.graphs import current, graphs
from epsball.training.fit import TrainingState
from epsball.training.trainer import Trainer

Launch = Literal["eager", "graph", "torchattacks"]
COLUMNS = ["measurement", "case", "precision", "launch", "value", "unit", "share_of_peak", "peak_memory_mib", "error"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "tf32", "bf16")
MNIST, CIFAR = (1, 28, 28), (3, 32, 32)


@dataclass(frozen=True)
class Bench:
    """Where and how long to measure; smoke: with the smallest sizes, to see that everything runs."""

    device: torch.device
    seconds: float
    smoke: bool

    @property
    def launches(self) -> tuple[Launch, ...]:
        return ("eager", "graph") if self.device.type == "cuda" else ("eager",)

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


@dataclass(frozen=True)
class Case:
    """A training step. passes: what it costs per image in forward passes of the model. A backward pass to the input
    counts 1, one to parameters and input 2, GAL's double backward 4; other models' passes count as the model's own."""

    shape: tuple[int, int, int]
    overrides: list[str]
    passes: int
    channels_last: bool = False


WIDE = "wide_resnet PGD-7, batch 128"
CASES = {
    "madry mnist, batch 50": Case(MNIST, ["arch=madry_mnist", "trainer=madry"], 83),
    "madry mnist, batch 50, channels_last": Case(MNIST, ["arch=madry_mnist", "trainer=madry"], 83, channels_last=True),
    "A fgsm_adv, batch 64": Case(MNIST, ["arch=mnist_a", "trainer=fgsm_adv"], 8),
    "A ensemble_adv, batch 64": Case(MNIST, ["arch=mnist_a", "trainer=ensemble_adv"], 8),
    "5 x conv3 GAL, batch 64": Case(MNIST, GAL, 6),
    "3 x resnet20 GAL, batch 64": Case(CIFAR, [*GAL, *RESNETS, "dataset=cifar10"], 6),
    "3 x resnet20 GAL, batch 64, channels_last": Case(
        CIFAR, [*GAL, *RESNETS, "dataset=cifar10"], 6, channels_last=True
    ),
    "resnet20 PGD-7, batch 128": Case(CIFAR, ["dataset=cifar10", "arch=resnet20", "trainer=madry_cifar"], 17),
    WIDE: Case(CIFAR, ["dataset=cifar10", "arch=wide_resnet", "trainer=madry_cifar"], 17),
}
PARITY = {
    "diversity": Case(MNIST, ["arch=ensemble", "trainer=diversity"], 0),
    "kurakin": Case(MNIST, ["arch=madry_mnist", "trainer=kurakin", "trainer.objective.delay=0"], 0),
    **{
        name: Case(MNIST, ["arch=madry_mnist", f"trainer={name}"], 0)
        for name in ("standard", "fgsm_adv", "rand_fgsm_adv", "ensemble_adv", "static_adv", "madry")
    },
}
PARITY_ATTACKS = ("mi_fgsm", "iter_ll", "pgd", "pgd_cw")
"""of enough steps to be captured"""


@dataclass(frozen=True)
class Measured:
    """A number; flop_per_second where it stands for floating-point operations; error where it is wrong."""

    value: float
    unit: str
    flop_per_second: float | None = None
    error: str = ""


@dataclass(frozen=True)
class Trial:
    """One row to be: what is measured, and how."""

    measurement: str
    case: str
    precision: Precision
    launch: str
    measure: Callable[[], Measured]


def parity_trials(bench: Bench) -> Iterator[Trial]:
    launch = " = ".join(bench.launches)
    for precision in PRECISIONS:
        for name, case in PARITY.items():
            yield Trial("parity", name, precision, launch, partial(training_parity, bench, case, precision))
    for precision in PRECISIONS[:2]:
        for name in PARITY_ATTACKS:
            yield Trial("parity", f"attack {name}", precision, launch, partial(attack_parity, bench, name))


def speed_trials(bench: Bench) -> Iterator[Trial]:
    """All trials, the slowest last."""
    for precision in PRECISIONS:
        yield Trial("peak", "matrix product", precision, "eager", partial(matrix_product, bench, precision))
    peer: tuple[Launch, ...] = ("torchattacks",) if importlib.util.find_spec("torchattacks") else ()
    for precision in PRECISIONS[:2]:
        for launch in (*bench.launches, *peer):
            yield Trial("attack", "PGD-40, batch 256", precision, launch, partial(attack_speed, bench, 40, 256, launch))
        for launch in bench.launches:  # what 20 restarts on 10,000 images cost where no image falls: 200 of these
            measure = partial(attack_speed, bench, 100, 1000, launch)
            yield Trial("attack", "PGD-100, batch 1000", precision, launch, measure)
    case = "A fgsm_adv, batch 64"
    for count, launch in ((1, bench.launches[-1]), (2 if bench.smoke else 4, "eager")):
        title = f"{case}, {count} processes"
        yield Trial("workers", title, "tf32", launch, partial(workers_speed, bench, CASES[case], "tf32", launch, count))
    steps = [(name, precision) for name in CASES for precision in PRECISIONS]
    for name, precision in sorted(steps, key=lambda step: step == (WIDE, "fp32")):
        for launch in bench.launches:
            measure = partial(training_speed, bench, CASES[name], precision, launch)
            yield Trial("training", name, precision, launch, measure)


TRIALS = {"parity": parity_trials, "speed": speed_trials}


def matrix_product(bench: Bench, precision: Precision) -> Measured:
    rate = peak(bench.device, precision)
    return Measured(rate / 1e12, "TFLOP/s", rate)


@cache
def peak(device: torch.device, precision: Precision) -> float:
    """FLOP/s of a large product of random matrices, under the setting of TF32 that it is called in."""
    size = 8192 if device.type == "cuda" else 512
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = (torch.randn(size, size, device=device).to(kind) for _ in range(2))
    bench = Bench(device, seconds=0.3, smoke=False)
    return 2 * size**3 * calls_per_second(bench, lambda: a @ b, warm_up=3)


def calls_per_second(bench: Bench, function: Callable[[], object], warm_up: int) -> float:
    for _ in range(warm_up):
        function()
    bench.wait()
    together = 8 if bench.device.type == "cuda" else 1
    began, calls = time.perf_counter(), 0
    while time.perf_counter() - began < bench.seconds:
        for _ in range(together):
            function()
        calls += together
        bench.wait()
    return calls / (time.perf_counter() - began)


@cache
def chosen(*overrides: str) -> dict[str, Any]:
    return composed(*overrides, "scale=paper")


def begin(bench: Bench, case: Case, precision: Precision, launch: Launch) -> tuple[TrainingState, Tensor]:
    """A training at its first step, and the images of a batch."""
    torch.manual_seed(0)
    narrow = ["arch.width=1"] if bench.smoke and "arch=wide_resnet" in case.overrides else []
    config = chosen(*case.overrides, *narrow)
    trainer: Trainer = replace(construct(Trainer, config["trainer"], where="trainer"), precision=precision)
    if bench.smoke:
        trainer = replace(trainer, batch_size=2)
    specs = [config["arch"], *(source["arch"] for source in trainer.sources.values())]
    model, *sources = (build(MODELS, spec, case.shape, 10, where="arch").to(bench.device) for spec in specs)
    if case.channels_last:
        model = model.to(memory_format=torch.channels_last)
    frozen = [source.eval().requires_grad_(False) for source in sources]
    data, captured = random_data(case.shape).to(bench.device), launch == "graph"
    state = TrainingState.begin(model, trainer, frozen, data, seed=0, cuda_graphs=captured)
    return state, torch.arange(trainer.batch_size, device=bench.device)


def training_speed(bench: Bench, case: Case, precision: Precision, launch: Launch) -> Measured:
    state, index = begin(bench, case, precision, launch)
    rate = calls_per_second(bench, partial(state.advance, index, 0.0), warm_up(bench, state))
    if launch == "graph":
        check_replayed(state.graph_cache.replays)
    return Measured(rate, "steps/s", rate * step_flop(state, case))


def warm_up(bench: Bench, state: TrainingState) -> int:
    """Steps after which every graph is recorded: a step's source is drawn at random, and has a graph of its own."""
    return 1 if bench.smoke else 24 if state.trainer.sources else 6


def step_flop(state: TrainingState, case: Case) -> float:
    return case.passes * state.trainer.batch_size * forward_flop(state.model, case.shape)


def forward_flop(model: nn.Module, shape: tuple[int, int, int]) -> float:
    """Floating-point operations of one image's forward pass."""
    model.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, *shape, device=next(model.parameters()).device))
    model.train()
    return float(counter.get_total_flops())


def check_replayed(replays: int) -> None:
    if not replays:
        raise RuntimeError("no graph was replayed: this is eager speed")


def workers_speed(bench: Bench, case: Case, precision: Precision, launch: Launch, count: int) -> Measured:
    """Steps per second of `count` processes together, each training a model of its own on the one device."""
    state, _ = begin(bench, case, precision, "eager")
    flop = step_flop(state, case)
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(count)
    with ProcessPoolExecutor(count, context, begin_worker, (barrier, count)) as pool:
        rates = [pool.submit(worker_speed, bench, case, precision, launch) for _ in range(count)]
        total = sum(rate.result() for rate in rates)
    return Measured(total, "steps/s", total * flop)


def begin_worker(barrier: Any, count: int) -> None:
    """Keep the barrier at which a worker process waits for the others."""
    globals()["started"] = barrier
    torch.set_num_threads(max(1, torch.get_num_threads() // count))


def worker_speed(bench: Bench, case: Case, precision: Precision, launch: Launch) -> float:
    torch.backends.cudnn.benchmark = True
    with allow_tf32(precision):
        state, index = begin(bench, case, precision, launch)
        for _ in range(warm_up(bench, state)):
            state.advance(index, 0.0)
        bench.wait()
        globals()["started"].wait(timeout=120)
        rate = calls_per_second(bench, partial(state.advance, index, 0.0), warm_up=0)
        if launch == "graph":
            check_replayed(state.graph_cache.replays)
    return rate


def attack_speed(bench: Bench, steps: int, batch: int, launch: Launch) -> Measured:
    """PGD on the Madry net with random weights and random images."""
    model, x, y = madry_net(bench, batch)
    steps = 2 if bench.smoke else steps
    attack: Callable[[], object]
    if launch == "torchattacks":
        import torchattacks

        attack = partial(torchattacks.PGD(model, 0.3, 0.01, steps), x, y)
    else:
        attack = partial(build(ATTACKS, {**attack_spec("pgd"), "steps": steps}, where="attack"), model, x, y)
    with graphs(bench.device) if launch == "graph" else nullcontext():
        rate = len(x) * calls_per_second(bench, attack, 1 if bench.smoke else 6)
        if launch == "graph":
            check_replayed(current.get().replays)
    return Measured(rate, "images/s", rate * 2 * steps * forward_flop(model, MNIST))


def madry_net(bench: Bench, batch: int) -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    model: nn.Module = build(MODELS, chosen("arch=madry_mnist")["arch"], MNIST, 10, where="arch").to(bench.device)
    count = 2 if bench.smoke else batch
    x, y = torch.rand(count, *MNIST, device=bench.device), torch.randint(10, (count,), device=bench.device)
    return model.eval(), x, y


def attack_spec(name: str) -> dict[str, Any]:
    spec: dict[str, Any] = chosen(f"attack={name}")["attack"][name]
    return spec


def training_parity(bench: Bench, case: Case, precision: Precision) -> Measured:
    return largest_difference([parameters_after(bench, case, precision, launch) for launch in compared(bench)])


def compared(bench: Bench) -> tuple[Launch, ...]:
    """Graph and eager; without graphs eager twice."""
    return bench.launches if len(bench.launches) == 2 else ("eager", "eager")


def parameters_after(bench: Bench, case: Case, precision: Precision, launch: Launch) -> Tensor:
    """Parameters and buffers after steps that are half replays."""
    state, index = begin(bench, case, precision, launch)
    for step in range(2 * warm_up(bench, state)):
        state.advance((index + step * len(index)) % 512, 0.0)
    if launch == "graph":
        check_replayed(state.graph_cache.replays)
    return torch.cat([t.detach().flatten().float() for t in state.model.state_dict().values()])


def attack_parity(bench: Bench, name: str) -> Measured:
    """The images of the last of six calls, after the same random numbers."""
    model, x, y = madry_net(bench, 64)
    attack, ended = build(ATTACKS, attack_spec(name), where="attack"), []
    for launch in compared(bench):
        torch.manual_seed(0)
        with graphs(bench.device) if launch == "graph" else nullcontext():
            ended.append([attack(model, x, y) for _ in range(1 if bench.smoke else 6)][-1])
            if launch == "graph":
                check_replayed(current.get().replays)
    return largest_difference(ended)


def largest_difference(ended: Sequence[Tensor]) -> Measured:
    difference = float((ended[0] - ended[1]).abs().max())
    return Measured(difference, "largest difference", error="" if difference == 0 else "graph and eager differ")


def row_of(trial: Trial, device: torch.device) -> dict[str, object]:
    """A trial's row; what it raises becomes the row's error."""
    row: dict[str, object] = dict.fromkeys(COLUMNS, "")
    row |= {name: getattr(trial, name) for name in ("measurement", "case", "precision", "launch")}
    try:
        with allow_tf32(trial.precision):
            at_most = peak(device, trial.precision)
            if device.type == "cuda":
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats(device)
            found = trial.measure()
        share = "" if found.flop_per_second is None else f"{found.flop_per_second / at_most:.4f}"
        row |= {"value": f"{found.value:.6g}", "unit": found.unit, "share_of_peak": share, "error": found.error}
        if device.type == "cuda":
            row["peak_memory_mib"] = torch.cuda.max_memory_allocated(device) // 2**20
    except Exception as error:
        row["error"] = f"{type(error).__name__}: {one_line(error)[:300]}"
    return row


def usable(device: torch.device) -> bool:
    """Whether the device still computes: after a failed capture or a fault in a kernel it may not."""
    try:
        return bool(torch.rand(8, device=device).sum().item() > 0)
    except RuntimeError:
        return False


def run(trials: Sequence[Trial], out: Path, device: torch.device, start: int = 0) -> None:
    """Append the rows of all trials from number `start` on to `out`, in a new process where one spoils the device."""
    with out.open("a" if start else "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        if not start:
            writer.writeheader()
        for number, trial in enumerate(trials[start:], start):
            row = row_of(trial, device)
            writer.writerow(row)
            file.flush()
            print(", ".join(str(value) for value in row.values() if value != ""), flush=True)
            if row["error"] and not usable(device):
                os.execv(sys.executable, [sys.executable, *sys.argv, f"--start={number + 1}"])


def failed(out: Path) -> int:
    with out.open(newline="") as file:
        return sum(bool(row["error"]) for row in csv.DictReader(file))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=TRIALS)
    parser.add_argument("--out", type=Path, required=True, help="CSV to write")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=2.0, help="of measuring, per row")
    parser.add_argument("--only", default="", help="cases whose name holds this text")
    parser.add_argument("--smoke", action="store_true", help="smallest sizes: does it run")
    parser.add_argument("--start", type=int, default=0, help="number of the first trial; its rows are appended")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda signum, _: sys.exit(128 + signum))  # worker processes end too
    device = torch.device(given.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"{name}, torch {torch.__version__}", flush=True)
    torch.backends.cudnn.benchmark = given.what == "speed"
    if given.what == "parity" and device.type == "cuda":
        torch.use_deterministic_algorithms(True, warn_only=True)
    bench = Bench(device, 0.01 if given.smoke else given.seconds, given.smoke)
    trials = [trial for trial in TRIALS[given.what](bench) if given.only in trial.case]
    run(trials, given.out, device, given.start)
    wrong = failed(given.out)
    print(f"{wrong} of {len(trials)} failed" if wrong else f"all {len(trials)} done")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
