"""The gradient attacks against linear models, whose worst input is known exactly."""

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from every_attack import EPS, EVERY, GREY, NAMED, attack_spec, gradient, pgd, small_batch, small_net
from linear import Curve, Function, batch_sizes, linear, seeded, softmax_gradient, towards_1, two_class
from torch import Tensor, nn

from epsball.attacks import ATTACKS
from epsball.attacks.attack import Attack
from epsball.attacks.gradient import AttackState, GradientAttack
from epsball.attacks.losses import margin
from epsball.build import build
from epsball.models.wrappers import Ensemble

WEIGHT = torch.tensor(
    [[1.0, -2.0, 0.5, 0.2], [-0.4, 1.0, 1.5, -3.0], [2.0, 0.7, -1.0, 0.1]], dtype=torch.float64
)  # three classes, four pixels
X = torch.tensor(
    [[0.5, 0.5, 0.5, 0.5], [0.0, 1.0, 0.1, 0.9], [0.4, 0.6, 0.3, 0.7], [0.9, 0.2, 0.8, 0.0], [0.5, 0.1, 0.6, 0.4]],
    dtype=torch.float64,
).view(5, 1, 2, 2)
Y = torch.tensor([0, 1, 2, 0, 1])
DIRECTION = torch.linspace(-1, 1, 1024, dtype=torch.float64) / 16  # of a two-class model, no weight is 0


def logits_of(x: Tensor) -> Tensor:
    return x.flatten(1) @ WEIGHT.T


def clip(x: Tensor) -> Tensor:
    return x.clamp(0, 1)


def pixels(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).view(1, 1, 1, -1)


# ---- one step from the image: the gradient of a linear model is known


def one_step(name: str) -> Tensor:
    """Return what the paper's formula gives for the linear model at X."""
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


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("keep", ["last", "best"])
@pytest.mark.parametrize("step", ["sign", "l2", "linf"])
def test_a_gradient_that_is_no_number_gives_no_example(step: str, keep: str, steps: int) -> None:
    """NaN, which a measurement refuses. torch.sign makes 0 of it: FGSM stood still, and the model looked robust."""
    model = Curve(lambda x: (x[:, 0] - 0.5).sqrt() + x[:, 1])  # its root's slope at 0 is infinite, below there is none
    x = torch.tensor([[0.4, 0.5], [0.9, 0.5]], dtype=torch.float64).view(2, 1, 1, 2)
    x_adv = gradient(step=step, keep=keep, steps=steps, eps=0.1)(model, x, torch.zeros(2, dtype=torch.long))
    assert x_adv[0].isnan().any() and x_adv[1].isfinite().all()


@pytest.mark.parametrize(("kappa", "moves"), [(0.0, [True, False, False]), (0.5, [True, True, False])])
def test_margin_loss_stops_once_the_margin_is_below_minus_kappa(kappa: float, moves: list[bool]) -> None:
    model = two_class(torch.ones(1, dtype=torch.float64))
    x = torch.tensor([-0.1, 0.4, 0.6], dtype=torch.float64).view(3, 1, 1, 1) + 0.2
    model.insert(1, shift := nn.Linear(1, 1, dtype=torch.float64))  # margins of label 0: 0.1, -0.4, -0.6
    nn.init.ones_(shift.weight), nn.init.constant_(shift.bias, -0.2)
    attack = gradient(loss="margin", kappa=kappa, eps=0.01)
    moved = attack(model, x, torch.zeros(3, dtype=torch.long)) - x
    assert moved.flatten().tolist() == pytest.approx([0.01 * m for m in moves], abs=1e-12)


@pytest.mark.parametrize("label", ["true", "predicted", "least_likely"])
@pytest.mark.parametrize("model", [linear(WEIGHT), Ensemble([linear(WEIGHT), linear(3 * WEIGHT.flip(0))], "vote")])
def test_log_cross_entropy_leads_where_cross_entropy_does(label: str, model: nn.Module) -> None:
    by_log, by_itself = (gradient(loss=loss, label=label) for loss in ("log_cross_entropy", "cross_entropy"))
    torch.testing.assert_close(by_log(model, X, Y), by_itself(model, X, Y), rtol=0, atol=0)


