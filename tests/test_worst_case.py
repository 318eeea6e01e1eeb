"""Error rates that stop early: the same rates as running every restart on every image, for less."""

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from linear import CountingModel, batch_sizes
from torch import Tensor, nn

from epsball.attacks import Attack, GradientAttack, NoiseAttack
from epsball.data import Split
from epsball.evaluate import clean_mistakes
from epsball.progress import Interrupted, Progress, Stop
from epsball.worst_case import Search, doublings, find_fooled, packed, worst_case_row

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


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def fooled_by(
    attacks: Attack | Mapping[str, Attack], model: nn.Module, test: Split, batch_size: int = 25, seed: int = 5
) -> Tensor:
    named = attacks if isinstance(attacks, Mapping) else {"one": attacks}
    generators = {name: seeded(seed) for name in named}
    return find_fooled(model, named, test, batch_size, generators, Stop(), "worst case")[0]


def clean_errors(model: nn.Module, test: Split) -> Tensor:
    return clean_mistakes(model, test, 25, Stop()).top1


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
    find_fooled(model, {"pgd": PGD}, test, 10, {"pgd": seeded(5)}, Stop(), "worst case")
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
    clean = clean_mistakes(model, test, 25, Stop())
    assert together[clean.top1].all() and together.sum() > clean.top1.sum() and not together.all()
    row = worst_case_row(clean, together, 2.5)
    assert row == {
        "n": len(test),
        "error_top1": pytest.approx(together.double().mean().item()),
        "clean_error_top1": pytest.approx(clean.top1.double().mean().item()),
        "seconds": 2.5,
    }


def test_noise_is_one_draw_for_every_image() -> None:
    test, model = some_images()
    noise, generator = NoiseAttack(eps=0.3, distribution="sign"), seeded(5)
    expected = torch.cat([model(noise(model, x, y, generator)).argmax(1) != y for x, y in test.batches(25)])
    assert torch.equal(fooled_by(noise, model, test), expected | clean_errors(model, test))


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
    with Progress("worst case", len(test) * attack.restarts) as progress:
        Search(model, test, 25, True, fooled, Stop(), progress).ascend(attack, seeded(5))
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
        find_fooled(model, {"pgd": PGD}, test, 10, {"pgd": seeded(5)}, stop, "worst case")
    assert len(seen) < 6 + 10 + 10


def test_packing_keeps_the_order_and_every_image() -> None:
    attack, sizes = replace(PGD, momentum=1.0), [3, 0, 5, 1, 5, 0, 2, 1]
    x = torch.rand(sum(sizes), 1, 4, 4, generator=seeded(0))
    places = torch.arange(len(x)).split(sizes)
    parts = ((index, attack.begin(x[index], x[index], x.new_ones(()), index)) for index in places)
    batches = list(packed(parts, 5))
    assert [len(index) for index, _ in batches] == [5, 5, 5, 2]
    assert torch.cat([index for index, _ in batches]).tolist() == list(range(len(x)))
    for index, state in batches:
        assert torch.equal(state.x_adv, x[index]) and torch.equal(state.high, (x[index] + PGD.eps).clamp(max=1))
        assert state.label is not None and torch.equal(state.label, index) and state.velocity.dim() == 0
    assert list(packed(iter([]), 5)) == []
