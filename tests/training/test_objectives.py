"""Training losses worked out by hand on linear models, and every objective in conf/trainer."""

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from configs import needed
from linear import CONF, batch_sizes, linear, seeded, softmax_gradient, two_class
from torch import Generator, Tensor, nn

from epsball.attacks.attack import Attack, BrokenContract
from epsball.attacks.gradient import GradientAttack
from epsball.attacks.noise import NoiseAttack, truncated_normal
from epsball.build import ConfigError, build
from epsball.models.wrappers import Ensemble
from epsball.training.adversarial import Adversarial, EpsRise, Origin, mode
from epsball.training.diversity import (
    Diversity,
    coherence,
    gradient_alignment_loss,
    losses_and_gradients,
    members,
)
from epsball.training.objectives import OBJECTIVES, Objective, Standard

EPS = 0.1
WEIGHT = torch.tensor(
    [[1.0, -2.0, 0.5, 0.2], [-0.4, 1.0, 1.5, -3.0], [2.0, 0.7, -1.0, 0.1]], dtype=torch.float64
)  # three classes, four pixels
X = torch.linspace(0.2, 0.8, 20, dtype=torch.float64).view(5, 1, 2, 2)[[3, 0, 4, 1, 2]]
Y = torch.tensor([0, 1, 2, 0, 1])
FGSM = GradientAttack(
    eps=EPS,
    steps=1,
    step_size=None,
    step_share=None,
    step="sign",
    loss="cross_entropy",
    kappa=0.0,
    label="true",
    start="none",
    start_share=0.0,
    clip_start=True,
    momentum=0.0,
    restarts=1,
    keep="last",
)
RANDOM_START = replace(FGSM, start="uniform", start_share=1.0)


def adversarial(**changes: Any) -> Adversarial:
    """Goodfellow's, with some fields changed."""
    plain: dict[str, Any] = {
        "attack": FGSM,
        "crafted_on": "augmented",
        "crafted_once": False,
        "placement": "append",
        "count": None,
        "weight": 1.0,
        "passes": "two",
        "eps_distribution": "fixed",
        "eps_rise": None,
        "delay": 0,
        "crafting_mode": "eval",
        "crafting_auxiliary": True,
        "crafting_statistics": "kept",
        "include_self": True,
        "source_choice": "random",
        "label_smoothing": 0.0,
    }
    return Adversarial(**(plain | changes))


def kurakin(**changes: Any) -> Adversarial:
    return adversarial(**({"placement": "replace", "count": 2, "weight": 0.3, "passes": "one"} | changes))


def loss_of(x: Tensor, y: Tensor, smoothing: float = 0.0) -> Tensor:
    """(N,) cross-entropy of the linear model, written out."""
    log_p = x.flatten(1) @ WEIGHT.T
    log_p = log_p - log_p.exp().sum(1, keepdim=True).log()
    target = (1 - smoothing) * torch.eye(3, dtype=x.dtype)[y] + smoothing / 3
    return -(target * log_p).sum(1)


def fgsm(x: Tensor, y: Tensor) -> Tensor:
    return (x + EPS * softmax_gradient(WEIGHT, x, y).sign()).clamp(0, 1)


def flat_net(seed: int = 0) -> nn.Sequential:
    """Batch norm, dropout and three classes; four pixels; in train mode."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Dropout(0.5), nn.Linear(6, 3))


def recorded(shrinks: list[Tensor | None], deterministic: bool = True) -> Attack:
    """An attack that moves nothing and keeps the shrink it was given."""

    def attack(
        model: nn.Module, x: Tensor, y: Tensor, generator: Generator | None = None, shrink: Tensor | None = None
    ) -> Tensor:
        shrinks.append(shrink)
        return x

    attack.deterministic, attack.eps = deterministic, EPS  # type: ignore[attr-defined]
    return attack  # type: ignore[return-value]


def close(value: Tensor, expected: Tensor | float) -> None:
    torch.testing.assert_close(value.detach(), torch.as_tensor(expected, dtype=value.dtype), rtol=0, atol=1e-10)


# ---- standard training, label smoothing


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_standard_is_the_mean_cross_entropy(smoothing: float) -> None:
    close(Standard(smoothing)(linear(WEIGHT), X, Y, 0), loss_of(X, Y, smoothing).mean())


def test_standard_on_an_ensemble_is_the_mean_of_its_members() -> None:
    ensemble = Ensemble([linear(WEIGHT), linear(0 * WEIGHT)], "mean_probability")
    close(Standard(0.0)(ensemble, X, Y, 0), (loss_of(X, Y).mean() + math.log(3)) / 2)


# ---- which examples a batch holds, and what they weigh


def test_kurakins_loss_by_hand_in_one_pass() -> None:
    """k = 2 of m = 5 replaced, lambda 0.3: (three clean + 0.3 times two adversarial) / (3 + 0.6)."""
    model = linear(WEIGHT)
    passes = batch_sizes(model)
    expected = (loss_of(X[2:], Y[2:]).sum() + 0.3 * loss_of(fgsm(X[:2], Y[:2]), Y[:2]).sum()) / 3.6
    close(kurakin()(model, X, Y, 0), expected)
    assert passes == [2, 5]  # crafting, then one mixed batch


def test_kurakins_batch_norm_sees_one_mixed_batch() -> None:
    norm = nn.BatchNorm1d(4, momentum=1.0, dtype=torch.float64)
    model = nn.Sequential(nn.Flatten(), norm, *linear(WEIGHT)).train()
    parts = kurakin().parts(copy.deepcopy(model), X, Y, 0, None)
    kurakin()(model, X, Y, 0)
    assert norm.num_batches_tracked == 1
    mixed = torch.cat([X[2:], parts[1].x]).flatten(1)
    torch.testing.assert_close(norm.running_mean, mixed.mean(0))
    assert not torch.allclose(mixed.mean(0), X.flatten(1).mean(0))


def test_goodfellow_is_half_and_half_in_two_passes() -> None:
    model = linear(WEIGHT)
    passes = batch_sizes(model)
    expected = 0.5 * loss_of(X, Y).mean() + 0.5 * loss_of(fgsm(X, Y), Y).mean()
    close(adversarial()(model, X, Y, 0), expected)
    assert passes == [5, 5, 5]
    close(adversarial(passes="one")(model, X, Y, 0), expected)
    assert passes[3:] == [5, 10]


def test_madry_trains_on_adversarial_examples_only() -> None:
    model = linear(WEIGHT)
    passes = batch_sizes(model)
    close(adversarial(placement="only", passes="one")(model, X, Y, 0), loss_of(fgsm(X, Y), Y).mean())
    assert passes == [5, 5]


@pytest.mark.parametrize("passes", ["one", "two"])
def test_delay_is_clean_training_first(passes: str) -> None:
    model = linear(WEIGHT)
    objective = kurakin(delay=3, passes=passes)
    seen = batch_sizes(model)
    close(objective(model, X, Y, 2), loss_of(X, Y).mean())
    assert seen == [5]
    assert objective(model, X, Y, 3).item() > loss_of(X, Y).mean().item() + 1e-3


@pytest.mark.parametrize(("delay", "per_epoch", "steps"), [(0.5, 4, 2), (1.5, 313, 470), (0.0, 7, 0), (0.1, 4, 0)])
def test_delay_is_of_epochs(delay: float, per_epoch: int, steps: int) -> None:
    """A whole number of steps, the nearest; of a diversity objective's data as well."""
    alone = kurakin(delay=delay)
    for objective in (alone, Diversity(0.5, alone, 0.0)):
        ready = objective.prepare([], None, 3.0, per_epoch=per_epoch)
        assert [step for step in range(500) if ready.route(step) is None] == list(range(steps))