@pytest.mark.parametrize("attack", [gradient(eps=0.05), gradient(eps=0.05, steps=10, momentum=1.0)])
def test_log_cross_entropy_leads_there_in_float32_too_where_its_gradient_is_rounded(attack: GradientAttack) -> None:
    """Margins of 22 to 25. The first pixel speaks for the label, and half as much for the other class."""
    weight = torch.tensor([[2.0, 0.0], [1.0, 1.0]], dtype=torch.float64)
    sure = linear(31 * weight)
    x, y = torch.tensor([[0.9, 0.1]], dtype=torch.float64).view(1, 1, 1, 2), torch.zeros(1, dtype=torch.long)
    exact = attack(sure, x, y)
    single = sure.float()
    assert not torch.equal(attack(single, x.float(), y), exact.float())
    torch.testing.assert_close(replace(attack, loss="log_cross_entropy")(single, x.float(), y), exact.float())


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
    model = Curve(lambda x: (x + 0.02).abs().sum(1))
    x, y = pixels(0.0).expand(200, 1, 1, 1), torch.zeros(200, dtype=torch.long)
    ends = {
        clip_start: set(attack(model, x, y, seeded()).flatten().mul(1000).round().int().tolist())
        for clip_start in (True, False)
        for attack in [gradient(start="sign", start_share=1 / 6, clip_start=clip_start)]
    }
    assert ends[False] == {0, 300}  # -0.05 goes on down, 0.05 goes up
    assert ends[True] == {250, 300}  # 0, too, goes up


@pytest.mark.parametrize("loss", ["margin", "entropy"])
def test_an_ensembles_other_losses_are_the_mean_of_its_members(loss: str) -> None:
    other, attack = 3 * WEIGHT.flip(0) + 0.3, gradient(loss=loss, kappa=50.0 if loss == "margin" else 0.0)
    own = [attack.gradient(linear(weight), X, Y)[1] for weight in (WEIGHT, other)]
    both = attack.gradient(Ensemble([linear(WEIGHT), linear(other)], "mean_logit"), X, Y)[1]
    torch.testing.assert_close(both, sum(own) / 2)
    assert not torch.allclose(own[0], own[1])


def test_restarts_keep_the_highest_of_what_the_attack_increases() -> None:
    x, y = torch.full((12, 1, 1, 1), 0.5), torch.zeros(12, dtype=torch.long)
    attack, generator = pgd(1, 1e-3, eps=0.25, label="least_likely"), seeded()
    singles = torch.stack([attack(Function(towards_1), x, y, generator) for _ in range(4)])
    together = replace(attack, restarts=4)(Function(towards_1), x, y, seeded())
    torch.testing.assert_close(together, singles.amax(0))


@pytest.mark.parametrize(("kappa", "moves"), [(0.0, [1.0, 0.0, 0.0]), (0.5, [1.0, 1.0, 0.0])])
def test_a_targeted_margin_goes_on_until_kappa(kappa: float, moves: list[float]) -> None:
    attack = gradient(loss="margin", kappa=kappa, label="least_likely", eps=0.01)
    x = torch.tensor([0.1, 0.7, 0.9], dtype=torch.float64).view(3, 1, 1, 1)  # margins of class 1: -0.8, 0.4, 0.8
    slope = attack.gradient(Curve(lambda p: 2 * p.sum(1) - 1), x, torch.ones(3, dtype=torch.long))[1]
    assert slope.flatten().sign().tolist() == moves


