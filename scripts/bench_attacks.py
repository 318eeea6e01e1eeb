"""Attack speed on the CPU as a ratio to a hand-written floor, in one process, alternating, medians.

    python scripts/bench_attacks.py [--repeats 7] [--out bench_attacks.csv] [--quick]

The floor of PGD-40 is 40 forward passes and 40 backward passes to the input and nothing else; of FGSM, one of each.
Libraries that are not installed are left out: pip install torchattacks foolbox adversarial-robustness-toolbox
cleverhans advertorch.
"""

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from epsball.attacks import GradientAttack
from epsball.build import build
from epsball.models import MODELS

EPS, STEP = 0.3, 0.01
PLAIN = {"activation": {"name": "relu"}, "normalise": {"name": "none"}}
SPECS = {"madry": {"name": "madry_mnist", "width": 1.0, "hidden": 1024, **PLAIN}, "A": {"name": "mnist_a", **PLAIN}}
Bench = Callable[[nn.Module, Tensor, Tensor], object]


def attack(steps: int, step_size: float | None, start: str) -> GradientAttack:
    return GradientAttack(
        eps=EPS,
        steps=steps,
        step_size=step_size,
        step="sign",
        loss="cross_entropy",
        kappa=0.0,
        label="true",
        start=start,  # type: ignore[arg-type]
        start_share=0.0 if start == "none" else 1.0,
        clip_start=True,
        momentum=0.0,
        restarts=1,
        keep="last",
    )


def floor(steps: int) -> Bench:
    """Nothing but the passes."""

    def run(model: nn.Module, x: Tensor, y: Tensor) -> None:
        for _ in range(steps):
            z = x.detach().requires_grad_()
            torch.autograd.grad(F.cross_entropy(model(z), y, reduction="sum"), z)

    return run


def by_hand(steps: int, step: float) -> Bench:
    """The attack as one would write it in a notebook."""

    def run(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        z = x + torch.empty_like(x).uniform_(-EPS, EPS) if steps > 1 else x
        for _ in range(steps):
            z = z.detach().requires_grad_()
            (g,) = torch.autograd.grad(F.cross_entropy(model(z), y, reduction="sum"), z)
            z = (z + step * g.sign()).clamp(x - EPS, x + EPS).clamp(0, 1)
        return z.detach()

    return run


def peers(model: nn.Module, steps: int, step: float) -> dict[str, Bench]:
    """The same attack by other libraries, those that are installed."""
    found: dict[str, Bench] = {}
    single = steps == 1
    try:
        import torchattacks

        of = torchattacks.FGSM(model, EPS) if single else torchattacks.PGD(model, EPS, step, steps)
        found["torchattacks"] = lambda m, x, y: of(x, y)
    except ImportError:
        pass
    try:
        import foolbox

        wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
        fb = foolbox.attacks.FGSM() if single else foolbox.attacks.LinfPGD(abs_stepsize=step, steps=steps)
        found["foolbox"] = lambda m, x, y: fb.run(wrapped, x, y, epsilon=EPS)
    except ImportError:
        pass
    try:
        from cleverhans.torch.attacks.fast_gradient_method import fast_gradient_method
        from cleverhans.torch.attacks.projected_gradient_descent import projected_gradient_descent

        inf = float("inf")
        found["cleverhans"] = (
            (lambda m, x, y: fast_gradient_method(m, x, EPS, inf, y=y))
            if single
            else (lambda m, x, y: projected_gradient_descent(m, x, EPS, step, steps, inf, y=y))
        )
    except ImportError:
        pass
    try:
        import advertorch.attacks as advertorch

        ad = (
            advertorch.GradientSignAttack(model, eps=EPS)
            if single
            else advertorch.LinfPGDAttack(model, eps=EPS, nb_iter=steps, eps_iter=step)
        )
        found["advertorch"] = lambda m, x, y: ad.perturb(x, y)
    except ImportError:
        pass
    try:
        from art.attacks.evasion import FastGradientMethod, ProjectedGradientDescentPyTorch
        from art.estimators.classification import PyTorchClassifier

        shape = (1, 28, 28)
        classifier = PyTorchClassifier(model, nn.CrossEntropyLoss(), shape, 10, clip_values=(0, 1), device_type="cpu")
        art = (
            FastGradientMethod(classifier, eps=EPS, batch_size=256)
            if single
            else ProjectedGradientDescentPyTorch(
                classifier, eps=EPS, eps_step=step, max_iter=steps, num_random_init=1, batch_size=256, verbose=False
            )
        )
        found["ART"] = lambda m, x, y: art.generate(x.numpy(), y.numpy())
    except ImportError:
        pass
    return found


def seconds(function: Bench, model: nn.Module, x: Tensor, y: Tensor) -> float:
    began = time.perf_counter()
    function(model, x, y)
    return time.perf_counter() - began


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--repeats", type=int, default=7)
    options.add_argument("--out", type=Path, default=Path("bench_attacks.csv"))
    options.add_argument("--batch", type=int, default=256)
    options.add_argument("--no-peers", action="store_true")
    given = options.parse_args()
    warnings.simplefilter("ignore")
    lines = ["attack,model,batch,who,ratio_median,ratio_low,ratio_high,ms_median"]
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, ratios to the floor of the same round")
    for name, spec in SPECS.items():
        torch.manual_seed(0)
        model = build(MODELS, spec, (1, 28, 28), 10, where=name).eval()
        x, y = torch.rand(given.batch, 1, 28, 28), torch.randint(10, (given.batch,))
        for title, steps, step in (("PGD-40", 40, STEP), ("FGSM", 1, EPS)):
            ours = attack(steps, step if steps > 1 else None, "uniform" if steps > 1 else "none")
            who: dict[str, Bench] = {"floor": floor(steps), "by hand": by_hand(steps, step), "epsball": ours}
            if not given.no_peers:
                who |= peers(model, steps, step)
            times: dict[str, list[float]] = {w: [] for w in who}
            rounds = given.repeats if steps > 1 else 5 * given.repeats
            for i in range(rounds + 1):  # the first round warms up
                for w, function in who.items():
                    taken = seconds(function, model, x, y)
                    if i:
                        times[w].append(taken)
            for w in who:
                ratios = sorted(t / f for t, f in zip(times[w], times["floor"], strict=True))
                middle, ms = statistics.median(ratios), 1000 * statistics.median(times[w])
                print(f"{title:7} {name:6} {w:13} {middle:5.2f} [{ratios[0]:.2f}, {ratios[-1]:.2f}] {ms:9.1f} ms")
                lines.append(f"{title},{name},{given.batch},{w},{middle:.4f},{ratios[0]:.4f},{ratios[-1]:.4f},{ms:.2f}")
    given.out.write_text("\n".join(lines) + "\n")
    print(f"wrote {given.out}")


if __name__ == "__main__":
    main()