class WithAuxiliary(nn.Module):
    """A linear model whose auxiliary head, in train mode, is another one."""

    def __init__(self) -> None:
        super().__init__()
        self.main, self.other = linear(WEIGHT), linear(-3 * WEIGHT)
        self.auxiliary = True

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.main(x)
        return logits

    def heads(self, x: Tensor) -> list[tuple[Tensor, float]]:
        both = [(self.main(x), 1.0), (self.other(x), 1.0)]
        return both if self.training and self.auxiliary else both[:1]


@pytest.mark.parametrize("auxiliary", [True, False])
def test_an_auxiliary_head_counts_in_crafting_only_if_asked_and_in_training_always(auxiliary: bool) -> None:
    """Its weights are three times as large, and of the other sign."""
    model, truth = WithAuxiliary().train(), {"attack": replace(FGSM, label="true")}
    objective = adversarial(
        placement="only", passes="one", crafting_mode="train", crafting_auxiliary=auxiliary, **truth
    )
    (part,) = objective.parts(model, X, Y, 0, None)
    x = X.clone().requires_grad_()
    main, other = (F.cross_entropy(head(x), Y, reduction="sum") for head in (model.main, model.other))
    (gradient,) = torch.autograd.grad(main + other if auxiliary else main, x)
    close(part.x, (X + EPS * gradient.sign()).clamp(0, 1))
    assert model.auxiliary
    both = [F.cross_entropy(head(part.x), Y) for head in (model.main, model.other)]
    close(objective(model, X, Y, 0), both[0] + both[1])


@pytest.mark.parametrize("count", [2, 8])
@pytest.mark.parametrize("passes", ["one", "two"])
def test_a_short_last_batch_is_all_adversarial(count: int, passes: str) -> None:
    objective, x, y = kurakin(count=count, passes=passes), X[:2], Y[:2]
    close(objective(linear(WEIGHT), x, y, 0), loss_of(fgsm(x, y), y).mean())
    assert len(objective.parts(linear(WEIGHT), x, y, 0, None)) == 1  # no empty clean part, which batch norm refuses


def test_label_smoothing_is_the_training_losss_not_the_attacks() -> None:
    expected = 0.5 * loss_of(X, Y, 0.1).mean() + 0.5 * loss_of(fgsm(X, Y), Y, 0.1).mean()
    close(adversarial(label_smoothing=0.1)(linear(WEIGHT), X, Y, 0), expected)


def test_truncated_normal_eps_per_example() -> None:
    """|N(0, 1/2)| cut off at 1 has the mean (phi(0) - phi(2)) / (Phi(2) - Phi(-2)) = 0.3614."""
    shrinks: list[Tensor | None] = []
    objective = adversarial(attack=recorded(shrinks), eps_distribution="truncated_normal")
    x, y = torch.zeros(40_000, 1, 2, 2, dtype=torch.float64), torch.zeros(40_000, dtype=torch.long)
    torch.manual_seed(0)
    objective.parts(linear(WEIGHT), x, y, 0, None)
    (shrink,) = shrinks
    assert shrink is not None and shrink.shape == y.shape
    assert shrink.min() >= 0 and 0.99 < shrink.max() <= 1
    assert shrink.mean() == pytest.approx(0.3614, abs=0.005)
    assert (shrink < 0.5).double().mean() == pytest.approx(0.6827 / 0.9545, abs=0.01)


def test_fixed_eps_gives_no_shrink() -> None:
    shrinks: list[Tensor | None] = []
    adversarial(attack=recorded(shrinks)).parts(linear(WEIGHT), X, Y, 0, None)
    assert shrinks == [None]


# ---- sources


def crafted_on(objective: Adversarial, model: nn.Module, steps: int) -> list[int]:
    """Which source crafted at each step; the trained model is the last one."""
    log: list[int] = []
    hooks = [
        source.register_forward_hook(lambda _m, _x, _out, i=i: log.append(i))
        for i, source in enumerate((*objective.sources, model))
    ]
    for step in range(steps):
        objective.parts(model, X, Y, step, None)
    for hook in hooks:
        hook.remove()
    return log


@pytest.mark.parametrize(("include_self", "expected"), [(True, [0, 1, 2, 0, 1, 2, 0]), (False, [0, 1, 0, 1, 0, 1, 0])])
def test_sources_in_rotation(include_self: bool, expected: list[int]) -> None:
    model, sources = linear(WEIGHT), [linear(WEIGHT + 1), linear(WEIGHT - 1)]
    objective = adversarial(source_choice="rotate", include_self=include_self).prepare(sources, None, 5)
    assert crafted_on(objective, model, 7) == expected


@pytest.mark.parametrize(("include_self", "candidates"), [(True, {0, 1, 2}), (False, {0, 1})])
def test_sources_at_random(include_self: bool, candidates: set[int]) -> None:
    model, sources = linear(WEIGHT), [linear(WEIGHT + 1), linear(WEIGHT - 1)]
    objective = adversarial(include_self=include_self).prepare(sources, None, 5, seed=3)
    first = crafted_on(objective, model, 60)
    assert crafted_on(objective, model, 60) == first == [objective.route(step) for step in range(60)]
    assert set(first) == candidates
    assert all(first.count(i) > 60 / len(candidates) / 2 for i in candidates)
    other = adversarial(include_self=include_self).prepare(sources, None, 5, seed=4)
    assert crafted_on(other, model, 60) != first


def perturbed_by(objective: Adversarial, step: int) -> float:
    """The largest change of a pixel in the examples of a step."""
    examples = objective.parts(linear(WEIGHT), X, Y, step, None)[-1]
    return float((examples.x - X[: len(examples.x)]).abs().max())