def test_least_likely_is_judged_on_the_image_not_on_the_random_start() -> None:
    model = Curve(lambda x: (x - 0.5) @ DIRECTION - 1e-9)  # class 1 is least likely by a hair
    attack = gradient(start="uniform", start_share=1.0, steps=10, step_size=EPS, label="least_likely")
    start = attack.draw_start(GREY, torch.ones((), dtype=torch.float64), seeded())
    assert (model(start).argmin(1) != 1).any()  # some starts lie on the other side
    x_adv = attack(model, GREY, torch.zeros(4, dtype=torch.long), seeded())
    torch.testing.assert_close(x_adv, GREY + EPS * DIRECTION.sign().view(1, 1, 32, 32), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("levels", "steps"), [(0, 1), (1, 1), (2, 2), (3, 3), (4, 5), (6, 7), (8, 10), (16, 20), (7.98, 10)]
)
@pytest.mark.parametrize("name", ["iter_basic", "iter_ll"])
def test_kurakins_number_of_steps(name: str, levels: float, steps: int) -> None:
    """min(e + 4, 1.25 e), cut: 3.75 are 3 steps and 7.5 are 7."""
    model = two_class(DIRECTION)
    passes = batch_sizes(model)
    attack = build(ATTACKS, attack_spec(name, levels / 255), where="attack")
    attack(model, GREY, torch.zeros(4, dtype=torch.long))
    assert passes == [4] * steps


@pytest.mark.parametrize(("levels", "steps"), [(1, 2), (2, 3), (3, 4), (4, 5), (6, 8), (8, 10), (16, 20)])
def test_kurakins_number_of_steps_may_be_rounded_up(levels: float, steps: int) -> None:
    attack = build(ATTACKS, attack_spec("iter_ll", levels / 255) | {"steps": "kurakin_up"}, where="attack")
    assert attack.number_of_steps == steps


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


@pytest.mark.parametrize("start", ["none", "sign"])
def test_keep_best_does_not_ask_whether_a_start_is_clipped_where_none_leaves_the_box(start: str) -> None:
    x, y = torch.full((20, 1, 1, 1), 0.5, dtype=torch.float64), torch.zeros(20, dtype=torch.long)
    fields = {} if start == "none" else {"start": "sign", "start_share": 0.5}
    model, clipped = peak(0.57), gradient(eps=0.2, steps=3, step_size=0.15, keep="best", **fields)
    last, best = (replace(clipped, clip_start=False, keep=keep)(model, x, y, seeded()) for keep in ("last", "best"))
    assert torch.equal(best, clipped(model, x, y, seeded()))
    assert (model(best) > model(last))[:, 1].any()


def test_keep_best_looks_at_every_iterate_after_a_start_outside_the_box() -> None:
    """1.5, whose loss counts for nothing, then 1, 0.7 and 0.5; or 0.5, 0.8, 0.5 and 0.8."""
    x, y = torch.ones(20, 1, 1, 1, dtype=torch.float64), torch.zeros(20, dtype=torch.long)
    attack = gradient(eps=0.5, start="sign", start_share=1.0, clip_start=False, step_size=0.3, steps=3)
    last, best = (replace(attack, keep=keep)(peak(0.68), x, y, seeded()).flatten() for keep in ("last", "best"))
    assert sorted(set(last.tolist())) == pytest.approx([0.5, 0.8])
    assert sorted(set(best.tolist())) == pytest.approx([0.7, 0.8])


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


@pytest.mark.parametrize("eps", [0.1, 0.3])
def test_a_share_is_of_the_attacks_own_eps(eps: float) -> None:
    """The same bits as the size in pixels; a suite's attack at several eps steps in proportion to each."""
    net, (x, y) = small_net(), small_batch()
    shared, sized = gradient(eps=eps, steps=3, step_share=0.25), gradient(eps=eps, steps=3, step_size=0.25 * eps)
    assert torch.equal(shared(net, x, y), sized(net, x, y))
    assert not torch.equal(shared(net, x, y), gradient(eps=eps, steps=3, step_share=0.3)(net, x, y))


HILLS = pgd(10, 0.1, eps=0.4)  # fooled on the right hill only; a third of the starts lie left


def hills(x: Tensor) -> Tensor:
    """Return a low hill at 0.2 with f = -1, a high one at 0.8 with f = 1; the valley at 0.35."""
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


