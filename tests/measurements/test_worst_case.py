"""Error rates that stop early: the same rates as running every restart on every image, for less."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from linear import CountingModel, Function, NoFloat64, batch_sizes, linear, seeded
from squares import CLASSES, EPS, FGSM, cells, errors, example, make_setup, whole
from torch import Tensor, nn

from epsball.attacks import NamedAttack
from epsball.attacks.attack import Attack, BrokenContract
from epsball.attacks.gradient import AttackState, GradientAttack
from epsball.attacks.noise import NoiseAttack
from epsball.data.images import Batched, Split
from epsball.measurements.measurement import Measurement, Rows, Setup
from epsball.measurements.violations import Reach, Violation
from epsball.measurements.worst_case import Search, WorstCase, doublings, find_fooled, packed, worst_case_rates
from epsball.models.predictions import find_mistakes
from epsball.results.paired import packed_bits
from epsball.runtime.progress import Interrupted, Progress, Stop

Measure = Callable[[Measurement, Setup], Rows]
PGD = GradientAttack(
    eps=0.3,
    steps=20,
    step_size=0.03,
    step_share=None,
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


def some_net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.Tanh(), nn.Linear(12, 3)).eval()


def some_images(n: int = 60) -> tuple[Split, nn.Module]:
    """Images with labels that the net mostly agrees with, and the net: some stand, some fall at once, some late."""
    model, x = some_net(), torch.randint(256, (n, 1, 4, 4), generator=seeded(1), dtype=torch.uint8)
    with torch.no_grad():
        y = model(x.float() / 255).argmax(1)
    y[::7] = (y[::7] + 1) % 3
    return Split(x, y), model


def fooled_by(
    attacks: Attack | Mapping[str, Attack], model: nn.Module, test: Split, batch_size: int = 25, seed: int = 5
) -> Tensor:
    named = attacks if isinstance(attacks, Mapping) else {"one": attacks}
    generators = {name: seeded(seed) for name in named}
    return find_fooled(model, named, Batched(test, batch_size, Stop()), generators, "worst case")[0]


def reach_of(attack: Attack) -> Reach:
    return Reach("worst case", attack.eps)


def clean_errors(model: nn.Module, test: Split) -> Tensor:
    return find_mistakes(model, Batched(test, 25, Stop())).top1


def iterates(attack: GradientAttack, model: nn.Module, test: Split, batch_size: int) -> tuple[Tensor, Tensor]:
    """(N,) booleans, of every restart on every image: does an iterate that is looked at fool the model, does the last.

    All starts of a restart are drawn in order, `batch_size` at a time, before the next restart's."""
    generator, looked, last = seeded(5), clean_errors(model, test), clean_errors(model, test)
    for _ in range(attack.restarts):
        found = []
        for x, y in test.batches(batch_size):
            state = attack.begin(x, attack.draw_start(x, x.new_ones(()), generator), x.new_ones(()), y)
            wrong = []
            for steps in (1, 1, 2, 4, 8, 4):
                attack.advance(model, state, steps)
                wrong.append(model(state.x_adv).argmax(1) != y)
            found.append(torch.stack(wrong))
        every = torch.cat(found, 1)
        looked, last = looked | every.any(0), last | every[-1]
    return looked, last


def test_doublings() -> None:
    assert [doublings(n) for n in (1, 2, 3, 8, 100)] == [
        [0, 1],
        [0, 1, 2],
        [0, 1, 2, 3],
        [0, 1, 2, 4, 8],
        [0, 1, 2, 4, 8, 16, 32, 64, 100],
    ]


@pytest.mark.parametrize("eps", [0.04, 0.1, 0.3])
@pytest.mark.parametrize("momentum", [0.0, 1.0])
@pytest.mark.parametrize("batch_size", [7, 25, 60])
def test_the_fooled_are_those_of_every_restart_on_every_image(eps: float, momentum: float, batch_size: int) -> None:
    test, model = some_images()
    attack = replace(PGD, eps=eps, step_size=eps / 10, momentum=momentum)
    looked, last = iterates(attack, model, test, batch_size)
    fooled = fooled_by(attack, model, test, batch_size)
    assert torch.equal(fooled, looked) and fooled[last].all()
    assert fooled.sum() <= last.sum() + 1  # an iterate on the way seldom fools where the last does not
    assert fooled.sum() > clean_errors(model, test).sum() and (not fooled.all() or eps == 0.3)


