"""Cost of a training step of every kind, in steps of standard training, in one process, alternating, medians.

Targets (notes on speed): a Madry step at most 29 standard steps (the form that takes parameter gradients in the attack:
37), a GAL step of five Conv-3 at most 2.1 standard ensemble steps (published form: 3.1), an ensemble-adversarial step
with three cached sources at most 2.3.
"""

import sys
from collections.abc import Callable
from typing import Any

import torch
from bench import Table, composed, options, rounds

from epsball.build import build, construct
from epsball.data.images import Data, Split
from epsball.models import MODELS
from epsball.training.fit import TrainingState
from epsball.training.trainer import Trainer

CIFAR, MNIST = (3, 32, 32), (1, 28, 28)
GAL = ["arch=ensemble", "trainer=diversity", "trainer.objective.data=null", "trainer.augment=null"]
RESNETS = ["arch@arch.members.member=resnet20", "arch.copies=3"]
# name, image shape, arch, trainer, further overrides; the first of a group is its base
GROUPS: dict[str, list[tuple[str, tuple[int, int, int], list[str]]]] = {
    "Madry net, batch 50": [
        ("standard", MNIST, ["arch=madry_mnist", "trainer=standard", "trainer.batch_size=50"]),
        ("madry PGD-40", MNIST, ["arch=madry_mnist", "trainer=madry"]),
        ("madry PGD-40, channels_last", MNIST, ["arch=madry_mnist", "trainer=madry", "channels_last=true"]),
    ],
    "A, batch 64": [
        ("standard", MNIST, ["arch=mnist_a", "trainer=standard"]),
        ("fgsm_adv, 64 + 64", MNIST, ["arch=mnist_a", "trainer=fgsm_adv"]),
        ("ensemble_adv, live", MNIST, ["arch=mnist_a", "trainer=ensemble_adv"]),
        (
            "ensemble_adv, cached",
            MNIST,
            ["arch=mnist_a", "trainer=ensemble_adv", "trainer.objective.crafting_mode=eval", "trainer.epochs=6"],
        ),
    ],
    "5 x Conv-3, batch 64": [
        ("standard", MNIST, ["arch=ensemble", "trainer=standard"]),
        ("GAL", MNIST, GAL),
    ],
    "3 x ResNet-20, batch 64": [
        ("standard", CIFAR, ["arch=ensemble", *RESNETS, "trainer=standard"]),
        ("GAL", CIFAR, [*GAL, *RESNETS]),
    ],
    "ResNet-20, batch 64": [
        ("standard", CIFAR, ["arch=resnet20", "trainer=standard"]),
        ("madry PGD-7", CIFAR, ["arch=resnet20", "trainer=madry_cifar", "trainer.batch_size=64"]),
    ],
}
STEPS = 4  # in one timed call; rounds go on where the last left off, so a random source averages out over them


def random_data(shape: tuple[int, int, int]) -> Data:
    images = torch.randint(256, (512, *shape), dtype=torch.uint8)
    split = Split(images, torch.randint(10, (512,)))
    return Data("random", split, split, tuple(map(str, range(10))), "random pixels", "", "")


def steps_of(shape: tuple[int, int, int], overrides: list[str], device: str) -> Callable[[], None]:
    """A function that trains for STEPS steps."""
    torch.manual_seed(0)
    chosen: dict[str, Any] = composed(*overrides, "eps=0.3" if shape == MNIST else "eps=0.03")
    data = random_data(shape).to(device)
    trainer: Trainer = construct(Trainer, chosen["trainer"], where="trainer")
    model = build(MODELS, chosen["arch"], shape, 10, where="arch").to(device)
    if chosen["channels_last"]:
        model.to(memory_format=torch.channels_last)
    sources = [
        build(MODELS, s["arch"], shape, 10, where="arch").to(device).eval().requires_grad_(False)
        for s in trainer.sources.values()
    ]
    state = TrainingState.begin(model, trainer, sources, data, seed=0)
    index = torch.arange(trainer.batch_size, device=device)

    def train() -> None:
        for _ in range(STEPS):
            state.advance(index, 0.0)

    return train


def main() -> None:
    given = options("bench_training.csv", repeats=7)
    chosen = {group: members for group, members in GROUPS.items() if given.only in group}
    if not chosen:
        sys.exit(f"--only {given.only!r} is in no group's name: {', '.join(GROUPS)}")
    table = Table("group")
    for group, members in chosen.items():
        who = {name: steps_of(shape, overrides, given.device) for name, shape, overrides in members}
        table.add((group,), rounds(who, given.repeats, given.device), base="standard")
    table.write(given.out)


if __name__ == "__main__":
    main()