def test_a_higher_loss_does_not_replace_what_fools(monkeypatch: pytest.MonkeyPatch) -> None:
    """With three classes an image may be right at a higher loss than that at which another is wrong."""

    def model(x: Tensor) -> Tensor:  # below 0.5 class 1 wins, at a loss of 0.8; above it class 0, at a loss of 1.1
        p = x.flatten(1)
        wrong = torch.cat([0 * p, 0.2 + 0.01 * p, -50 + 0 * p], 1)
        right = torch.cat([0 * p, -0.05 + 0.01 * p, -0.05 + 0 * p], 1)
        return torch.where(p < 0.5, wrong, right)

    x, y = torch.full((200, 1, 1, 1), 0.6), torch.zeros(200, dtype=torch.long)
    attack, generator = pgd(1, 1e-3, restarts=1), seeded()
    singles = torch.stack([attack(Function(model), x, y, generator) for _ in range(4)])
    losses = torch.stack([F.cross_entropy(model(x_adv), y, reduction="none") for x_adv in singles])
    fooled = torch.stack([model(x_adv).argmax(1) != y for x_adv in singles])
    first = torch.where(fooled.any(0), fooled.int().argmax(0), losses.argmax(0))
    expected = singles[first, torch.arange(200)]
    assert (fooled[1] & ~fooled[0] & (losses[2:] > losses[1]).any(0)).any() and not fooled.any(0).all()
    for on_gpu in (False, True):
        if on_gpu:
            monkeypatch.setattr("epsball.attacks.gradient.worth_attacking", lambda *_: slice(None))
        together = replace(attack, restarts=4)(Function(model), x, y, seeded())
        torch.testing.assert_close(together, expected, rtol=0, atol=1e-6)


def fates(first: float, others: float) -> tuple[Curve, Tensor]:
    """Return hills under pixel 0, raised or lowered by pixel 1, which no gradient changes."""
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
    net, attack = copy.deepcopy(small_net()).double(), replace(EVERY[name], eps=0.05, step_size=0.02, step_share=None)
    shrink = torch.linspace(0.5, 1, 40, dtype=torch.float64) if shrunk else None
    dropped = attack(net, x, y, seeded(), shrink=shrink)
    seen = batch_sizes(net)
    attack(net, x, y, seeded(), shrink=shrink)
    assert min(seen) < max(seen) == 40  # some were fooled, some stood
    monkeypatch.setattr("epsball.attacks.gradient.worth_attacking", lambda *_: slice(None))
    seen.clear()
    kept = attack(net, x, y, seeded(), shrink=shrink)
    assert set(seen) == {40}
    torch.testing.assert_close(kept, dropped, rtol=0, atol=1e-9)


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_restarts_show_batch_norm_the_whole_batch_where_it_normalises_by_it(training: bool) -> None:
    """The fooled go along, as on a GPU; alone, the last that stands would have no variance."""
    x, y = torch.rand(12, 1, 4, 4, generator=seeded(2)), torch.arange(12) % 3
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)).train(training)
    seen = batch_sizes(net)
    replace(EVERY["restarts"], restarts=20, eps=0.1, step_size=0.02, step_share=None)(net, x, y, seeded())
    assert (set(seen) == {12}) == training


@pytest.mark.parametrize("seed", range(4))
def test_one_examples_result_does_not_depend_on_the_others_fate(seed: int) -> None:
    attack, y = replace(HILLS, restarts=6, eps=0.04, start_share=1.0), torch.zeros(8, dtype=torch.long)
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


def test_a_layer_called_heads_costs_no_pass_for_the_predicted_label() -> None:
    model = Function(linear(WEIGHT))
    model.heads = nn.Identity()
    assert gradient(label="predicted").choose_label(model, X, Y, None) is None