def test_eps_rises_in_stairs_from_the_first_adversarial_step() -> None:
    objective = adversarial(placement="only", eps_rise=EpsRise(steps=6, stairs=3), delay=2)
    shares = [perturbed_by(objective, step) / EPS for step in range(2, 12)]
    close(torch.tensor(shares), torch.tensor([1 / 3] * 2 + [2 / 3] * 2 + [1.0] * 6))
    assert len({objective.route(step) for step in range(2, 12)}) == 3  # captured graphs: one a stair
    assert objective.route(2) == objective.route(3) != objective.route(4)
    later = adversarial(placement="only", eps_rise=EpsRise(steps=6, stairs=3), delay=30)
    assert {later.route(step) for step in range(30)} == {None}  # nothing rises in clean steps


def test_a_rising_eps_scales_the_start_and_each_drawn_eps() -> None:
    rise = EpsRise(steps=4, stairs=4)
    drawn = adversarial(eps_distribution="truncated_normal", eps_rise=rise, placement="only", attack=RANDOM_START)
    whole = adversarial(eps_distribution="truncated_normal", eps_rise=None, placement="only", attack=RANDOM_START)
    perturbations = []
    for objective in (drawn, whole):
        torch.manual_seed(0)
        x = torch.full_like(X, 0.5)  # far from the box
        perturbations.append(objective.parts(linear(WEIGHT), x, Y, 0, None)[0].x - 0.5)
    close(perturbations[0], perturbations[1] / 4)