def test_images_that_are_fooled_cost_nothing_more() -> None:
    test, model = some_images()
    counted = CountingModel(model)
    standing = 1 - fooled_by(PGD, counted, test).float().mean().item()
    looks = len(doublings(PGD.steps)) / PGD.steps  # forward passes beside the steps' own
    assert 0 < standing < 0.5
    bound = standing * (1 + looks) + (1 - standing) / PGD.restarts  # who falls, falls in the first restart, mostly
    assert counted.images < bound * PGD.restarts * PGD.steps * len(test)


def test_what_stands_is_packed_into_full_batches() -> None:
    test, model = some_images()
    seen = batch_sizes(model)
    find_fooled(model, {"pgd": PGD}, Batched(test, 10, Stop()), {"pgd": seeded(5)}, "worst case")
    del seen[: len(test) // 10]  # the clean images
    stages = len(doublings(PGD.steps)) - 1
    calls = PGD.restarts * (PGD.steps + stages)  # of one batch through all steps, looked at after each stage
    assert max(seen) == 10 and sum(size < 10 for size in seen) <= calls  # each stage has one short batch at the most


def test_wrong_clean_images_are_fooled_even_when_the_attack_would_repair_them() -> None:
    test, model = some_images()
    towards = replace(PGD, label="least_likely", restarts=1, eps=0.3)
    with torch.no_grad():
        x, _ = test.take(torch.arange(len(test)))
        test = Split(test.x, model(x).argmin(1))  # every label wrong, and the attack moves towards it
        repaired = model(towards(model, x, test.y, seeded(5))).argmax(1) == test.y
    assert clean_errors(model, test).all() and repaired.any()
    counted = CountingModel(model)
    assert fooled_by(PGD, counted, test).all() and counted.images == len(test)  # all that is looked at is clean


def test_worst_case_over_attacks_on_the_standing() -> None:
    test, model = some_images()
    weak = replace(PGD, eps=0.03, step_size=0.003, restarts=1)
    attacks: dict[str, Attack] = {"noise": NoiseAttack(eps=0.3, distribution="sign"), "pgd": weak}
    together = fooled_by(attacks, model, test)
    alone = {name: fooled_by(attack, model, test) for name, attack in attacks.items()}
    assert torch.equal(together, alone["noise"] | alone["pgd"])
    assert not torch.equal(together, alone["noise"]) and not torch.equal(together, alone["pgd"])
    clean = find_mistakes(model, Batched(test, 25, Stop()))
    assert together[clean.top1].all() and together.sum() > clean.top1.sum() and not together.all()
    row = worst_case_rates(clean, together, 2.5)
    assert row == {
        "n": len(test),
        "error_top1": pytest.approx(together.double().mean().item()),
        "clean_error_top1": pytest.approx(clean.top1.double().mean().item()),
        "seconds": 2.5,
        "mistakes_top1": packed_bits(together.numpy()),
    }


def test_noise_is_one_draw_for_every_image() -> None:
    test, model = some_images()
    noise, generator = NoiseAttack(eps=0.3, distribution="sign"), seeded(5)
    expected = torch.cat([model(noise(model, x, y, generator)).argmax(1) != y for x, y in test.batches(25)])
    assert torch.equal(fooled_by(noise, model, test), expected | clean_errors(model, test))


def test_noise_that_repairs_an_image_makes_it_none_the_less_fooled() -> None:
    test, model = some_images()
    noise, generator = NoiseAttack(eps=0.5, distribution="sign"), seeded(5)
    noisy = torch.cat([model(noise(model, x, y, generator)).argmax(1) for x, y in test.batches(25)])
    repaired = Split(test.x, noisy)  # every label is what the model says under noise: clean, some are wrong
    clean = clean_errors(model, repaired)
    assert clean.any() and not clean.all()
    assert torch.equal(fooled_by(noise, model, repaired), clean)
    under_pgd = {"pgd": PGD, "noise": NoiseAttack(eps=0.01, distribution="sign")}  # the second fools next to none
    assert fooled_by(under_pgd, model, test)[fooled_by(PGD, model, test)].all()


@pytest.mark.parametrize("restarts", [1, 3])
@pytest.mark.parametrize("label", ["true", "random"])
def test_an_images_random_numbers_do_not_depend_on_which_others_are_fooled(label: str, restarts: int) -> None:
    test, model = some_images()
    attack = replace(PGD, eps=0.05, step_size=0.005, label=label, restarts=restarts)  # type: ignore[arg-type]
    fooled = fooled_by(attack, model, test, 10)
    assert 0 < fooled.sum() < len(test)
    for others in (test.y[:30], (test.y[:30] + 1) % 3):  # the first half: as it was, or wrong from the beginning
        changed = Split(test.x, torch.cat([others, test.y[30:]]))
        assert torch.equal(fooled_by(attack, model, changed, 10)[30:], fooled[30:])


@pytest.mark.parametrize("momentum", [0.0, 1.0])
@pytest.mark.parametrize("label", ["true", "predicted"])
def test_batches_of_one_size_fool_the_same_images(label: str, momentum: float) -> None:
    """As on CUDA: a short batch is filled up with copies, which count for nothing."""
    test, model = some_images()
    single = {"start": "none", "start_share": 0.0, "restarts": 1} if label == "predicted" else {}
    attack = replace(PGD, eps=0.1, step_size=0.01, label=label, momentum=momentum, **single)  # type: ignore[arg-type]
    fooled, expected = clean_errors(model, test), fooled_by(attack, model, test)
    seen = batch_sizes(model)
    with Progress("worst case", len(test) * attack.restarts, "examples") as progress:
        Search(model, Batched(test, 25, Stop()), True, fooled, reach_of(attack), progress).ascend(attack, seeded(5))
        assert progress.done == progress.total
    assert torch.equal(fooled, expected) and set(seen) == {25}


@pytest.mark.parametrize(
    "changes", [{"label": "predicted"}, {"label": "least_likely"}, {"keep": "best"}, {"loss": "entropy"}]
)
def test_every_kind_of_attack_can_stop_early(changes: dict[str, str]) -> None:
    test, model = some_images()
    attack = replace(PGD, **changes)  # type: ignore[arg-type]
    clean = clean_errors(model, test)
    assert fooled_by(attack, model, test).sum() > clean.sum()
    single = replace(attack, start="none", start_share=0.0, restarts=1)
    assert fooled_by(single, model, test).sum() > clean.sum()


def test_a_stop_ends_the_search_before_its_next_batch() -> None:
    test, model = some_images()
    stop, seen = Stop(), batch_sizes(model)

    def interrupt(*_: object) -> None:
        stop.signum = 15 if len(seen) > 6 + 10 else None

    model.register_forward_hook(interrupt)
    with pytest.raises(Interrupted):
        find_fooled(model, {"pgd": PGD}, Batched(test, 10, stop), {"pgd": seeded(5)}, "worst case")
    assert len(seen) < 6 + 10 + 10


def test_packing_keeps_the_order_and_every_image() -> None:
    attack, sizes = replace(PGD, momentum=1.0), [3, 0, 5, 1, 5, 0, 2, 1]
    x = torch.rand(sum(sizes), 1, 4, 4, generator=seeded(0))
    places = torch.arange(len(x)).split(sizes)
    parts = ((index, x[index], attack.begin(x[index], x[index], x.new_ones(()), index)) for index in places)
    batches = list(packed(parts, 5))
    assert [len(index) for index, _, _ in batches] == [5, 5, 5, 2]
    assert torch.cat([index for index, _, _ in batches]).tolist() == list(range(len(x)))
    for index, images, state in batches:
        assert torch.equal(images, x[index]) and torch.equal(state.x_adv, x[index])
        assert torch.equal(state.high, (x[index] + PGD.eps).clamp(max=1))
        assert state.label is not None and torch.equal(state.label, index) and state.velocity.dim() == 0
    assert list(packed(iter([]), 5)) == []


# ---- attacks that break their promise


@dataclass(frozen=True)
class Push:
    """An attack that makes every pixel so much brighter, whatever its eps."""

    eps: float
    by: float
    deterministic: bool = True

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *_: Any, **__: Any) -> Tensor:
        return x + self.by