def test_an_auxiliary_head_costs_no_pass_for_the_predicted_label() -> None:
    class TwoHeads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk = linear(WEIGHT)

        def heads(self, x: Tensor) -> list[tuple[Tensor, float]]:
            logits = self.trunk(x)
            return [(logits, 0.5), (logits.flip(1), 0.0)]

    model = TwoHeads()
    for name in ("step_ll", "fgsm_pred", "iter_ll"):
        passes = batch_sizes(model.trunk)
        assert torch.equal(NAMED[name](model, X, Y), NAMED[name](linear(WEIGHT), X, Y)), name
        assert passes == [len(X)] * NAMED[name].number_of_steps, name


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


@pytest.mark.parametrize("momentum", [0.0, 0.5])
@pytest.mark.parametrize("advance", [GradientAttack.advance, GradientAttack.advance_captured])
def test_the_steps_say_what_the_attack_increases_at_each_iterate(advance: Any, momentum: float) -> None:
    x, y = small_batch()
    attack = gradient(steps=8, momentum=momentum, eps=0.1)
    state, single = (attack.begin(x, x, x.new_ones(()), y) for _ in range(2))
    values = advance(attack, small_net(), state, 8)
    assert len(values) == 8 and all(value.shape == y.shape for value in values)
    for value in values:
        torch.testing.assert_close(value, F.cross_entropy(small_net()(single.x_adv), y, reduction="none"))
        attack.advance(small_net(), single, 1)
    assert torch.equal(state.x_adv, single.x_adv) and torch.equal(state.velocity, single.velocity)


@pytest.mark.parametrize("label", ["true", "predicted"])
def test_images_that_leave_and_join_a_batch_take_their_momentum_along(label: str) -> None:
    x, y = small_batch(torch.float64)
    net, rows = copy.deepcopy(small_net()).double(), torch.tensor([4, 0, 3])
    attack = gradient(steps=6, momentum=0.9, label=label, step="l2")
    shrink = torch.linspace(0.5, 1, 6, dtype=torch.float64)
    whole = attack(net, x, y, shrink=shrink)
    state = attack.begin(x, x, shrink.view(-1, 1, 1, 1), attack.choose_label(net, x, y, None))
    attack.advance(net, state, 3)
    left = state.only(rows)
    forgetful = replace(left, velocity=torch.zeros_like(left.velocity))
    attack.advance(net, left, 1)
    attack.advance(net, forgetful, 1)
    assert not torch.allclose(left.x_adv, forgetful.x_adv)
    together = AttackState.joined([left.only(slice(1)), left.only(slice(1, None))])
    attack.advance(net, together, 2)
    torch.testing.assert_close(together.x_adv, whole[rows], rtol=0, atol=1e-9)


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
    ({"step_size": None, "step_share": 0.0}, "step_share"),
    ({"step_size": 0.1, "step_share": 0.5}, "step_share"),
    ({"step_size": float("nan")}, "step_size"),
    ({"start_share": 0.5}, "start_share"),
    ({"start": "uniform"}, "start_share"),
    ({"start": "uniform", "start_share": 1.1}, "start_share"),
    ({"start": "sign", "start_share": -0.1}, "start_share"),
    ({"kappa": -1.0, "loss": "margin"}, "kappa"),
    ({"kappa": 50.0}, "kappa"),
    ({"loss": "entropy", "label": "predicted"}, "label"),
    ({"momentum": -1.0}, "momentum"),
    ({"restarts": 0}, "restarts"),
    ({"restarts": 2}, "restarts"),
]


@pytest.mark.parametrize(("changes", "field"), BAD, ids=str)
def test_bad_settings_name_their_field(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(ValueError, match=f"^{field} should be ") as caught:
        gradient(**changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", NAMED)
def test_no_attack_of_a_file_stays_inside_its_ball(name: str) -> None:
    attack = NAMED[name]
    assert not isinstance(attack, GradientAttack) or attack.reach >= 1 - 1e-9


def test_how_far_all_steps_go() -> None:
    assert gradient(steps=10, step_share=0.05).reach == 0.5
    assert gradient(eps=0.25, steps=3, step_size=0.125).reach == 1.5
    assert gradient(steps=10).reach == gradient(eps=0.0, step_size=0.0).reach == 1.0