def test_examples_of_a_rising_eps_are_not_crafted_once_for_all() -> None:
    assert adversarial().repeats and not adversarial(eps_rise=EpsRise(2, 2)).repeats


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"steps": 5, "stairs": 0}, "stairs should be at least 1"), ({"steps": 2, "stairs": 3}, "steps should be at lea")],
)
def test_a_wrong_rise_is_refused(fields: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EpsRise(**fields)


def test_examples_come_from_the_source_and_train_the_model() -> None:
    other = WEIGHT.flip(0)
    objective = adversarial(placement="only", include_self=False).prepare([linear(other)], None, 1)
    x_adv = (X + EPS * softmax_gradient(other, X, Y).sign()).clamp(0, 1)
    close(objective(linear(WEIGHT), X, Y, 0), loss_of(x_adv, Y).mean())


@pytest.mark.parametrize("crafting_mode", ["train", "eval"])
@pytest.mark.parametrize("frozen", [True, False])
def test_modes_while_crafting(crafting_mode: str, frozen: bool) -> None:
    """Dropout follows crafting_mode, a frozen source's batch norm stays in eval mode, all modes are given back."""
    source, model = flat_net(1).eval(), flat_net(2).train()
    model[4].eval()  # a mode of its own, to be given back
    modes = [m.training for m in (*source.modules(), *model.modules())]
    statistics = copy.deepcopy(source[2].state_dict())
    objective = adversarial(crafting_mode=crafting_mode, include_self=not frozen)
    objective = objective.prepare([source] if frozen else [], None, 1)
    crafting = source if frozen else model
    seen: dict[str, bool] = {}
    for name, layer in (("norm", crafting[2]), ("dropout", crafting[4])):
        layer.register_forward_hook(lambda m, _x, _out, name=name: seen.update({name: m.training}))
    objective.parts(model, X.float(), Y, 0, None)
    assert seen == {"norm": crafting_mode == "train" and not frozen, "dropout": crafting_mode == "train"}
    assert [m.training for m in (*source.modules(), *model.modules())] == modes
    assert all(torch.equal(value, statistics[key]) for key, value in source[2].state_dict().items())


@pytest.mark.parametrize(
    ("statistics", "steps", "passes", "updates"),
    [
        ("kept", 1, "one", 1),
        ("kept", 3, "one", 1),
        ("kept", 3, "two", 2),
        ("updated", 1, "one", 2),
        ("updated", 3, "two", 5),
    ],
)
def test_how_often_a_step_updates_the_running_statistics(
    statistics: str, steps: int, passes: str, updates: int
) -> None:
    """Crafting normalises by the batch's own statistics either way: the examples are the same bits."""
    model, attack = flat_net().train(), replace(FGSM, steps=steps, label="true")
    objective = adversarial(crafting_mode="train", crafting_statistics=statistics, passes=passes, attack=attack)
    other = adversarial(crafting_mode="train", crafting_statistics="updated", attack=attack)
    examples = []
    for one in (objective, other):
        torch.manual_seed(0)  # dropout draws the same
        examples.append(one.parts(copy.deepcopy(model), X.float(), Y, 0, None)[-1].x)
    assert torch.equal(*examples)
    objective(model, X.float(), Y, 0)
    assert int(model[2].num_batches_tracked) == updates
    assert model[2].track_running_stats and model[2].training


def test_a_training_step_gives_sources_no_gradient_and_leaves_them_as_they_are() -> None:
    source, model = flat_net(1).eval(), flat_net(2).train()
    before = copy.deepcopy(source.state_dict())
    objective = adversarial(crafting_mode="train", include_self=False).prepare([source], None, 1)
    objective(model, X.float(), Y, 0).backward()
    assert all(p.grad is None for p in source.parameters())
    assert all(p.grad is not None for p in model.parameters())
    assert all(torch.equal(value, before[key]) for key, value in source.state_dict().items())


def test_crafting_gives_the_model_no_gradient() -> None:
    model = flat_net()
    adversarial(crafting_mode="train").parts(model, X.float(), Y, 0, None)
    assert all(p.grad is None for p in model.parameters())


def test_an_attack_that_writes_over_the_clean_images_is_refused() -> None:
    """It would train on its examples alone."""

    class Writing(NoiseAttack):
        def __call__(self, model: nn.Module, x: Tensor, *_: object, **__: object) -> Tensor:
            return x.add_(0.1)

    objective = adversarial(attack=Writing(0.1, "sign"))
    with pytest.raises(BrokenContract, match="Writing should leave images and labels as they are"):
        objective(flat_net(), torch.rand(4, 1, 2, 2), torch.tensor([0, 1, 2, 0]), 0)
    source = objective.prepare([flat_net(1)], None, 3.0)
    with pytest.raises(BrokenContract):
        source.craft_all(flat_net(1), train_batches())


def test_a_layer_called_auxiliary_is_no_switch() -> None:
    model = nn.Sequential(nn.Flatten())
    model.auxiliary = nn.Linear(2, 2)
    with mode(model, True, frozen=False, updated=False, auxiliary=False):
        assert isinstance(model.auxiliary, nn.Linear)


def test_modes_are_given_back_after_an_error() -> None:
    model = flat_net()
    with pytest.raises(RuntimeError, match="stop"), mode(model, False, frozen=False, updated=False, auxiliary=True):
        assert not any(m.training for m in model.modules())
        raise RuntimeError("stop")
    assert all(m.training for m in model.modules())


# ---- examples of frozen sources, crafted once


def train_batches() -> Iterator[tuple[Tensor, Tensor]]:
    yield from ((X[:2], Y[:2]), (X[2:4], Y[2:4]), (X[4:], Y[4:]))


def test_cached_examples_are_the_freshly_crafted_ones_by_index() -> None:
    sources = [linear(WEIGHT), linear(WEIGHT.flip(0))]
    settings = adversarial(placement="only", source_choice="rotate", include_self=False)
    cached = settings.prepare(sources, train_batches, epochs=3)
    fresh = settings.prepare(sources, None, epochs=3)
    assert len(cached.cached) == 2 and fresh.cached == ()
    index = torch.tensor([4, 1, 3])
    for step in range(4):
        expected = fresh.parts(linear(WEIGHT), X[index], Y[index], step, Origin(index, X[index]))[0].x
        passes = [batch_sizes(source) for source in sources]
        found = cached.parts(linear(WEIGHT), X[index], Y[index], step, Origin(index, X[index]))[0].x
        assert passes == [[], []]
        assert torch.equal(found, expected)


def test_cached_examples_of_a_partly_replaced_batch() -> None:
    source = linear(WEIGHT)
    settings = kurakin(include_self=False)
    cached, fresh = settings.prepare([source], train_batches, epochs=3), settings.prepare([source], None, epochs=3)
    index = torch.tensor([4, 1, 3, 0])
    model = linear(WEIGHT + 0.1)
    origin = Origin(index, X[index])
    close(cached(model, X[index], Y[index], 0, origin), fresh(model, X[index], Y[index], 0, origin))


def test_the_trained_model_is_never_cached() -> None:
    settings = adversarial(source_choice="rotate").prepare([linear(WEIGHT)], train_batches, epochs=5)
    model = linear(WEIGHT.flip(0))
    x_adv = settings.parts(model, X, Y, 1, Origin(torch.arange(5), X))[1].x
    assert torch.equal(x_adv, FGSM(model, X, Y))


NOT_CACHED: dict[str, tuple[dict[str, Any], bool, float]] = {
    "train mode": ({"crafting_mode": "train"}, True, 5),
    "random start": ({"attack": RANDOM_START}, True, 5),
    "random label": ({"attack": replace(FGSM, label="random")}, True, 5),
    "noise": ({"attack": NoiseAttack(EPS, "sign")}, True, 5),
    "random eps": ({"eps_distribution": "truncated_normal"}, True, 5),
    "augmented": ({}, False, 5),
    "used once": ({}, True, 1),
    "used once each on average": ({"include_self": True}, True, 2),
}


@pytest.mark.parametrize("case", NOT_CACHED)
def test_not_cached(case: str) -> None:
    changes, repeatable, epochs = NOT_CACHED[case]
    settings = adversarial(**({"include_self": False} | changes))
    assert settings.prepare([linear(WEIGHT)], train_batches if repeatable else None, epochs).cached == ()


def test_cached_from_more_than_one_use_on() -> None:
    settings = adversarial(include_self=False)
    assert len(settings.prepare([linear(WEIGHT)], train_batches, 1.5).cached) == 1
    assert len(settings.prepare([linear(WEIGHT)] * 2, train_batches, 2).cached) == 0
    assert settings.prepare([], train_batches, 5).cached == ()


def test_caching_crafts_in_eval_mode_and_gives_the_mode_back() -> None:
    source = flat_net().train()
    statistics = copy.deepcopy(source[2].state_dict())
    objective = adversarial(include_self=False).prepare(
        [source], lambda: ((x.float(), y) for x, y in train_batches()), epochs=5
    )
    assert all(m.training for m in source.modules())
    assert all(torch.equal(value, statistics[key]) for key, value in source[2].state_dict().items())
    with mode(source, training=False, frozen=True, updated=False, auxiliary=True):
        torch.testing.assert_close(objective.cached[0], FGSM(source, X.float(), Y))


# ---- examples of the images before augmentation

MIRRORED = X.flip(3)  # as an augmentation gives them
PLACED: dict[str, tuple[dict[str, Any], slice, slice]] = {  # fields, which images are clean and which adversarial
    "append": ({"placement": "append"}, slice(0, 5), slice(0, 5)),
    "replace": ({"placement": "replace", "count": 2}, slice(2, 5), slice(0, 2)),
    "only": ({"placement": "only"}, slice(0, 0), slice(0, 5)),
}


@pytest.mark.parametrize("placement", PLACED)
@pytest.mark.parametrize(
    ("field", "given", "images"),
    [("original", X, X), ("original", None, MIRRORED), ("augmented", X, MIRRORED)],
    ids=["on the original", "no original is known", "on the augmented"],
)
def test_images_that_examples_are_crafted_on(placement: str, field: str, given: Tensor | None, images: Tensor) -> None:
    """The clean part is the augmented images whichever the others are crafted on."""
    fields, clean, crafted = PLACED[placement]
    noise = NoiseAttack(EPS, "sign")
    for attack in (FGSM, noise):
        objective = adversarial(crafted_on=field, attack=attack, **fields)
        *rest, part = objective.parts(
            linear(WEIGHT), MIRRORED, Y, 0, None if given is None else Origin(torch.arange(5), given)
        )
        assert sum(len(each.x) for each in rest) == clean.stop - clean.start
        for each in rest:
            assert torch.equal(each.x, MIRRORED[clean]) and torch.equal(each.y, Y[clean])
        assert torch.equal(part.y, Y[crafted])
        if attack is FGSM:
            close(part.x, fgsm(images, Y)[crafted])
        else:  # no pixel is near 0 or 1, so each is moved by eps, from the image that was crafted on
            moved = (part.x - images[crafted]).abs()
            torch.testing.assert_close(moved, torch.full_like(moved, EPS), rtol=0, atol=1e-7)


def test_the_loss_on_augmented_images_and_examples_of_the_originals() -> None:
    expected = loss_of(MIRRORED, Y).mean() / 2 + loss_of(fgsm(X, Y), Y).mean() / 2
    close(adversarial(crafted_on="original")(linear(WEIGHT), MIRRORED, Y, 0, Origin(torch.arange(5), X)), expected)
    data, model = adversarial(crafted_on="original", passes="one", include_self=False), smooth_ensemble()
    objective = Diversity(0.5, data, 0.0).prepare([linear(WEIGHT)], None, 1)
    losses = [Diversity(0.5, None, 0.0)(model, x, Y, 0).detach() for x in (MIRRORED, fgsm(X, Y))]
    close(objective(model, MIRRORED, Y, 0, Origin(torch.arange(5), X)), (losses[0] + losses[1]) / 2)


def test_which_objectives_take_the_originals_and_which_show_terms() -> None:
    on = {field: adversarial(crafted_on=field, passes="one") for field in ("original", "augmented")}
    plain: list[Objective] = [Standard(0.0), on["augmented"], Diversity(0.5, None, 0.0)]
    plain.append(Diversity(0.5, on["augmented"], 0.0))
    takes: list[Objective] = [on["original"], Diversity(0.5, on["original"], 0.0)]
    assert not any(objective.takes_originals for objective in plain)
    assert all(objective.takes_originals for objective in takes)
    terms = [objective.terms for objective in (*plain, *takes)]
    assert terms == [(), (), ("gal",), ("gal",), (), ("gal",)]


# ---- examples of the originals that are made once, each with its own eps


def once(**changes: Any) -> Adversarial:
    """Kariyappa's D_adv."""
    kariyappa = {"crafted_on": "original", "crafted_once": True, "eps_distribution": "truncated_normal"}
    return adversarial(**(kariyappa | {"include_self": False, "placement": "only", "passes": "one"} | changes))


def prepared(settings: Adversarial, sources: list[nn.Module], epochs: float = 3.0, seed: int = 0) -> Adversarial:
    torch.manual_seed(seed)
    return settings.prepare(sources, train_batches, epochs)


def test_examples_made_once_by_hand() -> None:
    """Class 0 goes along the direction, class 1 against it, each image by its own share of eps."""
    direction, y = torch.tensor([1.0, -2.0, 3.0, -0.5], dtype=torch.float64), Y.clamp(max=1)
    batches, source = [(X[:3], y[:3]), (X[3:], y[3:])], two_class(direction)
    torch.manual_seed(4)
    (found,) = once().prepare([source], lambda: iter(batches), 3).cached
    torch.manual_seed(4)
    share = torch.cat([truncated_normal(torch.Size([n]), X.device).abs() for n in (3, 2)]).double()
    assert len(set(share.tolist())) == 5 and share.min() >= 0 and share.max() <= 1
    moved = torch.outer((1 - 2 * y) * share, EPS * direction.sign()).view_as(X)
    torch.testing.assert_close(found, X + moved, rtol=0, atol=1e-7)


def test_the_same_examples_in_every_step_by_index() -> None:
    source = linear(WEIGHT)
    objective, model = prepared(once(), [source]), linear(WEIGHT)
    passes = batch_sizes(source), batch_sizes(model)
    for step, places in enumerate(([4, 1, 3], [3, 4], [0, 1, 2, 3, 4], [1, 4])):
        index = torch.tensor(places)
        (part,) = objective.parts(model, MIRRORED[index], Y[index], step, Origin(index, X[index]))
        assert torch.equal(part.x, objective.cached[0][index]) and torch.equal(part.y, Y[index])
    assert passes == ([], [])  # nothing is crafted any more
    eps = (objective.cached[0] - X).abs().flatten(1)
    close(eps.amin(1), eps.amax(1))  # one eps an image
    assert eps.min() > 0 and eps.max() <= EPS and len(set(eps.amax(1).tolist())) == 5


@pytest.mark.parametrize("placement", PLACED)
def test_examples_made_once_beside_augmented_images(placement: str) -> None:
    fields, clean, crafted = PLACED[placement]
    objective, index = prepared(once(**fields), [linear(WEIGHT)]), torch.tensor([4, 1, 3, 0, 2])
    parts = objective.parts(linear(WEIGHT), MIRRORED[index], Y[index], 0, Origin(index, X[index]))
    assert torch.equal(parts[-1].x, objective.cached[0][index[crafted]])
    assert torch.equal(torch.cat([each.x for each in parts[:-1]] or [X[:0]]), MIRRORED[index[clean]])


@pytest.mark.parametrize("changes", [{}, {"attack": NoiseAttack(EPS, "sign")}, {"attack": RANDOM_START}], ids=str)
def test_the_same_seed_makes_the_same_examples(changes: dict[str, Any]) -> None:
    first, same, other = (prepared(once(**changes), [linear(WEIGHT)], seed=seed).cached[0] for seed in (3, 3, 4))
    assert torch.equal(first, same) and not torch.equal(first, other)


@pytest.mark.parametrize("epochs", [0.1, 1.0, 7.0])
@pytest.mark.parametrize("include_self", [True, False])
def test_each_image_is_attacked_once_on_each_source_however_long_training_is(epochs: float, include_self: bool) -> None:
    sources: list[nn.Module] = [linear(WEIGHT), linear(WEIGHT.flip(0)), flat_net().double()]
    seen = [batch_sizes(source) for source in sources]
    objective = prepared(once(source_choice="rotate", include_self=include_self), sources, epochs)
    assert len(objective.cached) == 3
    for step in range(3):  # a fourth would craft on the model, where that is a source
        index = torch.arange(5)
        (part,) = objective.parts(linear(WEIGHT), MIRRORED, Y, step, Origin(index, X))
        assert torch.equal(part.x, objective.cached[step])
    assert seen == [[2, 2, 1]] * 3


def test_the_trained_models_own_examples_are_of_the_originals_and_new_each_time() -> None:
    objective = prepared(once(source_choice="rotate", include_self=True), [linear(WEIGHT.flip(0))])
    crafted = [objective.parts(linear(WEIGHT), MIRRORED, Y, 1, Origin(torch.arange(5), X))[0].x for _ in range(2)]
    sign = softmax_gradient(WEIGHT, X, Y).sign()
    assert all(torch.equal((x - X).sign(), sign) for x in crafted) and not torch.equal(*crafted)


def test_diversitys_examples_are_made_once_too() -> None:
    source, model = linear(WEIGHT), smooth_ensemble()
    torch.manual_seed(0)
    objective = Diversity(0.5, once(placement="append"), 0.0).prepare([source], train_batches, 0.5)
    made = prepared(once(), [source]).cached[0]
    losses = [Diversity(0.5, None, 0.0)(model, x, Y, 0).detach() for x in (MIRRORED, made)]
    close(objective(model, MIRRORED, Y, 0, Origin(torch.arange(5), X)), (losses[0] + losses[1]) / 2)


def test_only_examples_that_are_crafted_in_each_batch_or_before_depend_on_the_epochs() -> None:
    fixed: dict[str, Any] = {"eps_distribution": "fixed"}
    assert adversarial(crafted_on="original", include_self=False).depends_on_epochs
    assert not once(**fixed).depends_on_epochs and once(**fixed).repeats
    assert not once().depends_on_epochs
    assert not Diversity(0.5, once(**fixed), 0.0).depends_on_epochs


REFUSED_ONCE: list[tuple[dict[str, Any], str]] = [
    (
        {"crafted_on": "augmented"},
        "crafted_on should be original where crafted_once is true: augmented images are new in every epoch",
    ),
    ({"eps_rise": {"steps": 4, "stairs": 2}}, "eps_rise should be null where crafted_once is true"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED_ONCE)
def test_what_cannot_be_made_once_is_refused_in_one_line(
    changes: dict[str, Any], message: str, compose: Callable[..., dict[str, Any]]
) -> None:
    spec = compose("trainer=static_adv_diversity")["trainer"]["objective"]
    with pytest.raises(ConfigError) as error:
        build(OBJECTIVES, {**spec, "data": {**spec["data"], **changes}}, where="trainer.objective")
    assert str(error.value) == f"trainer.objective.data.{message}"


@pytest.mark.parametrize("include_self", [True, False])
def test_examples_are_made_once_on_sources_alone(include_self: bool) -> None:
    first = "crafted_once should be false" if include_self else "include_self should be true"
    for objective, model in (
        (once(include_self=include_self), flat_net()),
        (Diversity(0.5, once(include_self=include_self), 0.0), smooth_ensemble()),
    ):
        with pytest.raises(ValueError, match=f"^{first} when there are no sources$"):
            objective.check(model, 0)
        objective.check(model, 1)


# ---- gradient alignment loss


def simplex(corners: int) -> Tensor:
    """(corners, 1, corners) directions as far apart as can be: every cosine is -1 / (corners - 1)."""
    return (torch.eye(corners, dtype=torch.float64) - 1 / corners)[:, None]


@pytest.mark.parametrize(("n", "lowest", "highest"), [(2, -1.0, 1.0), (3, 0.599, 2.099), (5, 2.053, 3.303)])
def test_bounds_of_gal(n: int, lowest: float, highest: float) -> None:
    assert gradient_alignment_loss(simplex(n)).item() == pytest.approx(lowest, abs=6e-4)
    assert gradient_alignment_loss(torch.ones(n, 1, 7)).item() == pytest.approx(highest, abs=6e-4)
    random = gradient_alignment_loss(torch.randn(n, 500, 3, generator=seeded()))
    assert lowest - 6e-4 <= random.min() and random.max() <= highest + 6e-4


def test_gal_and_coherence_by_hand() -> None:
    gradients = torch.tensor([[[2.0, 0.0]], [[3.0, 4.0]], [[0.0, -0.1]]], dtype=torch.float64)  # cosines 0.6, 0, -0.8
    close(gradient_alignment_loss(gradients), [math.log(math.exp(0.6) + 1 + math.exp(-0.8))])
    close(coherence(gradients), [0.6])


@pytest.mark.parametrize("size", [1e-25, 1e-12, 1e25])
def test_gal_does_not_depend_on_the_gradients_size(size: float) -> None:
    gradients = torch.randn(4, 6, 10, generator=seeded())
    scale = torch.tensor([1.0, size, 1.0, size]).view(4, 1, 1)
    torch.testing.assert_close(gradient_alignment_loss(gradients * scale), gradient_alignment_loss(gradients))
    torch.testing.assert_close(coherence(gradients * scale), coherence(gradients))


def test_gal_is_per_example() -> None:
    gradients = torch.randn(3, 4, 10, generator=seeded())
    alone = torch.cat([gradient_alignment_loss(gradients[:, i : i + 1]) for i in range(4)])
    torch.testing.assert_close(gradient_alignment_loss(gradients), alone)


@pytest.mark.parametrize("zero", [[0], [0, 1], [0, 1, 2]])
def test_a_zero_gradient_has_no_direction(zero: list[int]) -> None:
    gradients = torch.randn(3, 2, 5, generator=seeded())
    gradients[zero, 0] = 0.0
    gradients.requires_grad_()
    loss = gradient_alignment_loss(gradients)
    (slope,) = torch.autograd.grad(loss.sum(), gradients)
    assert loss.isfinite().all() and slope.isfinite().all()
    if len(zero) >= 2:  # no cosine is left
        assert loss[0].item() == pytest.approx(math.log(3))


# ---- diversity training


def pair(a: list[float], b: list[float]) -> Ensemble:
    return Ensemble([two_class(torch.tensor(w, dtype=torch.float64)) for w in (a, b)], "mean_probability")


def test_a_two_member_linear_ensemble_by_hand() -> None:
    """A member's input gradient points along its weights, whatever the image: GAL is their cosine, 0.6."""
    model, y = pair([1.0, 0.0, 0.0, 0.0], [3.0, 4.0, 0.0, 0.0]), torch.zeros(5, dtype=torch.long)
    flat = X.flatten(1)
    cross_entropy = (F.softplus(flat[:, 0]) + F.softplus(3 * flat[:, 0] + 4 * flat[:, 1])) / 2
    objective = Diversity(0.5, None, 0.0)
    loss, gal = objective(model, X, y, 0)
    close(loss, cross_entropy.mean() + 0.5 * 0.6)
    close(gal, 0.6)
    gradients = torch.autograd.grad(gal, list(model.parameters()), retain_graph=True, allow_unused=True)
    assert objective.terms == ("gal",) and not any(g is not None and g.any() for g in gradients)  # shown, not minimised
    assert all(g.any() for g in torch.autograd.grad(loss, list(model.parameters())))


def test_diversity_runs_each_member_once() -> None:
    model = pair([1.0, 0.0, 0.0, 0.0], [3.0, 4.0, 0.0, 0.0])
    passes = [batch_sizes(member) for member in model.members]
    Diversity(0.5, None, 0.0)(model, X, Y.clamp(max=1), 0)[0].backward()
    assert passes == [[5], [5]]


def smooth_ensemble(dtype: torch.dtype = torch.float64, n: int = 3) -> Ensemble:
    torch.manual_seed(0)
    nets = [nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 3)) for _ in range(n)]
    return Ensemble(list(nets), "mean_probability").to(dtype)