@pytest.mark.parametrize("by", [0.11, float("nan")])
def test_an_attack_that_leaves_its_ball_or_gives_no_numbers_is_refused(by: float) -> None:
    model, grey = some_net(), Split(torch.full((9, 1, 4, 4), 128, dtype=torch.uint8), torch.zeros(9, dtype=torch.int64))
    fooled_by(Push(0.1, 0.1), model, grey)
    with pytest.raises(Violation, match=r"^one, worst case: eps is 0\.100000, an example lies (0\.11|nan)"):
        fooled_by(Push(0.1, by), model, grey)


def test_an_attack_that_writes_over_its_images_is_refused() -> None:
    class Writing(Push):
        def __call__(self, model: nn.Module, x: Tensor, *_: Any, **__: Any) -> Tensor:
            return x.add_(self.by).clamp_(0, 1)

    with pytest.raises(BrokenContract, match="Writing should leave images and labels as they are"):
        fooled_by(Writing(0.1, 0.3), *some_images()[::-1])


def test_an_iterate_outside_the_ball_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def too_far(attack: GradientAttack, x: Tensor, *rest: Tensor) -> AttackState:
        return begin(replace(attack, eps=0.3), x, *rest)

    test, model = some_images()
    begin = GradientAttack.begin
    monkeypatch.setattr(GradientAttack, "begin", too_far)
    with pytest.raises(Violation, match=r"one, worst case: eps is 0\.100000, an example lies 0\."):
        fooled_by(replace(PGD, eps=0.1, momentum=1.0), model, test, 7)


