"""Attack speed as a ratio to a hand-written floor, in one process, alternating, medians.

The floor of PGD-40 is 40 forward passes and 40 backward passes to the input and nothing else; of FGSM, one of each.
Libraries that are not installed are left out: pip install torchattacks foolbox adversarial-robustness-toolbox
cleverhans advertorch.
"""

import warnings
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from bench import Table, composed, options, rounds
from torch import Tensor, nn

from epsball.attacks import ATTACKS
from epsball.build import build
from epsball.models import MODELS

EPS, STEP = 0.3, 0.01
BATCHES = {"madry_mnist": 256, "mnist_a": 64}  # A at 256 takes four times as long: --batch 256
Attack = Callable[[nn.Module, Tensor, Tensor], object]


def floor(steps: int) -> Attack:
    """Nothing but the passes."""

    def run(model: nn.Module, x: Tensor, y: Tensor) -> None:
        for _ in range(steps):
            z = x.detach().requires_grad_()
            torch.autograd.grad(F.cross_entropy(model(z), y, reduction="sum"), z)

    return run


def torchattacks_(model: nn.Module, steps: int) -> Attack:
    import torchattacks

    attack = torchattacks.FGSM(model, EPS) if steps == 1 else torchattacks.PGD(model, EPS, STEP, steps)
    return lambda _, x, y: attack(x, y)


def foolbox_(model: nn.Module, steps: int) -> Attack:
    import foolbox

    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    attack = foolbox.attacks.FGSM() if steps == 1 else foolbox.attacks.LinfPGD(abs_stepsize=STEP, steps=steps)
    return lambda _, x, y: attack.run(wrapped, x, y, epsilon=EPS)


def cleverhans_(model: nn.Module, steps: int) -> Attack:
    from cleverhans.torch.attacks.fast_gradient_method import fast_gradient_method
    from cleverhans.torch.attacks.projected_gradient_descent import projected_gradient_descent

    inf = float("inf")
    if steps == 1:
        return lambda m, x, y: fast_gradient_method(m, x, EPS, inf, y=y)
    return lambda m, x, y: projected_gradient_descent(m, x, EPS, STEP, steps, inf, y=y)


def advertorch_(model: nn.Module, steps: int) -> Attack:
    from advertorch.attacks import GradientSignAttack, LinfPGDAttack

    pgd = LinfPGDAttack(model, eps=EPS, nb_iter=steps, eps_iter=STEP)
    attack = GradientSignAttack(model, eps=EPS) if steps == 1 else pgd
    return lambda _, x, y: attack.perturb(x, y)


def art_(model: nn.Module, steps: int) -> Attack:
    from art.attacks.evasion import FastGradientMethod, ProjectedGradientDescentPyTorch
    from art.estimators.classification import PyTorchClassifier

    shape, loss = (1, 28, 28), nn.CrossEntropyLoss()
    of = PyTorchClassifier(model, loss, shape, 10, clip_values=(0, 1), device_type="cpu")
    settings = {"eps_step": STEP, "max_iter": steps, "num_random_init": 1, "verbose": False}
    pgd = ProjectedGradientDescentPyTorch(of, eps=EPS, batch_size=256, **settings)
    attack = FastGradientMethod(of, eps=EPS, batch_size=256) if steps == 1 else pgd
    return lambda _, x, y: attack.generate(x.numpy(), y.numpy())


PEERS = {
    "torchattacks": torchattacks_,
    "foolbox": foolbox_,
    "cleverhans": cleverhans_,
    "advertorch": advertorch_,
    "ART": art_,
}


def installed(model: nn.Module, steps: int) -> dict[str, Attack]:
    """The same attack by the other libraries that are here."""
    found = {}
    for name, make in PEERS.items():
        try:
            found[name] = make(model, steps)
        except (ImportError, AttributeError) as error:
            print(f"without {name}: {error}")
    return found


def main() -> None:
    given = options("bench_attacks.csv", repeats=7)
    warnings.simplefilter("ignore")
    table = Table("attack", "model", "batch")
    for arch, usual in BATCHES.items():
        batch = given.batch or usual
        torch.manual_seed(0)
        model = build(MODELS, composed(f"arch={arch}")["arch"], (1, 28, 28), 10, where="arch").eval()
        x, y = torch.rand(batch, 1, 28, 28), torch.randint(10, (batch,))
        for title, steps, choice in (("PGD-40", 40, "pgd"), ("FGSM", 1, "fgsm")):
            ours = build(ATTACKS, composed(f"attack={choice}")["attack"][choice], where="attack")
            who: dict[str, Attack] = {"floor": floor(steps), "epsball": ours, **installed(model, steps)}
            calls = {name: partial(attack, model, x, y) for name, attack in who.items()}
            repeats = given.repeats if steps > 1 else 3 * given.repeats
            table.add((title, arch, str(batch)), rounds(calls, repeats), base="floor")
    table.write(given.out)


if __name__ == "__main__":
    main()