@pytest.mark.parametrize("objective", [Diversity(2.0, None, 0.1), Diversity(2.0, None, 0.0, "log_odds")])
def test_diversitys_parameter_gradient_against_finite_differences(objective: Diversity) -> None:
    model = smooth_ensemble()
    objective(model, X, Y, 0)[0].backward()
    for parameter in model.parameters():
        flat, slope = parameter.data.view(-1), parameter.grad
        assert slope is not None
        for i in range(0, len(flat), 3):
            at = flat[i].item()
            sides = []
            for h in (1e-5, -1e-5):
                flat[i] = at + h
                sides.append(objective(model, X, Y, 0)[0].item())
            flat[i] = at
            assert slope.view(-1)[i].item() == pytest.approx((sides[0] - sides[1]) / 2e-5, abs=1e-7)


def test_log_odds_train_what_cross_entropy_trains() -> None:
    """The gradients' directions are the same, whatever the parameters: so are the loss and its slope."""
    model, ended = smooth_ensemble(), []
    for gradients_of in ("cross_entropy", "log_odds"):
        loss, gal = Diversity(2.0, None, 0.0, gradients_of)(model, X, Y, 0)
        ended.append([loss.detach(), gal, *torch.autograd.grad(loss, list(model.parameters()))])
    for one, other in zip(*ended, strict=True):
        torch.testing.assert_close(one, other)


