"""What evaluation costs: PGD-100 x 20 restarts that stops early against every restart on every image, and a transfer
matrix of 1, 2, 4 and 8 targets.

Two Madry nets are trained for a minute on the digits, one naturally, one on PGD. The full run's cost is that of one
restart on all images, measured in the same round, times 20. Targets: at most 1/30 of it on the undefended net, on the
defended one at most its accuracy's share plus 10 %; the rates are compared with a full run of 3 restarts.
"""

from dataclasses import replace
from functools import partial

import torch
from bench import Table, composed, options, rounds
from torch import Tensor, nn

from epsball.attacks import ATTACKS
from epsball.attacks.gradient import GradientAttack
from epsball.build import build, construct
from epsball.data.datasets import DATASETS
from epsball.data.images import Batched, Split
from epsball.measurements.transfer_matrix import transfer
from epsball.measurements.worst_case import find_fooled
from epsball.models import MODELS
from epsball.runtime.progress import Stop
from epsball.training.fit import TrainingControl, fit
from epsball.training.trainer import Trainer

RESTARTS, IMAGES = 20, 64
EPS = "eps=0.1"
LIGHT_PGD = (
    EPS,
    "trainer.objective.attack.steps=7",
    "trainer.objective.attack.step_share=0.3",
    "trainer.optimizer.lr=0.001",
)


def trained(trainer: str, epochs: float, arch: str = "madry_mnist", *more: str) -> nn.Module:
    """A net trained on the digits."""
    torch.manual_seed(0)
    chosen = composed(f"arch={arch}", f"trainer={trainer}", f"trainer.epochs={epochs}", *more)
    data = build(DATASETS, chosen["dataset"], where="dataset").load()
    model = build(MODELS, chosen["arch"], data.shape, 10, where="arch")
    watch = TrainingControl(trainer, Stop(), None, lambda _: None, 1e9)
    fit(model, construct(Trainer, chosen["trainer"], where="trainer"), [], data, 0, watch)
    return model.eval().requires_grad_(False)


def full_restarts(attack: GradientAttack, model: nn.Module, x: Tensor, y: Tensor, restarts: int) -> Tensor:
    """Return (N,) booleans: what the last iterates of every restart fool, nothing dropped."""
    generator, fooled = torch.Generator().manual_seed(0), torch.zeros_like(y, dtype=torch.bool)
    for _ in range(restarts):
        start = attack.draw_start(x, x.new_ones(()), generator)
        fooled |= model(attack.ascend(model, x, start, x.new_ones(()), y)).argmax(1) != y
    return fooled


def restarts(table: Table, repeats: int) -> None:
    attack = build(ATTACKS, composed("attack=pgd_100", EPS)["attack"]["pgd_100"], where="attack")
    test = build(DATASETS, composed()["dataset"], where="dataset").load().test
    test = Split(test.x[:IMAGES], test.y[:IMAGES])
    x, y = next(test.batches(IMAGES))
    for name, model in (
        ("undefended", trained("standard", 5)),
        ("defended", trained("madry", 6, "madry_mnist", *LIGHT_PGD)),
    ):
        wrong = full_restarts(attack, model, x, y, 3)
        few = {"pgd": replace(attack, restarts=3)}
        batched = Batched(test, IMAGES, Stop())
        early, _ = find_fooled(model, few, batched, {"pgd": torch.Generator().manual_seed(0)}, name)
        clean = (model(x).argmax(1) != y).float().mean().item()
        print(
            f"{name}: clean error {100 * clean:.1f} %, 3 restarts in full {100 * wrong.float().mean():.1f} %, "
            f"stopping early {100 * early.float().mean():.1f} %"
        )
        many = {"pgd": replace(attack, restarts=RESTARTS)}
        generators = {"pgd": torch.Generator().manual_seed(0)}
        who = {
            "one restart on all": partial(full_restarts, attack, model, x, y, 1),
            "20 restarts, early": partial(find_fooled, model, many, batched, generators, name),
        }
        times = rounds(who, repeats)
        times["20 restarts on all"] = [RESTARTS * t for t in times.pop("one restart on all")]
        table.add((name, f"accuracy {100 * (1 - early.float().mean()):.0f} %"), times, base="20 restarts on all")


def targets(table: Table, repeats: int) -> None:
    """FGSM and PGD-7 from one source shown to 1 to 8 targets of one kind."""
    batched = Batched(build(DATASETS, composed()["dataset"], where="dataset").load().test, 128, Stop())
    nets = [build(MODELS, composed("arch=madry_mnist")["arch"], (1, 28, 28), 10, where="arch").eval() for _ in range(8)]
    for choice, sizes in (("fgsm", (1, 2, 4, 8)), ("pgd_7", (1, 8))):
        attack = build(ATTACKS, composed(f"attack={choice}")["attack"][choice], where="attack")
        who = {
            f"{n} targets": partial(
                transfer, nets[0], attack, {str(i): nets[i] for i in range(n)}, batched, torch.Generator(), choice
            )
            for n in sizes
        }
        table.add(("matrix", choice), rounds(who, repeats), base="1 targets")


def main() -> None:
    given = options("bench_evaluation.csv", repeats=7)
    table = Table("what", "of")
    targets(table, given.repeats)
    restarts(table, min(2, given.repeats))
    table.write(given.out)


if __name__ == "__main__":
    main()