def test_a_gradient_that_is_no_number_fools_nobody() -> None:
    """The argmax of logits that are no numbers is 0: nearly all labels would count as fooled."""

    def two_logits(x: Tensor) -> Tensor:
        u = x.flatten(1)[:, 0]
        value = torch.where(u >= 0, u, (u - 2).sqrt())  # the gradient of the branch not taken is 0 times NaN
        return torch.stack([torch.zeros_like(u), value + 1], 1)

    test = Split(torch.full((3, 1, 1, 1), 128, dtype=torch.uint8), torch.ones(3, dtype=torch.int64))
    with pytest.raises(Violation):
        fooled_by(replace(PGD, step="linf"), Function(two_logits), test)  # the sign of NaN is 0


# ---- momentum, on a valley that only momentum crosses

BALL, STEP, LOOKS = 0.5, 0.03, (1, 2, 4, 8, 16, 20)
CLIMB = replace(PGD, eps=BALL, steps=20, step_size=STEP, momentum=1.0, start="none", start_share=0.0, restarts=1)


def valley(u: float) -> float:
    """What the model says at brightness u: down from 0.5 to 0.6, over 0 where it is fooled, from 0.7 on."""
    return u - 1 if u < 0.5 else -u if u < 0.6 else 6 * u - 4.2


def crosses(u: float, kept: bool) -> bool:
    """Whether the attack from u comes to where the model is fooled; `kept`: whether momentum outlives each look."""
    low, high, velocity = max(u - BALL, 0.0), min(u + BALL, 1.0), 0.0
    for step in range(CLIMB.number_of_steps):
        if not kept and step in LOOKS:
            velocity = 0.0
        velocity += -1.0 if 0.5 <= u < 0.6 else 1.0
        u = min(max(u + STEP * ((velocity > 0) - (velocity < 0)), low), high)
        if step + 1 in LOOKS and valley(u) > 0:
            return True
    return False


@pytest.mark.parametrize("one_size", [False, True])
@pytest.mark.parametrize("batch_size", [1, 4, 7, 100])
def test_momentum_outlives_looks_packing_and_images_that_drop_out(batch_size: int, one_size: bool) -> None:
    levels = [*range(40, 204, 2)]  # of one pixel, brightness 0.16 to 0.8: some fall at each look, some never
    levels = levels[::2] + levels[1::2]
    test = Split(torch.tensor(levels, dtype=torch.uint8).view(-1, 1, 1, 1), torch.zeros(len(levels), dtype=torch.int64))

    def two_logits(x: Tensor) -> Tensor:
        u = x.flatten(1)[:, 0]
        value = torch.where(u < 0.5, u - 1, torch.where(u < 0.6, -u, 6 * u - 4.2))
        return torch.stack([torch.zeros_like(u), value], 1)

    expected = [valley(level / 255) > 0 or crosses(level / 255, kept=True) for level in levels]
    without = [valley(level / 255) > 0 or crosses(level / 255, kept=False) for level in levels]
    assert any(expected) and not all(expected) and sum(without) < sum(expected) - 5
    fooled = clean_errors(Function(two_logits), test)
    with Progress("worst case", len(test), "examples") as progress:
        search = Search(
            Function(two_logits), Batched(test, batch_size, Stop()), one_size, fooled, reach_of(CLIMB), progress
        )
        search.ascend(CLIMB, seeded())
    assert fooled.tolist() == expected


def test_packing_takes_each_images_momentum_along() -> None:
    attack, sizes, model = replace(PGD, momentum=1.0), [3, 0, 5, 1, 2], some_net()
    x = torch.rand(sum(sizes), 1, 4, 4, generator=seeded(0))
    states = [
        attack.begin(x[index], x[index], x.new_ones(()), index % 3) for index in torch.arange(len(x)).split(sizes)
    ]
    for state in states:
        attack.advance(model, state, 2)
    velocity = torch.cat([state.velocity for state in states])
    assert len(velocity) == len(x) and velocity.abs().flatten(1).sum(1).min() > 0
    parts = zip(torch.arange(len(x)).split(sizes), states, strict=True)
    for index, _, state in packed(((index, x[index], state) for index, state in parts), 4):
        assert torch.equal(state.velocity, velocity[index])


# ---- the measurement