def test_the_log_odds_of_a_member_that_is_an_ensemble_are_those_of_its_prediction() -> None:
    inner, outer = smooth_ensemble(n=2), smooth_ensemble(n=3)
    model = Ensemble([inner, outer.members[2]], "mean_probability")
    x = X.clone().requires_grad_()
    p = sum(member(x).softmax(1) for member in inner.members) / 2
    (expected,) = torch.autograd.grad(sum(torch.logit(p[i, int(y)]) for i, y in enumerate(Y)), x)
    _, found = losses_and_gradients(model, X, Y, "log_odds")
    torch.testing.assert_close(found[0].abs(), expected.flatten(1).abs())


@pytest.mark.parametrize(("mode", "same"), [("eval", True), ("train", False)])
def test_with_batch_norm_the_directions_are_the_same_in_eval_mode_alone(mode: str, same: bool) -> None:
    """In train mode an image's gradient has a part of each other image of the batch, which the two weigh unlike."""
    torch.manual_seed(0)
    nets = [nn.Sequential(nn.Flatten(), nn.BatchNorm1d(4), nn.Linear(4, 3)) for _ in range(2)]
    model = Ensemble([net.train(mode == "train") for net in nets], "mean_probability").double()
    found = [losses_and_gradients(model, X, Y, of)[1] for of in ("cross_entropy", "log_odds")]
    alike = F.cosine_similarity(*found, dim=2)
    assert bool((alike > 1 - 1e-9).all()) == same


