"""Attacks against linear models, whose worst input is known exactly, and every file in conf/attack."""

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from types import ModuleType
from typing import Any

import pytest
import scipy.stats
import torch
import torch.nn.functional as F
from linear import CONF, Curve, NoFloat64, batch_sizes, linear, seeded, softmax_gradient, two_class
from omegaconf import OmegaConf
from torch import Tensor, nn

from epsball import attacks
from epsball.attacks import ATTACKS, Attack, GradientAttack, NoiseAttack, entropy, margin, truncated_normal
from epsball.build import ConfigError, build
from epsball.models.wrappers import Ensemble

EPS = 0.3
FILES = sorted(p.stem for p in (CONF / "attack").glob("*.yaml"))


def gradient(**changes: Any) -> GradientAttack:
    """FGSM at EPS, with some fields changed."""
    plain: dict[str, Any] = {
        "eps": EPS,
        "steps": 1,
        "step_size": None,
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
    return GradientAttack(**(plain | changes))


def pgd(steps: int, size: float, **changes: Any) -> GradientAttack:
    """A uniform start in the whole ball, then `steps` of `size` * eps."""
    return gradient(**({"steps": steps, "step_size": EPS * size, "start": "uniform", "start_share": 1.0} | changes))


# what the papers say, by file name
SETTINGS: dict[str, Attack | None] = {
    "none": None,
    "fgsm": gradient(),
    "fgsm_pred": gradient(label="predicted"),
    "step_ll": gradient(label="least_likely"),
    "step_rnd": gradient(label="random"),
    "fast_grad_l2": gradient(step="l2"),
    "fast_grad_linf": gradient(step="linf"),
    "fast_entropy": gradient(loss="entropy"),
    "i_fgsm": gradient(steps=10),
    "mi_fgsm": gradient(steps=10, momentum=1.0),
    "iter_basic": gradient(steps="kurakin", step_size=1 / 255),
    "iter_ll": gradient(steps="kurakin", step_size=1 / 255, label="least_likely"),
    "rand_fgsm": gradient(start="sign", start_share=1 / 6),
    "rand_step_ll": gradient(start="sign", start_share=0.5, clip_start=False, label="least_likely"),
    "r_fgsm": gradient(start="uniform", start_share=1.0),
    "pgd": pgd(40, 1 / 30),
    "pgd_100": pgd(100, 1 / 30),
    "pgd_20": pgd(20, 1 / 4),
    "pgd_7": pgd(7, 1 / 4),
    "pgd_targeted": pgd(40, 1 / 30, label="random"),
    "cw": pgd(40, 1 / 30, loss="margin"),
    "cw_plus": pgd(40, 1 / 30, loss="margin", kappa=50.0),
    "pgd_cw": pgd(30, 1 / 10, loss="margin", kappa=50.0),
    "sign_noise": NoiseAttack(EPS, "sign"),
    "normal_noise": NoiseAttack(EPS, "truncated_normal"),
}
NAMED = {name: attack for name, attack in SETTINGS.items() if attack is not None}
EVERY: dict[str, Attack] = NAMED | {  # and settings that no file has
    "restarts": pgd(3, 0.5, restarts=4),
    "best": pgd(3, 0.5, keep="best"),
    "unclipped": pgd(3, 0.5, clip_start=False, label="predicted"),
    "everything": pgd(3, 0.5, step="l2", loss="margin", momentum=0.5, restarts=3, keep="best", label="random"),
}
over_files = pytest.mark.parametrize("name", NAMED)
over_all = pytest.mark.parametrize("name", EVERY)

WEIGHT = torch.tensor(
    [[1.0, -2.0, 0.5, 0.2], [-0.4, 1.0, 1.5, -3.0], [2.0, 0.7, -1.0, 0.1]], dtype=torch.float64
)  # three classes, four pixels
X = torch.tensor(
    [[0.5, 0.5, 0.5, 0.5], [0.0, 1.0, 0.1, 0.9], [0.4, 0.6, 0.3, 0.7], [0.9, 0.2, 0.8, 0.0], [0.5, 0.1, 0.6, 0.4]],
    dtype=torch.float64,
).view(5, 1, 2, 2)
Y = torch.tensor([0, 1, 2, 0, 1])
DIRECTION = torch.linspace(-1, 1, 1024, dtype=torch.float64) / 16  # of a two-class model, no weight is 0
GREY = torch.full((4, 1, 32, 32), 0.5, dtype=torch.float64)


@pytest.fixture(scope="module", autouse=True)
def resolvers(run_module: ModuleType) -> None:
    """The ${frac:...} of the files in conf/."""
    run_module.register_resolvers()


def attack_spec(name: str, eps: float) -> Any:
    """conf/attack/<name>.yaml at this eps."""
    config = OmegaConf.create({"eps": eps, "attack": OmegaConf.load(CONF / "attack" / f"{name}.yaml")})
    plain: Any = OmegaConf.to_container(config, resolve=True)
    return plain["attack"]


def logits_of(x: Tensor) -> Tensor:
    return x.flatten(1) @ WEIGHT.T


def clip(x: Tensor) -> Tensor:
    return x.clamp(0, 1)


def pixels(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).view(1, 1, 1, -1)


@cache
def small_net() -> nn.Module:
    """Dropout, batch norm with statistics of its own, three classes of 1x4x4 images."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(), nn.Linear(16, 3))
    net(torch.rand(8, 1, 4, 4))
    return net.eval()


def small_batch(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    x = torch.rand(6, 1, 4, 4, generator=seeded(1), dtype=dtype)
    x[0, 0, 0], x[1, 0, 0] = 0.0, 1.0  # pixels on the edge of the box
    return x, torch.tensor([0, 1, 2, 0, 1, 2])


# ---- every file in conf/attack


def test_every_file_has_an_entry_here() -> None:
    assert sorted(SETTINGS) == FILES


@pytest.mark.parametrize("name", FILES)
def test_file_says_what_the_paper_says(name: str) -> None:
    spec = attack_spec(name, EPS)
    assert (build(ATTACKS, spec, where="attack") if spec else None) == SETTINGS[name]


@over_files
def test_eps_0_changes_nothing(name: str) -> None:
    x, y = small_batch()
    attack = build(ATTACKS, attack_spec(name, 0.0), where="attack")
    assert torch.equal(attack(small_net(), x, y, seeded()), x)


# ---- one step from the image: the gradient of a linear model is known


def one_step(name: str) -> Tensor:
    """What the paper's formula gives for the linear model at X."""
    if name == "fgsm":
        return EPS * softmax_gradient(WEIGHT, X, Y).sign()
    if name == "fgsm_pred":
        return EPS * softmax_gradient(WEIGHT, X, logits_of(X).argmax(1)).sign()
    if name == "step_ll":
        return -EPS * softmax_gradient(WEIGHT, X, logits_of(X).argmin(1)).sign()
    g = softmax_gradient(WEIGHT, X, Y).flatten(1)
    if name == "fast_grad_l2":
        return (EPS * g / (g**2).sum(1, keepdim=True).sqrt()).view_as(X)
    if name == "fast_grad_linf":
        return (EPS * g / g.abs().max(1, keepdim=True).values).view_as(X)
    assert name == "fast_entropy"
    p = logits_of(X).softmax(1)
    h = -(p * p.log()).sum(1, keepdim=True)
    return EPS * (-(p * (p.log() + h)) @ WEIGHT).sign().view_as(X)


ONE_STEP = ["fgsm", "fgsm_pred", "step_ll", "fast_grad_l2", "fast_grad_linf", "fast_entropy"]


@pytest.mark.parametrize("name", ONE_STEP)
def test_one_step_is_the_formula(name: str) -> None:
    torch.testing.assert_close(NAMED[name](linear(WEIGHT), X, Y), clip(X + one_step(name)), rtol=0, atol=1e-12)


def test_the_one_step_attacks_differ_here() -> None:
    steps = [clip(X + one_step(name)) for name in ONE_STEP]
    assert all(not torch.equal(a, b) for i, a in enumerate(steps) for b in steps[:i])


def test_step_rnd_goes_towards_any_class_but_the_true_one() -> None:
    towards = torch.stack(
        [clip(X - EPS * softmax_gradient(WEIGHT, X, torch.full_like(Y, c)).sign()) for c in range(3)], 1
    )
    seen = set()
    for seed in range(20):
        x_adv = NAMED["step_rnd"](linear(WEIGHT), X, Y, seeded(seed))
        hits = (towards - x_adv[:, None]).abs().flatten(2).amax(2) < 1e-12  # (examples, classes)
        assert hits.any(1).all()
        assert not hits[torch.arange(len(Y)), Y].any()
        seen |= {(i, c) for i, c in hits.nonzero().tolist()}
    assert len(seen) == 2 * len(Y)


def test_random_target_is_uniform_over_the_other_classes() -> None:
    model, x, y = linear(torch.zeros(10, 1)), torch.zeros(9000, 1, 1, 1), torch.full((9000,), 3)
    target = gradient(label="random").choose_label(model, x, y, seeded())
    assert target is not None
    counts = target.bincount(minlength=10)
    assert counts[3] == 0
    assert counts[counts > 0].tolist() == pytest.approx([1000] * 9, abs=120)


def test_a_step_does_not_depend_on_the_size_of_the_gradient() -> None:
    """Confident networks have gradients whose squares underflow in float32."""
    model = two_class(torch.tensor([3e-25, 4e-25]))
    x, y = torch.full((1, 1, 1, 2), 0.5), torch.zeros(1, dtype=torch.long)
    for step, share in (("l2", (0.6, 0.8)), ("linf", (0.75, 1.0)), ("sign", (1.0, 1.0))):
        moved = (gradient(step=step)(model, x, y) - x).flatten() / EPS
        assert moved.tolist() == pytest.approx(share, abs=1e-5), step


def test_without_a_gradient_nothing_moves() -> None:
    model, x, y = two_class(torch.zeros(2)), torch.full((1, 1, 1, 2), 0.5), torch.zeros(1, dtype=torch.long)
    for step in ("sign", "l2", "linf"):
        assert torch.equal(gradient(step=step, momentum=1.0, steps=3)(model, x, y), x)


# ---- loss functions


def test_margin_and_entropy_by_hand() -> None:
    logits = torch.tensor([[3.0, 1.0, 2.0], [0.0, 5.0, 1.0]])
    assert margin(logits, torch.tensor([0, 2])).tolist() == [1.0, -4.0]
    assert entropy(torch.tensor([[0.0, 0.0, 0.0, 0.0], [50.0, 0.0, 0.0, 0.0]])).tolist() == pytest.approx(
        [1.386294, 0.0], abs=1e-6
    )


@pytest.mark.parametrize(("kappa", "moves"), [(0.0, [True, False, False]), (0.5, [True, True, False])])
def test_margin_loss_stops_once_the_margin_is_below_minus_kappa(kappa: float, moves: list[bool]) -> None:
    model = two_class(torch.ones(1, dtype=torch.float64))
    x = torch.tensor([-0.1, 0.4, 0.6], dtype=torch.float64).view(3, 1, 1, 1) + 0.2
    model.insert(1, shift := nn.Linear(1, 1, dtype=torch.float64))  # margins of label 0: 0.1, -0.4, -0.6
    nn.init.ones_(shift.weight), nn.init.constant_(shift.bias, -0.2)
    attack = gradient(loss="margin", kappa=kappa, eps=0.01)
    moved = attack(model, x, torch.zeros(3, dtype=torch.long)) - x
    assert moved.flatten().tolist() == pytest.approx([0.01 * m for m in moves], abs=1e-12)


def test_margin_loss_raises_the_largest_other_logit() -> None:
    z = logits_of(X)
    other = z.scatter(1, Y[:, None], -1e9).argmax(1)
    expected = clip(X + EPS * (WEIGHT[other] - WEIGHT[Y]).sign().view_as(X))
    attack = gradient(loss="margin", kappa=50.0)
    torch.testing.assert_close(attack(linear(WEIGHT), X, Y), expected, rtol=0, atol=1e-12)


def test_targeted_margin_loss_raises_the_target() -> None:
    z = logits_of(X)
    target = z.argmin(1)
    other = z.argmax(1)
    expected = clip(X + EPS * (WEIGHT[target] - WEIGHT[other]).sign().view_as(X))
    attack = gradient(loss="margin", kappa=0.0, label="least_likely")
    torch.testing.assert_close(attack(linear(WEIGHT), X, Y), expected, rtol=0, atol=1e-12)


def test_cw_stops_at_the_boundary() -> None:
    """Kappa 0: no more gradient on the other side, so the margin ends within one step of 0."""
    reach = EPS * DIRECTION.abs().sum()
    offset = -DIRECTION.sum() * 0.5 - reach / 2  # the margin of grey images is half of what the attack can change
    model = Curve(lambda x: x @ DIRECTION + offset)
    x_adv = NAMED["cw"](model, GREY, torch.zeros(4, dtype=torch.long), seeded())
    ends = margin(model(x_adv), torch.zeros(4, dtype=torch.long))
    assert (ends < 0).all() and (ends > -reach / 30).all()


# ---- many steps, two classes: the gradient's sign is the same everywhere

CORNER = ["fgsm", "fgsm_pred", "step_ll", "step_rnd", "i_fgsm", "mi_fgsm", "iter_basic", "iter_ll", "pgd_20", "pgd_100"]
CORNER += ["pgd_cw", "cw_plus_long"]
LONG: dict[str, Attack] = NAMED | {"cw_plus_long": pgd(60, 1 / 30, loss="margin", kappa=50.0)}


@pytest.mark.parametrize("name", CORNER)
def test_reaches_the_corner_of_box_and_ball(name: str) -> None:
    direction = torch.tensor([0.5, -0.3, 0.02, -2.0], dtype=torch.float64)
    model = two_class(direction)
    y = model(X).argmax(1)  # so true and predicted agree, and the least likely class is the other one
    towards_1 = (1 - 2 * y).double().view(-1, 1, 1, 1)
    worst = clip(X + EPS * towards_1 * direction.sign().view(1, 1, 2, 2))
    torch.testing.assert_close(LONG[name](model, X, y, seeded()), worst, rtol=0, atol=1e-12)


TRAVEL = {  # file: number of steps times step size, in eps
    "r_fgsm": 1.0,
    "pgd": 4 / 3,
    "pgd_targeted": 4 / 3,
    "cw_plus": 4 / 3,
    "pgd_7": 7 / 4,
    "pgd_20": 5.0,
    "pgd_100": 10 / 3,
    "pgd_cw": 3.0,
}


@pytest.mark.parametrize("name", TRAVEL)
def test_uniform_start_then_steps(name: str) -> None:
    """From uniform in +-eps every pixel travels the same way up to the ball's edge: how many arrive is known."""
    y = torch.zeros(4, dtype=torch.long)
    x_adv = NAMED[name](two_class(DIRECTION), GREY, y, seeded())
    moved = ((x_adv - GREY).flatten(1) * DIRECTION.sign()).flatten() / EPS  # towards the worst input
    furthest_back = min(1.0, -1 + TRAVEL[name])
    assert furthest_back - 1e-6 < moved.min() < furthest_back + 0.01
    assert moved.max() == pytest.approx(1.0, abs=1e-6)
    arrived = (moved > 1 - 1e-6).double().mean()
    assert arrived == pytest.approx(min(1.0, TRAVEL[name] / 2), abs=0.03)


@pytest.mark.parametrize("name", ["rand_fgsm", "rand_step_ll"])
def test_sign_start_spends_its_share_and_the_step_the_rest(name: str) -> None:
    attack = NAMED[name]
    assert isinstance(attack, GradientAttack)
    model = two_class(DIRECTION)
    y = model(GREY).argmax(1)
    worst = DIRECTION.sign() * (1 - 2 * y).view(-1, 1)
    moved = (attack(model, GREY, y, seeded()) - GREY).flatten(1) * worst / EPS
    same, against = 1.0, 1 - 2 * attack.start_share
    assert ((moved - same).abs() < 1e-6).double().mean() == pytest.approx(0.5, abs=0.03)
    assert (((moved - same).abs() < 1e-6) | ((moved - against).abs() < 1e-6)).all()


@pytest.mark.parametrize("clip_start", [True, False])
@pytest.mark.parametrize("share", [1 / 6, 0.5])
def test_clip_start_at_the_edge_of_the_box(clip_start: bool, share: float) -> None:
    """At pixel 0 a step down is undone by the clip, or it costs the step up twice."""
    attack = gradient(start="sign", start_share=share, clip_start=clip_start)
    black = torch.zeros_like(GREY)
    moved = attack(two_class(DIRECTION.abs()), black, torch.zeros(4, dtype=torch.long), seeded()) / EPS
    down = 1 - share if clip_start else 1 - 2 * share
    ends = (moved.view(-1, 1) - torch.tensor([1.0, down])).abs() < 1e-6
    assert ends.any(1).all()
    assert ends.double().mean(0).tolist() == pytest.approx([0.5, 0.5], abs=0.03)


def test_the_gradient_is_taken_at_the_start_clipped_or_not() -> None:
    """A slope that turns round below 0: only an unclipped start sees it."""
    model = Curve(lambda x: x.abs().sum(1))
    x, y = pixels(0.0).expand(200, 1, 1, 1), torch.zeros(200, dtype=torch.long)
    ends = {
        clip_start: set(attack(model, x, y, seeded()).flatten().mul(1000).round().int().tolist())
        for clip_start in (True, False)
        for attack in [gradient(start="sign", start_share=0.5, clip_start=clip_start)]
    }
    assert ends[False] == {0, 300}  # -0.15 goes on down, 0.15 goes up
    assert ends[True] == {0, 300}  # 0 has no slope; 0.15 goes up


def test_least_likely_is_judged_on_the_image_not_on_the_random_start() -> None:
    model = Curve(lambda x: (x - 0.5) @ DIRECTION - 1e-9)  # class 1 is least likely by a hair
    attack = gradient(start="uniform", start_share=1.0, steps=10, step_size=EPS, label="least_likely")
    start = attack.draw_start(GREY, torch.ones((), dtype=torch.float64), seeded())
    assert (model(start).argmin(1) != 1).any()  # some starts lie on the other side
    x_adv = attack(model, GREY, torch.zeros(4, dtype=torch.long), seeded())
    torch.testing.assert_close(x_adv, GREY + EPS * DIRECTION.sign().view(1, 1, 32, 32), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("levels", "steps"), [(0, 1), (1, 1), (2, 2), (4, 5), (8, 10), (16, 20), (7.98, 10)])
@pytest.mark.parametrize("name", ["iter_basic", "iter_ll"])
def test_kurakins_number_of_steps(name: str, levels: float, steps: int) -> None:
    model = two_class(DIRECTION)
    passes = batch_sizes(model)
    attack = build(ATTACKS, attack_spec(name, levels / 255), where="attack")
    attack(model, GREY, torch.zeros(4, dtype=torch.long))
    assert passes == [4] * steps


# ---- momentum


@pytest.mark.parametrize(
    ("momentum", "ends"),
    [
        (1.0, (0, 2, 2)),  # velocity after two steps: 0.01 - 0.5, 0.9 - 0.2, 0.09 + 0.3
        (0.1, (0, 0, 2)),  # 0.001 - 0.5, 0.09 - 0.2, 0.009 + 0.3
        (0.0, (0, 0, 2)),
    ],
)
def test_momentum_accumulates_l1_normalised_gradients(momentum: float, ends: tuple[float, ...]) -> None:
    """Gradients 1000 * (0.01, 0.9, 0.09), then (-0.5, -0.2, 0.3): unnormalised, pixel 0 would go up twice."""
    first = torch.tensor([10.0, 900.0, 90.0], dtype=torch.float64)
    second = torch.tensor([-0.5, -0.2, 0.3], dtype=torch.float64)
    x, h = pixels(0.5, 0.5, 0.5), 0.05
    model = Curve(lambda p: (p - 0.5) @ first + F.relu(p - 0.5 - h / 2) @ (second - first))
    attack = gradient(eps=2 * h, steps=2, momentum=momentum)
    moved = (attack(model, x, torch.zeros(1, dtype=torch.long)) - x).flatten() / h
    assert moved.tolist() == pytest.approx(ends, abs=1e-9)


def test_momentum_normalises_by_the_l1_norm() -> None:
    """A sparse gradient, then a dense one: 0.4 - 1/4 stays positive, with the L2 norm it would be 0.4 - 1/2."""
    first = torch.tensor([1.0, 1e-4, 1e-4, 1e-4], dtype=torch.float64)
    second = torch.tensor([-1.0, 1.0, 1.0, 1.0], dtype=torch.float64)
    x, h = pixels(0.5, 0.5, 0.5, 0.5), 0.05
    model = Curve(lambda p: (p - 0.5) @ first + F.relu(p - 0.5 - h / 2) @ (second - first))
    attack = gradient(eps=2 * h, steps=2, momentum=0.4)
    moved = (attack(model, x, torch.zeros(1, dtype=torch.long)) - x).flatten() / h
    assert moved.tolist() == pytest.approx([2, 2, 2, 2], abs=1e-9)


# ---- best iterate, restarts


def peak(at: float) -> Curve:
    return Curve(lambda x: -(x - at).abs().sum(1))


@pytest.mark.parametrize(("at", "last", "best"), [(0.5 + 0.11, 0.7, 0.6), (0.5 + 0.01, 0.5, 0.5), (0.9, 0.7, 0.7)])
def test_keep_best_returns_the_iterate_with_the_highest_loss(at: float, last: float, best: float) -> None:
    x, y = pixels(0.5), torch.zeros(1, dtype=torch.long)
    attack = gradient(eps=0.2, steps=2)
    assert attack(peak(at), x, y).item() == pytest.approx(last)
    assert replace(attack, keep="best")(peak(at), x, y).item() == pytest.approx(best)


def test_keep_best_chooses_per_example() -> None:
    model = Curve(lambda x: -(x[:, 0] - x[:, 1]).abs())  # the second pixel says where the first should be
    x = torch.tensor([[0.5, 0.61], [0.5, 0.9]], dtype=torch.float64).view(2, 1, 1, 2)
    x_adv = gradient(eps=0.02, steps=2, keep="best")(model, x, torch.zeros(2, dtype=torch.long))
    assert model(x_adv)[:, 1].tolist() == pytest.approx([-0.07, -0.36])


def test_keep_best_judges_the_images_it_returns() -> None:
    """A start outside the box is not an image: its loss says nothing about its projection's."""

    def f(p: Tensor) -> Tensor:  # f(1.5) = 1 outside, f(1) = -4 at its projection, f(0.6) = 0
        return (-10 * F.relu(p - 0.6) + 200 * F.relu(p - 1.25) - 400 * F.relu(p - 1.4)).squeeze(1)

    model = Curve(f)
    x, y = torch.ones(20, 1, 1, 1, dtype=torch.float64), torch.zeros(20, dtype=torch.long)
    attack = gradient(eps=0.5, start="sign", start_share=1.0, clip_start=False, step_size=0.9)
    last, best = attack(model, x, y, seeded()), replace(attack, keep="best")(model, x, y, seeded())
    assert (model(best)[:, 1] >= model(last)[:, 1] - 1e-12).all()


HILLS = pgd(10, 0.1, eps=0.4, step_size=0.04)  # fooled on the right hill only; a third of the starts lie left


def hills(x: Tensor) -> Tensor:
    """A low hill at 0.2 with f = -1, a high one at 0.8 with f = 1; the valley at 0.35."""
    return torch.where(x < 0.35, -1 - 20 * (x - 0.2).abs(), 1 - 11.1 * (x - 0.8).abs()).sum(1)


def test_restarts_find_what_one_start_misses() -> None:
    model, x, y = Curve(hills), torch.full((60, 1, 1, 1), 0.5), torch.zeros(60, dtype=torch.long)
    once = model(HILLS(model, x, y, seeded())).argmax(1)
    often = model(replace(HILLS, restarts=20)(model, x, y, seeded())).argmax(1)
    assert 0.5 < once.double().mean() < 0.95
    assert often.all()


def test_a_fooled_example_is_never_given_up() -> None:
    model, x, y = Curve(hills), torch.full((60, 1, 1, 1), 0.5), torch.zeros(60, dtype=torch.long)
    once, often = HILLS(model, x, y, seeded()), replace(HILLS, restarts=5)(model, x, y, seeded())
    fooled = model(once).argmax(1) != y
    assert torch.equal(once[fooled], often[fooled])
    assert not torch.equal(once[~fooled], often[~fooled])


def test_restarts_keep_the_highest_loss_of_what_stands() -> None:
    """Nothing is ever fooled: the result is, per example, the best of the same starts one by one."""
    model = Curve(lambda x: torch.sin(40 * x).sum(1) - 10)
    x, y = torch.rand(12, 1, 1, 2, generator=seeded(3)), torch.zeros(12, dtype=torch.long)
    attack, generator = pgd(2, 0.02), seeded()
    singles = torch.stack([model(attack(model, x, y, generator))[:, 1] for _ in range(4)])
    together = model(replace(attack, restarts=4)(model, x, y, seeded()))[:, 1]
    assert len(singles.argmax(0).unique()) > 1
    torch.testing.assert_close(together, singles.amax(0))


def fates(first: float, others: float) -> tuple[Curve, Tensor]:
    """Hills under pixel 0, raised or lowered by pixel 1, which no gradient changes."""
    x = torch.full((8, 1, 1, 2), 0.5)
    x[:, 0, 0, 1] = others
    x[0, 0, 0, 1] = first
    return Curve(lambda p: hills(p[:, :1]) + 100 * (p[:, 1].detach() - 0.5).round(decimals=1)), x


@pytest.mark.parametrize("name", ["restarts", "everything"])
@pytest.mark.parametrize("shrunk", [False, True])
def test_a_device_that_keeps_the_fooled_in_the_batch_gives_the_same_examples(
    name: str, shrunk: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y = torch.rand(40, 1, 4, 4, generator=seeded(2), dtype=torch.float64), torch.arange(40) % 3
    net, attack = copy.deepcopy(small_net()).double(), replace(EVERY[name], eps=0.05, step_size=0.02)
    shrink = torch.linspace(0.5, 1, 40, dtype=torch.float64) if shrunk else None
    dropped = attack(net, x, y, seeded(), shrink=shrink)
    seen = batch_sizes(net)
    attack(net, x, y, seeded(), shrink=shrink)
    assert min(seen) < max(seen) == 40  # some were fooled, some stood
    monkeypatch.setattr(attacks, "worth_attacking", lambda _: slice(None))
    seen.clear()
    kept = attack(net, x, y, seeded(), shrink=shrink)
    assert set(seen) == {40}
    torch.testing.assert_close(kept, dropped, rtol=0, atol=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_one_examples_result_does_not_depend_on_the_others_fate(seed: int) -> None:
    attack, y = replace(HILLS, restarts=6, eps=0.04, start_share=1.0, step_size=0.004), torch.zeros(8, dtype=torch.long)
    results = []
    for others in (0.0, 0.5, 1.0):  # never fooled, perhaps, always
        model, x = fates(0.5, others)
        results.append(attack(model, x, y, seeded(seed))[0])
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


def test_the_next_batchs_draws_do_not_depend_on_this_ones_fate() -> None:
    """An evaluation hands one generator from batch to batch."""
    attack, y, states = replace(HILLS, restarts=6), torch.zeros(8, dtype=torch.long), []
    for others in (0.0, 1.0):
        model, x = fates(others, others)
        generator = seeded()
        attack(model, x, y, generator)
        states.append(generator.get_state())
    assert torch.equal(states[0], states[1])


# ---- an ensemble as source


def test_an_ensembles_gradient_is_that_of_the_mean_cross_entropy() -> None:
    other = 3 * WEIGHT.flip(0) + 0.3
    expected = (softmax_gradient(WEIGHT, X, Y) + softmax_gradient(other, X, Y)).flatten(1)
    expected = clip(X + (EPS * F.normalize(expected)).view_as(X))
    of_mean_logits = softmax_gradient((WEIGHT + other) / 2, X, Y).flatten(1)
    assert not torch.allclose(expected, clip(X + (EPS * F.normalize(of_mean_logits)).view_as(X)))
    for rule in ("mean_probability", "mean_logit", "vote"):
        ensemble = Ensemble([linear(WEIGHT), linear(other)], rule)
        torch.testing.assert_close(gradient(step="l2")(ensemble, X, Y), expected, rtol=0, atol=1e-12)


def test_an_ensembles_predicted_label_is_the_ensembles_own() -> None:
    """The first member alone predicts otherwise."""
    confident, weak = WEIGHT * 20, WEIGHT.flip(0)
    ensemble = Ensemble([linear(weak), linear(confident)], "mean_logit")
    label = ensemble(X).argmax(1)
    assert not torch.equal(label, linear(weak)(X).argmax(1))
    g = (softmax_gradient(weak, X, label) + softmax_gradient(confident, X, label)).flatten(1)
    expected = clip(X + (EPS * F.normalize(g)).view_as(X))
    torch.testing.assert_close(gradient(step="l2", label="predicted")(ensemble, X, Y), expected, rtol=0, atol=1e-12)


# ---- noise


def test_sign_noise_moves_every_pixel_by_eps() -> None:
    moved = (NAMED["sign_noise"](small_net(), GREY, Y[:4], seeded()) - GREY) / EPS
    torch.testing.assert_close(moved.abs(), torch.ones_like(moved))
    assert moved.mean() == pytest.approx(0, abs=0.05)


def test_normal_noise_has_half_eps_as_deviation_before_the_cut() -> None:
    """Cut off at two deviations, a normal keeps 0.8796 of its deviation."""
    moved = (NAMED["normal_noise"](small_net(), GREY, Y[:4], seeded()) - GREY) / EPS
    assert moved.abs().max() <= 1 and moved.abs().max() > 0.95
    assert moved.std() == pytest.approx(0.5 * 0.8796, abs=0.02)


def test_truncated_normal_has_the_distribution_that_it_says() -> None:
    noise = truncated_normal(torch.Size([200, 1000]), torch.device("cpu"), seeded())
    true = scipy.stats.truncnorm(-2, 2, scale=0.5)
    n = noise.numel()
    assert noise.mean().item() == pytest.approx(0, abs=4 * true.std() / n**0.5)
    assert noise.std().item() == pytest.approx(true.std(), rel=4 / n**0.5)  # 0.8796 * 0.5
    distance = scipy.stats.kstest(noise.flatten().double().numpy(), true.cdf).statistic
    assert distance < 1.95 / n**0.5  # one sample in a thousand is further from its distribution
    other = scipy.stats.truncnorm(-2, 2, scale=0.52)  # so small a difference would be seen
    assert scipy.stats.kstest(noise.flatten().double().numpy(), other.cdf).statistic > 1.95 / n**0.5


def test_truncated_normal_draws_from_its_generator() -> None:
    shape, cpu = torch.Size([7, 3]), torch.device("cpu")
    state = torch.get_rng_state()
    first, second = (truncated_normal(shape, cpu, seeded(3)) for _ in range(2))
    assert torch.equal(first, second) and first.dtype is torch.float32 and first.shape == shape
    assert not torch.equal(first, truncated_normal(shape, cpu, seeded(4)))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("uniform", [0.0, 2**-24, 0.5, 1 - 2**-24])
def test_truncated_normal_is_finite_and_inside_at_the_ends_of_the_uniform(
    uniform: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "rand", lambda shape, **_: torch.full(shape, uniform))
    noise = truncated_normal(torch.Size([4]), torch.device("cpu"))
    assert noise.abs().max() <= 1 and noise[0] == pytest.approx(round(2 * uniform - 1), abs=1e-5)


# ---- promises of every attack


@over_all
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_inside_box_and_ball_same_shape_and_dtype(name: str, dtype: torch.dtype) -> None:
    x, y = small_batch(dtype)
    x_adv = EVERY[name](copy.deepcopy(small_net()).to(dtype), x, y, seeded())
    assert x_adv.shape == x.shape and x_adv.dtype == dtype and not x_adv.requires_grad
    assert x_adv.min() >= 0 and x_adv.max() <= 1
    assert (x_adv - x).abs().max() <= EPS + 1e-6
    assert not torch.equal(x_adv, x)


@over_all
def test_nothing_else_changes(name: str) -> None:
    """No parameter gradient, no mode, no buffer in eval mode, not the images, not the global random state."""
    net, (x, y) = copy.deepcopy(small_net()), small_batch()
    x_before, y_before, state = x.clone(), y.clone(), copy.deepcopy(net.state_dict())
    torch.manual_seed(5)
    drawn = torch.get_rng_state()
    EVERY[name](net, x, y, seeded())
    assert torch.equal(torch.get_rng_state(), drawn)
    assert all(p.grad is None and p.requires_grad for p in net.parameters())
    assert torch.equal(x, x_before) and torch.equal(y, y_before) and not x.requires_grad
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())


@over_all
def test_every_modules_mode_is_left_alone(name: str) -> None:
    net = copy.deepcopy(small_net())
    net.train()
    net[1].eval()
    modes = [m.training for m in net.modules()]
    EVERY[name](net, *small_batch(), seeded())
    assert [m.training for m in net.modules()] == modes


@over_all
def test_same_seed_same_examples_and_no_grad_changes_nothing(name: str) -> None:
    x, y = small_batch()
    first = EVERY[name](small_net(), x, y, seeded(7))
    with torch.no_grad():
        again = EVERY[name](small_net(), x, y, seeded(7))
    assert torch.equal(first, again)


@over_all
def test_deterministic_says_whether_anything_is_drawn(name: str) -> None:
    generator = seeded()
    before = generator.get_state()
    EVERY[name](small_net(), *small_batch(), generator)
    assert torch.equal(generator.get_state(), before) == EVERY[name].deterministic


@over_all
def test_without_a_generator_the_global_one_is_drawn_from(name: str) -> None:
    x, y = small_batch()
    torch.manual_seed(11)
    first = EVERY[name](small_net(), x, y)
    torch.manual_seed(11)
    assert torch.equal(first, EVERY[name](small_net(), x, y))


@over_all
def test_images_that_require_a_gradient_get_none(name: str) -> None:
    x, y = small_batch()
    x.requires_grad_()
    assert not EVERY[name](small_net(), x, y, seeded()).requires_grad
    assert x.grad is None


@over_all
def test_shrink_scales_each_examples_whole_attack(name: str) -> None:
    """Example i is what an attack of shrink[i] * eps, in steps of shrink[i] * step_size, makes of it."""
    x, y = small_batch(torch.float64)
    net, attack = copy.deepcopy(small_net()).double(), EVERY[name]
    shrink = torch.tensor([0.0, 0.2, 0.4, 0.6, 0.8, 1.0], dtype=torch.float64)
    together = attack(net, x, y, seeded(), shrink=shrink)
    assert torch.equal(together[0], x[0])
    for i, share in enumerate(shrink.tolist()[1:], 1):
        alone = scaled(attack, share)(net, x, y, seeded())[i]
        torch.testing.assert_close(together[i], alone, rtol=0, atol=1e-7)  # starts are drawn in float32


def scaled(attack: Attack, share: float) -> Attack:
    """The attack with everything but its number of steps times `share`."""
    if isinstance(attack, NoiseAttack):
        return replace(attack, eps=attack.eps * share)
    assert isinstance(attack, GradientAttack)
    size = None if attack.step_size is None else attack.step_size * share
    return replace(attack, eps=attack.eps * share, step_size=size, steps=attack.number_of_steps)


@over_all
def test_no_attack_waits_for_the_device(name: str) -> None:
    """The meta device computes shapes alone: whatever reads a number back fails there, as it fails in a capture."""
    x, y = (t.to("meta") for t in small_batch())
    net = copy.deepcopy(small_net()).to("meta")
    for shrink in (None, torch.ones(6, device="meta")):
        x_adv = EVERY[name](net, x, y, shrink=shrink)
        assert x_adv.shape == x.shape and x_adv.device.type == "meta"


@over_all
def test_no_attack_computes_in_float64(name: str) -> None:
    """Not every device has it."""
    with NoFloat64("cpu"):
        EVERY[name](small_net(), *small_batch(), seeded())


def test_the_steps_in_parts_are_the_steps_at_once() -> None:
    x, y = small_batch()
    for momentum in (0.0, 0.5):
        for label in ("true", "predicted"):
            attack = gradient(steps=14, momentum=momentum, label=label, eps=0.1)
            chosen = attack.choose_label(small_net(), x, y, None)
            state = attack.begin(x, x, x.new_ones(()), chosen)
            for steps in (1, 5, 8):  # two of them long enough for a graph
                attack.advance_captured(small_net(), state, steps)
            assert torch.equal(state.x_adv, attack(small_net(), x, y)), (momentum, label)


def test_an_example_does_not_depend_on_the_rest_of_the_batch() -> None:
    x, y = small_batch()
    for name in ("fgsm", "fast_grad_l2", "mi_fgsm", "iter_ll"):
        whole, alone = NAMED[name](small_net(), x, y), NAMED[name](small_net(), x[2:3], y[2:3])
        torch.testing.assert_close(whole[2:3], alone, rtol=0, atol=1e-6)


# ---- settings that make no sense

BAD: list[tuple[dict[str, Any], str]] = [
    ({"eps": -0.1}, "eps"),
    ({"eps": 1.5}, "eps"),
    ({"eps": float("nan")}, "eps"),
    ({"steps": 0}, "steps"),
    ({"steps": -3}, "steps"),
    ({"step_size": -0.1}, "step_size"),
    ({"step_size": float("nan")}, "step_size"),
    ({"start_share": 0.5}, "start_share"),
    ({"start": "uniform"}, "start_share"),
    ({"start": "uniform", "start_share": 1.1}, "start_share"),
    ({"start": "sign", "start_share": -0.1}, "start_share"),
    ({"kappa": -1.0}, "kappa"),
    ({"momentum": -1.0}, "momentum"),
    ({"restarts": 0}, "restarts"),
    ({"restarts": 2}, "restarts"),
]


@pytest.mark.parametrize(("changes", "field"), BAD, ids=str)
def test_bad_settings_name_their_field(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(ValueError, match=f"^{field} should be ") as caught:
        gradient(**changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("eps", [-0.1, 1.5])
def test_noise_of_a_bad_size_is_refused(eps: float) -> None:
    with pytest.raises(ValueError, match=r"^eps should be a float in \[0, 1\]"):
        NoiseAttack(eps, "sign")


def test_the_callers_key_stands_before_the_field() -> None:
    spec = {**attack_spec("pgd", EPS), "eps": 1.5}
    with pytest.raises(ConfigError, match=r"^pgd\.eps should be a float in \[0, 1\], is 1\.5$"):
        build(ATTACKS, spec, where="pgd")


REFUSED: list[tuple[Callable[[dict[str, Any]], dict[str, Any]], str]] = [
    (lambda s: s | {"eps": "8/255"}, "pgd.eps should be a float, is '8/255' (write ${frac:8,255})"),
    (lambda s: s | {"eps": True}, "pgd.eps should be a float, is True"),
    (lambda s: s | {"esp": 0.1}, "pgd.esp is not a field (did you mean 'eps'?): the fields are eps, steps, "),
    (lambda s: s | {"name": "gradeint"}, "pgd.name is 'gradeint' (did you mean 'gradient'?): choose one of gradient, "),
    (lambda s: {k: v for k, v in s.items() if k != "eps"}, "pgd.eps is missing: it should be a float"),
    (lambda s: {k: v for k, v in s.items() if k != "name"}, "pgd.name is missing: choose one of gradient, noise"),
    (lambda s: s | {"steps": 4.5}, "pgd.steps should be an int or one of kurakin, is 4.5"),
    (lambda s: s | {"label": "least"}, "pgd.label should be one of true, predicted, least_likely, random, is 'least'"),
    (lambda s: s | {"step_size": "1/255"}, "pgd.step_size should be a float or null, is '1/255' (write ${frac:1,255})"),
]


@pytest.mark.parametrize(("change", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_what_a_user_gets_wrong_is_told_in_one_line(
    change: Callable[[dict[str, Any]], dict[str, Any]], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        build(ATTACKS, change(attack_spec("pgd", EPS)), where="pgd")
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)