def test_the_worst_case_of_two_eps_is_that_of_each(measured: Measure, tmp_path: Path) -> None:
    setup = make_setup(tmp_path, NamedAttack("fgsm", FGSM), NamedAttack("fgsm", replace(FGSM, eps=0.1)))
    x, y = whole(setup.test)
    rows = measured(WorstCase(), setup)["results"]
    assert cells(rows) == [
        *(("clean", m, m) for m in "AB"),
        *(("worst_case", m, m) for m in "AB" for _ in range(2)),
    ]
    assert [row["eps"] for row in rows] == [0, 0, 0.1, EPS, 0.1, EPS]
    for row in rows:
        name, eps = row["target"], row["eps"]
        lost = errors(name, x, y) | errors(name, example(name, x, y, eps), y)
        assert row["error_top1"] == pytest.approx(float(lost.double().mean()))
        assert row["clean_error_top1"] == float(errors(name, x, y).double().mean()) and row["n"] == len(y)
    assert rows[2]["error_top1"] != rows[4]["error_top1"]  # neither model's row could stand in the other's place


def test_eps_that_differ_by_rounding_are_one(tmp_path: Path) -> None:
    """0.1 * 3 is a rounding above 0.3: an image counts that the attack of either fools."""
    noise = NamedAttack("noise", NoiseAttack(0.3, "sign"))
    setup = make_setup(tmp_path, noise, NamedAttack("fgsm", replace(FGSM, eps=0.1 * 3)))
    together = WorstCase().measure(setup)["results"]
    alone = WorstCase().measure(replace(setup, attacks=setup.attacks[:1]))["results"]
    assert [(row["source"], row["eps"]) for row in together] == [("A", 0.3), ("B", 0.3)]
    assert any(both["error_top1"] > one["error_top1"] for both, one in zip(together, alone, strict=True))


def test_repaired_images_count_as_fooled_in_the_rows(tmp_path: Path) -> None:
    """An attack towards the least likely class makes some of the images right that are wrong clean."""
    towards = replace(FGSM, label="least_likely", eps=0.5)
    setup = make_setup(tmp_path, NamedAttack("towards", towards))
    x, y = whole(setup.test)
    wrong = {}
    for row in WorstCase().measure(setup)["results"]:
        name = row["target"]
        adversarial = errors(name, towards(setup.models[name], x, y), y)
        wrong[name] = errors(name, x, y), adversarial
        assert row["error_top1"] == float((errors(name, x, y) | adversarial).double().mean())
    assert any((clean & ~adversarial).any() for clean, adversarial in wrong.values())


def test_attacks_sources_and_seeds_draw_starts_of_their_own(tmp_path: Path) -> None:
    """Two attacks whose step sizes differ, too small to tell from their start; what each model is shown is the start
    that the setup's generator gives for that attack and source, whichever attacks come before."""
    grey = Split(torch.full((1, 1, 4, 4), 128, dtype=torch.uint8), torch.tensor([0]))
    still = [NamedAttack(f"still {n}", replace(PGD, step_size=n * 1e-7, steps=1, restarts=1)) for n in (1, 2)]
    starts: list[tuple[float, ...]] = []
    for seed in (0, 1):
        models = {name: linear(torch.zeros(CLASSES, 16)) for name in "AB"}
        setup = make_setup(tmp_path, *still, models=models, test=grey, seed=seed)
        seen = {name: shown_to(model) for name, model in models.items()}
        WorstCase().measure(setup)
        (x, _), one = whole(grey), torch.ones(())
        for source in "AB":
            moved = [image for image in seen[source] if not torch.equal(image, x)]
            for named in still:
                start = named.attack.draw_start(x, one, setup.generator(named, source))  # type: ignore[attr-defined]
                assert any(torch.allclose(image, start, atol=1e-6) for image in moved)
                starts.append(tuple(start.flatten().tolist()))
    assert len(set(starts)) == 2 * 2 * 2


def shown_to(model: nn.Module) -> list[Tensor]:
    """A list that grows by one batch of images at every forward pass of `model` from now on."""
    seen: list[Tensor] = []
    model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    return seen


def test_no_rate_is_computed_in_float64_on_the_device() -> None:
    test, model = some_images()
    attacks = {"pgd": replace(PGD, label="random", momentum=1.0), "noise": NoiseAttack(0.1, "truncated_normal")}
    with NoFloat64("cpu"):
        generators = {name: seeded() for name in attacks}
        fooled, seconds = find_fooled(model, attacks, Batched(test, 16, Stop()), generators, "worst")
        assert worst_case_rates(find_mistakes(model, Batched(test, 16, Stop())), fooled, seconds)["n"] == len(test)