@pytest.mark.parametrize(("gradients_of", "gal"), [("cross_entropy", 0.0), ("log_odds", 0.6)])
def test_members_that_are_sure_escape_the_alignment_of_their_losses_alone(gradients_of: Any, gal: float) -> None:
    """In float32 their losses, and the gradients of these, are 0, and count as if they stood at right angles."""
    model = pair([-900.0, 0.0, 0.0, 0.0], [-1500.0, -2000.0, 0.0, 0.0]).float()
    y = torch.zeros(5, dtype=torch.long)
    loss, found = Diversity(0.5, None, 0.0, gradients_of)(model, X.float(), y, 0)
    assert found.item() == pytest.approx(gal) and loss.item() == pytest.approx(0.5 * gal)


@pytest.mark.parametrize("margin", [60, 80, 90, 95, 100])
def test_gradients_about_to_vanish_have_a_finite_slope(margin: float) -> None:
    """At a margin of 90 they are 1e-39, whose inverse is beyond float32."""
    directions = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.6, 0.8, 0.0, 0.0]])
    ones, y = torch.ones(5, 1, 2, 2), torch.zeros(5, dtype=torch.long)
    model = Ensemble([two_class(-margin * d / d.sum()) for d in directions], "mean_probability")
    loss, gal = Diversity(0.5, None, 0.0)(model, ones, y, 0)
    slopes = torch.autograd.grad(loss, list(model.parameters()))
    assert gal.item() == pytest.approx(0.6 if margin < 70 else 0.0)
    assert loss.isfinite() and all(slope.isfinite().all() for slope in slopes)


@pytest.mark.parametrize("dead", ["relu", "saturated"])
def test_a_member_without_input_gradient_does_not_spoil_training(dead: str) -> None:
    torch.manual_seed(0)
    nets = [nn.Sequential(nn.Flatten(), nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)) for _ in range(3)]
    with torch.no_grad():
        if dead == "relu":
            nets[0][1].bias.fill_(-100.0)
        else:  # certain of class 0: its loss is 0 in float32, and so is its slope
            nets[0][3].bias.copy_(torch.tensor([500.0, 0.0, 0.0]))
    model, y = Ensemble(list(nets), "mean_probability"), torch.zeros(5, dtype=torch.long)
    loss, gal = Diversity(0.5, None, 0.0)(model, X.float(), y, 0)
    loss.backward()
    assert loss.isfinite() and gal.isfinite()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_noisy_data_joins_the_clean_images() -> None:
    data = adversarial(attack=NoiseAttack(0.3, "truncated_normal"), passes="one")
    model = smooth_ensemble()
    passes = [batch_sizes(member) for member in model.members]
    torch.manual_seed(0)
    noisy = Diversity(0.5, data, 0.0)(model, X, Y, 0)
    assert passes == [[10]] * 3  # clean and noisy in one pass; noise needs none
    torch.manual_seed(0)
    clean_part, noisy_part = data.parts(model, X, Y, 0, None)
    both = Diversity(0.5, None, 0.0)(model, torch.cat([clean_part.x, noisy_part.x]), torch.cat([Y, Y]), 0)
    close(noisy, both.detach())
    assert not torch.equal(clean_part.x, noisy_part.x)


def test_adversarial_data_of_a_static_source_composes() -> None:
    """Ens+Div: weights apply to cross-entropy and GAL alike."""
    data = adversarial(passes="one", include_self=False, weight=0.3)
    source, model = linear(WEIGHT), smooth_ensemble()
    objective = Diversity(0.5, data, 0.0).prepare([source], train_batches, epochs=3)
    assert objective.data is not None and len(objective.data.cached) == 1
    losses = [Diversity(0.5, None, 0.0)(model, x, Y, 0) for x in (X, fgsm(X, Y))]
    close(objective(model, X, Y, 0, Origin(torch.arange(5), X)), (losses[0] + 0.3 * losses[1]).detach() / 1.3)


def test_diversity_data_may_be_delayed() -> None:
    objective = Diversity(0.5, adversarial(delay=2, passes="one"), 0.0)
    model = smooth_ensemble()
    close(objective(model, X, Y, 1), Diversity(0.5, None, 0.0)(model, X, Y, 1).detach())


def test_weight_0_is_standard_training() -> None:
    model = smooth_ensemble()
    close(Diversity(0.0, None, 0.1)(model, X, Y, 0)[0], Standard(0.1)(model, X, Y, 0).detach())


def test_members() -> None:
    model = smooth_ensemble()
    assert members(model) == list(model.members)
    assert members(model.members[0]) == [model.members[0]]


# ---- what cannot be trained

CHECKS: list[tuple[Objective, Callable[[], nn.Module], int, str]] = [
    (Diversity(0.5, None, 0.0), flat_net, 0, "ensemble of at least two members"),
    (Diversity(0.5, None, 0.0), lambda: smooth_ensemble(n=1), 0, "ensemble of at least two members"),
    (Diversity(0.5, None, 0.0), smooth_ensemble, 1, "sources should be empty"),
    (
        Diversity(0.5, adversarial(include_self=False, passes="one"), 0.0),
        smooth_ensemble,
        0,
        "^include_self should be true",
    ),
    (Standard(0.0), flat_net, 2, "sources should be empty"),
    (adversarial(include_self=False), flat_net, 0, "^include_self should be true"),
]


