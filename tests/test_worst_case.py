"""Error rates that stop early: the same rates as running every restart on every image, for less."""

from dataclasses import replace

import pytest
import torch
from linear import CountingModel
from torch import Tensor, nn

from epsball import evaluate
from epsball.attacks import GradientAttack, NoiseAttack, doublings
from epsball.data import Split
from epsball.progress import Stop

PGD = GradientAttack(
    eps=0.3,
    steps=20,
    step_size=0.03,
    step="sign",
    loss="cross_entropy",
    kappa=0.0,
    label="true",
    start="uniform",
    start_share=1.0,
    clip_start=True,
    momentum=0.0,
    restarts=4,
    keep="last",
)


NONE = torch.zeros(1000, dtype=torch.bool)  # no image is lost yet


def some_net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.Tanh(), nn.Linear(12, 3)).eval()


def some_images(n: int = 60) -> tuple[Tensor, Tensor, nn.Module]:
    """Images, labels that the net mostly agrees with, and the net: some stand, some are lost at once, some late."""
    model, x = some_net(), torch.rand(n, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    y = model(x).argmax(1)
    y[::7] = (y[::7] + 1) % 3
    return x, y, model


def test_doublings() -> None:
    assert [doublings(n) for n in (1, 2, 3, 8, 100)] == [
        [0, 1],
        [0, 1, 2],
        [0, 1, 2, 3],
        [0, 1, 2, 4, 8],
        [0, 1, 2, 4, 8, 16, 32, 64, 100],
    ]


@pytest.mark.parametrize("eps", [0.01, 0.05, 0.1, 0.3])
@pytest.mark.parametrize("momentum", [0.0, 1.0])
def test_the_rate_is_that_of_every_restart_on_every_image(eps: float, momentum: float) -> None:
    x, y, model = some_images()
    attack = replace(PGD, eps=eps, step_size=eps / 10, momentum=momentum)
    lost = attack.fools(model, x, y, NONE[: len(y)], torch.Generator().manual_seed(5))
    full = torch.zeros(len(x), dtype=torch.bool)
    generator = torch.Generator().manual_seed(5)
    for _ in range(attack.restarts):
        start = attack.draw_start(x, x.new_ones(()), generator)
        full |= model(attack.climb(model, x, start, x.new_ones(()), y)).argmax(1) != y
    assert lost[full].all()  # whatever the last iterates fool
    assert lost.float().mean() == pytest.approx(full.float().mean().item(), abs=1 / len(x))
    assert 0 < full.sum() < len(x) or eps in (0.3,)


def test_images_that_are_lost_cost_nothing_more() -> None:
    x, y, model = some_images()
    counted = CountingModel(model)
    standing = 1 - PGD.fools(counted, x, y, NONE[: len(y)], torch.Generator().manual_seed(5)).float().mean().item()
    looks = len(doublings(PGD.steps)) / PGD.steps  # forward passes beside the steps' own
    assert 0 < standing < 0.5
    bound = standing * (1 + looks) + (1 - standing) / PGD.restarts  # who falls, falls in the first restart, mostly
    assert counted.images < bound * PGD.restarts * PGD.steps * len(x)


def test_worst_case_over_attacks_on_the_standing() -> None:
    x, y, model = some_images()
    test = Split((x * 255).round().to(torch.uint8), y)
    weak = replace(PGD, eps=0.02, step_size=0.002, restarts=1)
    attacks = {"noise": NoiseAttack(eps=0.02, distribution="sign"), "pgd": weak}
    generators = {name: torch.Generator().manual_seed(i) for i, name in enumerate(attacks)}
    lost, seconds = evaluate.worst_case(model, attacks, test, 25, generators, Stop(), "worst")
    clean = torch.cat([model(b).argmax(1) != c for b, c in test.batches(25)])
    assert lost[clean].all() and lost.sum() > clean.sum() and not lost.all() and seconds > 0
    alone, _ = evaluate.worst_case(model, {"noise": attacks["noise"]}, test, 25, generators, Stop(), "noise")
    assert lost.sum() >= alone.sum()
    row = evaluate.worst_case_row(evaluate.clean_verdict(model, test, 25, Stop()), lost, seconds)
    assert row["error_top1"] == pytest.approx(lost.double().mean().item()) and row["n"] == len(x)


@pytest.mark.parametrize(
    "changes", [{"label": "predicted"}, {"label": "least_likely"}, {"keep": "best"}, {"loss": "entropy"}]
)
def test_every_kind_of_attack_can_stop_early(changes: dict[str, str]) -> None:
    x, y, model = some_images()
    attack = replace(PGD, **changes)  # type: ignore[arg-type]
    lost = attack.fools(model, x, y, NONE[: len(y)], torch.Generator().manual_seed(0))
    assert lost.shape == y.shape and lost.dtype is torch.bool and lost.any()
    single = replace(attack, start="none", start_share=0.0, restarts=1)
    assert single.fools(model, x, y, NONE[: len(y)]).any()


def test_the_lost_stay_lost_and_cost_nothing() -> None:
    x, y, model = some_images()
    counted, all_lost = CountingModel(model), ~NONE[: len(x)]
    assert PGD.fools(counted, x, y, all_lost, torch.Generator().manual_seed(0)).all() and counted.images == 0
