"""Independent implementations as oracles: foolbox and torchattacks make the same examples where the semantics agree."""

import warnings
from functools import cache
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

from epsball.attacks.gradient import GradientAttack

EPS, STEPS, SIZE = 0.2, 10, 0.04  # the steps overshoot eps, so projection counts
NO_PEERS = "the peers are an extra: pip install -e '.[peers]'"


@pytest.fixture(scope="module")
def foolbox() -> ModuleType:
    with warnings.catch_warnings():  # foolbox 3.3.4 imports a name that scipy has moved
        warnings.filterwarnings("ignore", message="Please import `gaussian_filter`", category=DeprecationWarning)
        module: ModuleType = pytest.importorskip("foolbox", reason=NO_PEERS)
    return module


@pytest.fixture(scope="module")
def torchattacks() -> ModuleType:
    module: ModuleType = pytest.importorskip("torchattacks", reason=NO_PEERS)
    return module


@cache
def digits() -> tuple[Tensor, Tensor]:
    images, labels = load_digits(return_X_y=True)
    return torch.tensor(images / 16, dtype=torch.float32).view(-1, 1, 8, 8), torch.tensor(labels)


@cache
def net() -> nn.Module:
    """A small convolutional network, trained for a second; batch norm and dropout in eval mode."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            *(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3, stride=2), nn.ReLU()),
            *(nn.Flatten(), nn.Dropout(0.2), nn.Linear(64, 10)),
        )
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        x, y = digits()
        for i in range(60):
            rows = slice(200 + 100 * (i % 15), 300 + 100 * (i % 15))
            optimizer.zero_grad()
            F.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
    return model.eval().requires_grad_(False)


def batch() -> tuple[Tensor, Tensor]:
    """200 images that the network was not trained on."""
    x, y = digits()
    return x[:200], y[:200]


def ours(**changes: Any) -> Tensor:
    """PGD without random start, with some fields changed."""
    plain: dict[str, Any] = {
        "eps": EPS,
        "steps": STEPS,
        "step_size": SIZE,
        "step_share": None,
        "step": "sign",
        "loss": "cross_entropy",
        "kappa": 0.0,
        "label": "true",
        "start": "none",
        "start_share": 0.0,
        "clip_start": True,
        "momentum": 0.0,
        "restarts": 1,
        "keep": "last",
    }
    return GradientAttack(**(plain | changes))(net(), *batch())


def error(x: Tensor) -> float:
    return (net()(x).argmax(1) != batch()[1]).double().mean().item()


def agree(mine: Tensor, theirs: Tensor, share: float) -> None:
    """Equal but for a `share` of the pixels, whose gradient is rounded to different signs; as strong an attack."""
    differs = ((mine - theirs).abs() > 1e-5).double().mean().item()
    assert differs <= share
    assert error(mine) == pytest.approx(error(theirs), abs=0.01)
    assert error(mine) > error(batch()[0]) + 0.1  # an attack, and not on a broken network


def test_the_network_has_learned() -> None:
    assert error(batch()[0]) < 0.1


# ---- torchattacks


def test_fgsm_of_torchattacks(torchattacks: ModuleType) -> None:
    agree(ours(steps=1, step_size=None), torchattacks.FGSM(net(), eps=EPS)(*batch()), share=1e-3)


def test_pgd_of_torchattacks(torchattacks: ModuleType) -> None:
    peer = torchattacks.PGD(net(), eps=EPS, alpha=SIZE, steps=STEPS, random_start=False)
    agree(ours(), peer(*batch()), share=5e-3)


def test_bim_of_torchattacks(torchattacks: ModuleType) -> None:
    """I-FGSM: eps spent evenly."""
    peer = torchattacks.BIM(net(), eps=EPS, alpha=EPS / STEPS, steps=STEPS)
    agree(ours(step_size=None), peer(*batch()), share=5e-3)


@pytest.mark.parametrize("levels", [2, 4, 8, 16])
def test_kurakins_steps_of_torchattacks(torchattacks: ModuleType, levels: int) -> None:
    """Its steps=0 is the paper's min(eps + 4, 1.25 eps), rounded down too."""
    peer = torchattacks.BIM(net(), eps=levels / 255, alpha=1 / 255, steps=0)
    mine = ours(eps=levels / 255, step_size=1 / 255, steps="kurakin")
    assert ((mine - peer(*batch())).abs() > 1e-5).double().mean() <= 5e-3


@pytest.mark.parametrize("decay", [1.0, 0.5])
def test_mi_fgsm_of_torchattacks(torchattacks: ModuleType, decay: float) -> None:
    """It divides by the mean of |g|, we by the sum: the same signs. An all-zero gradient would give it NaN."""
    peer = torchattacks.MIFGSM(net(), eps=EPS, alpha=EPS / STEPS, steps=STEPS, decay=decay)
    agree(ours(step_size=None, momentum=decay), peer(*batch()), share=5e-3)


def test_targeted_pgd_of_torchattacks(torchattacks: ModuleType) -> None:
    peer = torchattacks.PGD(net(), eps=EPS, alpha=SIZE, steps=STEPS, random_start=False)
    peer.set_mode_targeted_least_likely(quiet=True)
    agree(ours(label="least_likely"), peer(*batch()), share=5e-3)


def test_random_starts_of_torchattacks_are_as_strong(torchattacks: ModuleType) -> None:
    torch.manual_seed(0)
    theirs = torchattacks.PGD(net(), eps=EPS, alpha=SIZE, steps=STEPS, random_start=True)(*batch())
    mine = ours(start="uniform", start_share=1.0)
    assert error(mine) == pytest.approx(error(theirs), abs=0.03)
    assert (mine - theirs).abs().max() > 0.01  # the draws differ


# ---- foolbox


def of_foolbox(foolbox: ModuleType, attack: Any) -> Tensor:
    model = foolbox.PyTorchModel(net(), bounds=(0, 1), device="cpu")
    x, y = batch()
    _, clipped, _ = attack(model, x, y, epsilons=EPS)
    return torch.as_tensor(clipped)


def test_fgsm_of_foolbox(foolbox: ModuleType) -> None:
    peer = foolbox.attacks.LinfFastGradientAttack(random_start=False)
    agree(ours(steps=1, step_size=None), of_foolbox(foolbox, peer), share=1e-3)


def test_pgd_of_foolbox(foolbox: ModuleType) -> None:
    peer = foolbox.attacks.LinfPGD(abs_stepsize=SIZE, steps=STEPS, random_start=False)
    agree(ours(), of_foolbox(foolbox, peer), share=5e-3)


def test_i_fgsm_of_foolbox(foolbox: ModuleType) -> None:
    peer = foolbox.attacks.LinfBasicIterativeAttack(abs_stepsize=EPS / STEPS, steps=STEPS, random_start=False)
    agree(ours(step_size=None), of_foolbox(foolbox, peer), share=5e-3)


def test_fast_gradient_l2_of_foolbox(foolbox: ModuleType) -> None:
    """One step of L2 length eps, clipped to the box alone."""
    theirs = of_foolbox(foolbox, foolbox.attacks.L2FastGradientAttack(random_start=False))
    mine = ours(step="l2", steps=1, step_size=None)
    torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-5)