@pytest.mark.parametrize(("objective", "model", "sources", "text"), CHECKS)
def test_check_refuses(objective: Objective, model: Callable[[], nn.Module], sources: int, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        objective.check(model(), sources)


def test_check_accepts() -> None:
    Standard(0.0).check(flat_net(), 0)
    adversarial().check(flat_net(), 0)
    adversarial(include_self=False).check(flat_net(), 1)
    Diversity(0.5, None, 0.0).check(smooth_ensemble(), 0)
    Diversity(0.5, adversarial(include_self=False, passes="one"), 0.0).check(smooth_ensemble(), 1)


BAD: list[tuple[Callable[[], object], str]] = [
    (lambda: Standard(1.0), "label_smoothing"),
    (lambda: Standard(-0.1), "label_smoothing"),
    (lambda: adversarial(label_smoothing=1.0), "label_smoothing"),
    (lambda: adversarial(count=3), "count"),
    (lambda: adversarial(placement="replace"), "count"),
    (lambda: kurakin(count=0), "count"),
    (lambda: adversarial(weight=0.0), "weight"),
    (lambda: adversarial(placement="only", weight=0.3), "weight"),
    (lambda: adversarial(delay=-1), "delay"),
    (lambda: Diversity(-0.5, None, 0.0), "weight"),
    (lambda: Diversity(0.5, None, 1.0), "label_smoothing"),
    (lambda: Diversity(0.5, None, 0.1, "log_odds"), "label_smoothing"),
    (lambda: Diversity(0.5, adversarial(passes="two"), 0.0), "data.passes"),
    (lambda: Diversity(0.5, adversarial(passes="one", label_smoothing=0.1), 0.0), "data.label_smoothing"),
]


@pytest.mark.parametrize(("make", "field"), BAD)
def test_bad_settings_name_their_field(make: Callable[[], object], field: str) -> None:
    with pytest.raises(ValueError, match=f"^{field} should be "):
        make()


# ---- every file in conf/trainer

Compose = Callable[..., dict[str, Any]]

TRAINERS = sorted(p.stem for p in (CONF / "trainer").glob("*.yaml"))


@pytest.mark.parametrize("name", TRAINERS)
def test_every_trainers_objective_gives_a_finite_loss_with_gradients(name: str, compose: Compose) -> None:
    trainer = compose(f"trainer={name}", "scale=smoke", *needed(name))["trainer"]
    spec, sources = trainer["objective"], trainer["sources"]
    objective = build(OBJECTIVES, spec, where="trainer.objective")
    model = smooth_ensemble(torch.float32) if spec["name"] == "diversity" else flat_net()
    objective.check(model, len(sources))
    ready = objective.prepare([flat_net(i).eval() for i, _ in enumerate(sources)], None, 3)
    torch.manual_seed(0)
    x, y = torch.rand(40, 1, 2, 2), torch.arange(40) % 3
    for step in (0, 10_000):  # before and after every delay
        model.zero_grad()
        loss, *terms = torch.atleast_1d(ready(model, x, y, step, Origin(torch.arange(40), x)))
        loss.backward()
        assert loss.isfinite() and len(terms) == len(objective.terms)
        slopes = [p.grad for p in model.parameters()]
        assert all(g is not None and g.isfinite().all() for g in slopes) and any(g.any() for g in slopes)


PLANNED: dict[str, tuple[str, ...]] = {  # file: name, placement, passes, weight, attack's label or distribution
    "standard": ("standard",),
    "standard_augmented": ("standard",),
    "fgsm_adv": ("adversarial", "append", "two", "1.0", "predicted"),
    "rand_fgsm_adv": ("adversarial", "append", "two", "1.0", "predicted"),
    "ensemble_adv": ("adversarial", "append", "two", "1.0", "predicted"),
    "kurakin": ("adversarial", "replace", "one", "0.3", "least_likely"),
    "kurakin_nat": ("standard",),
    "madry": ("adversarial", "only", "one", "1.0", "true"),
    "madry_cifar": ("adversarial", "only", "one", "1.0", "true"),
    "madry_fgsm": ("adversarial", "only", "one", "1.0", "true"),
    "madry_cifar_fgsm": ("adversarial", "only", "one", "1.0", "true"),
    "madry_nat": ("standard",),
    "madry_cifar_nat": ("standard",),
    "module": ("module",),
    "static_adv": ("adversarial", "append", "one", "1.0", "true"),
    "diversity": ("diversity", "append", "one", "1.0", "truncated_normal"),
    "static_adv_diversity": ("diversity", "append", "one", "1.0", "true"),
}


def test_every_trainer_has_an_entry_here() -> None:
    assert sorted(PLANNED) == TRAINERS


@pytest.mark.parametrize("name", TRAINERS)
def test_trainer_says_what_the_paper_says(name: str, compose: Compose) -> None:
    spec = compose(f"trainer={name}", *needed(name))["trainer"]["objective"]
    objective = build(OBJECTIVES, spec, where="trainer.objective")
    found = [spec["name"]]
    part = objective.data if isinstance(objective, Diversity) else objective
    if isinstance(part, Adversarial):
        attack = part.attack
        kind = attack.label if isinstance(attack, GradientAttack) else attack.distribution  # type: ignore[attr-defined]
        found += [part.placement, part.passes, str(part.weight), kind]
    assert tuple(found) == PLANNED[name]


def test_ensemble_adversarial_training_has_models_a_c_d(compose: Compose) -> None:
    sources = compose("trainer=ensemble_adv")["trainer"]["sources"]
    assert {name: source["arch"]["name"] for name, source in sources.items()} == {
        "A": "mnist_a",
        "C": "mnist_c",
        "D": "mnist_d",
    }


@pytest.mark.parametrize("name", ["static_adv", "static_adv_diversity"])
def test_a_static_source_has_the_models_own_architecture_and_another_seed(name: str, compose: Compose) -> None:
    config = compose(f"trainer={name}", "arch=conv3")
    static = config["trainer"]["sources"]["static"]
    assert static["arch"] == config["arch"] and static["seed"] == config["seed"] + 2000
    assert static["trainer"]["objective"]["name"] == "standard"


@pytest.mark.parametrize("key", ["weight", "label_smoothing"])
@pytest.mark.parametrize(("value", "written"), [("1/2", "'1/2'"), (True, "true"), (None, "null")])
def test_a_wrong_type_names_the_full_key(key: str, value: object, written: str, compose: Compose) -> None:
    spec = compose("trainer=kurakin")["trainer"]["objective"]
    with pytest.raises(ConfigError, match=rf"^trainer\.objective\.{key} should be a float, is {written}"):
        build(OBJECTIVES, spec | {key: value}, where="trainer.objective")
