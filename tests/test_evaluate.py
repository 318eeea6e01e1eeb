"""The transfer matrix on models whose predictions are written down: who is source, who is target, who is counted."""

import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from linear import NoFloat64, linear, softmax_gradient
from torch import Generator, Tensor, nn

from epsball import evaluate
from epsball.attacks import ATTACKS, NoiseAttack
from epsball.build import build
from epsball.data import Split
from epsball.evaluate import Mistakes, Violation, clean_mistakes, clean_row, mistakes, rate, transfer, transfer_row
from epsball.progress import Interrupted, Stop
from epsball.worst_case import find_fooled, worst_case_row

EPS = 0.1
IMAGES = 4
LABELS = [0, 1, 2, 3]


class Oracle(nn.Module):
    """Predicts what is written down: `clean` per image, or `fooled[code]` on an example crafted on the model `code`.

    Pixel (0, 0) of an image is its number / 255; an example crafted on the model `code` has pixel (0, code) raised.
    """

    def __init__(self, code: int, clean: list[int], fooled: dict[int, list[int]]) -> None:
        super().__init__()
        self.code, self.clean, self.fooled = code, clean, fooled
        self.crafted: list[int] = []  # batch sizes
        self.seen: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(len(x))
        logits = torch.zeros(len(x), 7)
        for i, image in enumerate(x):
            number = round(float(image[0, 0, 0]) * 255)
            codes = [code for code in self.fooled if float(image[0, 0, code]) > 0]
            logits[i, self.fooled[codes[0]][number] if codes else self.clean[number]] = 1.0
        return logits


@dataclass(frozen=True)
class Mark:
    """An attack that signs its examples with the model they were crafted on; `reach` is how far it goes."""

    eps: float = EPS
    reach: float = EPS
    start: float = 0.0
    deterministic: bool = True

    def __call__(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        generator: Generator | None = None,
        shrink: Tensor | None = None,
    ) -> Tensor:
        assert isinstance(model, Oracle)
        model.crafted.append(len(x))
        x_adv = x.clone()
        x_adv[:, 0, 0, model.code] += self.reach
        return x_adv


def images(count: int = IMAGES, background: int = 0) -> Split:
    x = torch.full((count, 1, 1, 5), background, dtype=torch.uint8)
    x[:, 0, 0, 0] = torch.arange(count)
    return Split(x, torch.tensor(LABELS * (count // IMAGES) + LABELS[: count % IMAGES]))


@pytest.fixture
def a() -> Oracle:
    """Right on all; wrong on 3 of 4 of its own examples and on the first of b's."""
    return Oracle(1, clean=[0, 1, 2, 3], fooled={1: [5, 5, 5, 3], 2: [5, 1, 2, 3]})


@pytest.fixture
def b() -> Oracle:
    """Wrong on the first; wrong on the first two of a's examples and on all of its own."""
    return Oracle(2, clean=[5, 1, 2, 3], fooled={1: [5, 5, 2, 3], 2: [5, 5, 5, 5]})


def crafted_on(
    source: nn.Module,
    targets: dict[str, nn.Module],
    attack: Any = None,
    batch_size: int = 3,
    stop: Stop | None = None,
    test: Split | None = None,
) -> tuple[Mistakes, dict[str, Mistakes], float]:
    generator = Generator().manual_seed(0)
    return transfer(
        source, attack or Mark(), targets, test or images(), batch_size, generator, stop or Stop(), "mark on source"
    )


# ---- who is source and who is target


def test_source_and_target_are_not_interchangeable(a: Oracle, b: Oracle) -> None:
    own, wrong, largest = crafted_on(a, {"a": a, "b": b})
    assert wrong["a"].top1.tolist() == own.top1.tolist() == [True, True, True, False]
    assert wrong["b"].top1.tolist() == [True, True, False, False]
    assert largest == pytest.approx(EPS)
    own, wrong, _ = crafted_on(b, {"a": a, "b": b})
    assert wrong["a"].top1.tolist() == [True, False, False, False]
    assert wrong["b"].top1.tolist() == own.top1.tolist() == [True, True, True, True]


def test_clean_images_are_not_attacked(a: Oracle, b: Oracle) -> None:
    assert clean_mistakes(a, images(), 3, Stop()).top1.tolist() == [False] * 4
    assert clean_mistakes(b, images(), 3, Stop()).top1.tolist() == [True, False, False, False]
    assert a.seen == [3, 1] and a.crafted == []


def test_a_row_from_a_to_b_by_hand(a: Oracle, b: Oracle) -> None:
    clean = {"a": clean_mistakes(a, images(), 2, Stop()), "b": clean_mistakes(b, images(), 2, Stop())}
    own, wrong, _ = crafted_on(a, {"a": a, "b": b})
    row = transfer_row(clean["a"], own, clean["b"], wrong["b"])
    assert (row["n"], row["error_top1"], row["clean_error_top1"]) == (4, 0.5, 0.25)
    assert (row["transfer_n"], row["transfer_rate_top1"]) == (3, pytest.approx(2 / 3))
    own, wrong, _ = crafted_on(b, {"a": a, "b": b})
    row = transfer_row(clean["b"], own, clean["a"], wrong["a"])
    assert (row["n"], row["error_top1"], row["clean_error_top1"]) == (4, 0.25, 0.0)
    assert (row["transfer_n"], row["transfer_rate_top1"]) == (3, 0.0)  # b was wrong on the first image before


def test_the_white_box_transfer_rate_is_one(a: Oracle) -> None:
    own, wrong, _ = crafted_on(a, {"a": a})
    row = transfer_row(clean_mistakes(a, images(), 4, Stop()), own, clean_mistakes(a, images(), 4, Stop()), wrong["a"])
    assert (row["transfer_rate_top1"], row["transfer_n"]) == (1.0, 3)


# ---- how often the models are asked


def test_examples_are_crafted_once_and_shown_to_every_target(a: Oracle, b: Oracle) -> None:
    c = Oracle(3, [0, 1, 2, 3], {1: [0, 1, 2, 3], 2: [0, 1, 2, 3]})
    crafted_on(a, {"a": a, "b": b, "c": c})
    assert a.crafted == [3, 1] and b.crafted == c.crafted == []
    assert a.seen == b.seen == c.seen == [3, 1]


def test_a_source_that_is_no_target_sees_its_own_examples_once(a: Oracle, b: Oracle) -> None:
    own, wrong, _ = crafted_on(a, {"b": b})
    assert own.top1.tolist() == [True, True, True, False]
    assert list(wrong) == ["b"]
    assert a.crafted == [3, 1] and a.seen == b.seen == [3, 1]


def test_a_matrix_crafts_sources_x_attacks_and_shows_them_to_every_target(a: Oracle, b: Oracle) -> None:
    attacks = [Mark(), Mark(reach=EPS / 2), Mark(reach=EPS / 4)]
    for attack in attacks:
        for source in (a, b):
            crafted_on(source, {"a": a, "b": b}, attack, batch_size=4)
    assert len(a.crafted) + len(b.crafted) == 2 * 3
    assert len(a.seen) + len(b.seen) == 2 * 3 * 2


# ---- rates by hand


def marked(top1: str, top5: str | None = None) -> Mistakes:
    """`x` is wrong, `.` is right."""
    return Mistakes(
        torch.tensor([c == "x" for c in top1]),
        None if top5 is None else torch.tensor([c == "x" for c in top5]),
        2.5,
    )


def test_the_transfer_rate_counts_what_the_source_loses() -> None:
    row = transfer_row(
        source_clean=marked("..x...", "......"),
        source_adv=marked("xxxx..", ".x..x."),
        target_clean=marked("x.....", "......"),
        target_adv=marked("x.xxx.", "xxx..."),
    )
    assert row == {
        "n": 6,
        "error_top1": pytest.approx(4 / 6),
        "error_top5": pytest.approx(3 / 6),
        "transfer_rate_top1": pytest.approx(2 / 3),  # images 0, 1, 3; the target loses 0 and 3
        "transfer_rate_top5": pytest.approx(1 / 2),  # images 1, 4; the target loses 1
        "transfer_n": 3,
        "transfer_n_top5": 2,
        "clean_error_top1": pytest.approx(1 / 6),
        "seconds": 2.5,
    }


def test_a_source_that_loses_nothing_has_no_transfer_rate() -> None:
    row = transfer_row(marked("x."), marked("x."), marked(".."), marked("xx"))
    assert math.isnan(row["transfer_rate_top1"]) and row["transfer_n"] == 0
    assert row["error_top1"] == 1.0


def test_with_five_classes_there_is_no_top_five() -> None:
    row = transfer_row(marked(".."), marked("xx"), marked(".."), marked("x."))
    assert math.isnan(row["error_top5"]) and math.isnan(row["transfer_rate_top5"])
    assert math.isnan(clean_row(marked("x."))["error_top5"])


def test_a_clean_row() -> None:
    assert clean_row(marked("x..x.", "....x")) == {
        "n": 5,
        "error_top1": 0.4,
        "error_top5": 0.2,
        "clean_error_top1": 0.4,
        "max_perturbation": 0.0,
        "seconds": 2.5,
    }


def test_a_rate_of_nothing_is_nan() -> None:
    assert math.isnan(rate(None)) and math.isnan(rate(torch.tensor([], dtype=torch.bool)))
    assert math.isnan(rate(torch.tensor([True]), torch.tensor([False])))
    assert rate(torch.tensor([True, False, True]), torch.tensor([True, True, False])) == 0.5


def test_a_rate_is_the_mean_in_float64_bit_for_bit() -> None:
    generator = Generator().manual_seed(0)
    for n in (1, 3, 7, 49, 997, 9999, 10000):
        wrong, among = (torch.rand(n, generator=generator) < share for share in (0.3, 0.6))
        among[0] = True
        assert rate(wrong) == float(wrong.double().mean())
        assert rate(wrong, among) == float(wrong[among].double().mean())


@pytest.mark.parametrize(
    ("label", "top1", "top5"), [(6, False, False), (5, True, False), (2, True, False), (1, True, True)]
)
def test_first_guess_and_first_five(label: int, top1: bool, top5: bool) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(5, 7))
    with torch.no_grad():
        model[1].weight.zero_()
        model[1].bias.copy_(torch.arange(7.0))  # class 6 first, then 5, 4, 3, 2
    found = mistakes(model, torch.zeros(1, 1, 1, 5), torch.tensor([label]))
    assert found[1] is not None and (found[0].item(), found[1].item()) == (top1, top5)
    assert not found[0].requires_grad


@pytest.mark.parametrize(("classes", "there"), [(5, False), (6, True)])
def test_top_five_needs_more_than_five_classes(classes: int, there: bool) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(5, classes))
    found = mistakes(model, torch.zeros(2, 1, 1, 5), torch.tensor([0, 1]))
    assert (found[1] is not None) == there


# ---- attacks that cheat


def test_an_example_outside_the_ball_is_refused(a: Oracle) -> None:
    with pytest.raises(Violation, match=r"mark on source: eps is 0\.100000, an example lies 0\.101000 from its image"):
        crafted_on(a, {"a": a}, Mark(reach=EPS + 1e-3))


def test_an_example_outside_the_box_is_refused(a: Oracle) -> None:
    with pytest.raises(Violation, match=r"0\.100000 outside \[0, 1\]"):
        crafted_on(a, {"a": a}, test=images(background=255))
    with pytest.raises(Violation, match=r"0\.050000 outside \[0, 1\]"):
        crafted_on(a, {"a": a}, Mark(reach=-0.05))


def test_an_example_that_is_no_number_is_refused(a: Oracle) -> None:
    with pytest.raises(Violation):
        crafted_on(a, {"a": a}, Mark(reach=math.nan))


def test_one_bad_example_in_the_last_batch_is_enough(a: Oracle) -> None:
    test = images()
    test.x[-1, 0, 0, 1] = 255
    with pytest.raises(Violation):
        crafted_on(a, {"a": a}, test=test)


@pytest.mark.parametrize("background", [0, 100])
def test_rounding_is_no_violation(a: Oracle, background: int) -> None:
    _, _, largest = crafted_on(a, {"a": a}, Mark(reach=EPS + 5e-7), test=images(background=background))
    assert largest == pytest.approx(EPS, abs=1e-6)


# ---- stopping


def test_a_stop_ends_an_evaluation_before_its_next_batch(a: Oracle) -> None:
    stop = Stop()

    class Stopping(Oracle):
        def forward(self, x: Tensor) -> Tensor:
            stop.signum = 15
            return super().forward(x)

    target = Stopping(3, [0, 1, 2, 3], {1: [0, 1, 2, 3]})
    with pytest.raises(Interrupted) as error:
        crafted_on(a, {"t": target}, batch_size=1, stop=stop)
    assert error.value.signum == 15 and a.crafted == [1] and target.seen == [1]
    target.seen.clear()
    with pytest.raises(Interrupted):
        clean_mistakes(target, images(), 1, stop)
    assert target.seen == []


# ---- batches


def random_network(seed: int) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.Tanh(), nn.Linear(12, 7)).eval()
    for p in model.parameters():
        nn.init.normal_(p, generator=generator)
    return model.requires_grad_(False)


def random_images() -> Split:
    generator = torch.Generator().manual_seed(1)
    x = torch.randint(256, (50, 1, 4, 4), generator=generator, dtype=torch.uint8)
    return Split(x, torch.randint(7, (50,), generator=generator))


@pytest.mark.parametrize("steps", [1, 5])
def test_a_deterministic_attack_does_not_depend_on_the_batch_size(steps: int) -> None:
    spec = {
        **{"name": "gradient", "eps": EPS, "steps": steps, "step_size": None, "step": "sign", "loss": "cross_entropy"},
        **{"kappa": 0.0, "label": "true", "start": "none", "start_share": 0.0, "clip_start": True},
        **{"momentum": 1.0, "restarts": 1, "keep": "last"},
    }
    attack = build(ATTACKS, spec, where="attack")
    test = random_images()
    source, target = random_network(1), random_network(2)
    found = [crafted_on(source, {"t": target}, attack, size, test=test) for size in (1, 7, 50, 1000)]
    for own, wrong, largest in found[1:]:
        assert torch.equal(own.top1, found[0][0].top1)
        assert torch.equal(wrong["t"].top1, found[0][1]["t"].top1)
        assert largest == pytest.approx(found[0][2], abs=1e-7)
    assert 0 < int(found[0][1]["t"].top1.sum()) < 50  # there was something to tell apart


def test_the_generator_decides_a_random_attack() -> None:
    attack = build(ATTACKS, {"name": "noise", "eps": EPS, "distribution": "sign"}, where="attack")
    source, test = random_network(1), Split(torch.full((1, 1, 4, 4), 128, dtype=torch.uint8), torch.tensor([0]))
    torch.manual_seed(0)
    before = torch.get_rng_state()
    seen: list[Tensor] = []
    source.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    for seed in (0, 0, 1):
        transfer(source, attack, {"s": source}, test, 8, Generator().manual_seed(seed), Stop(), "noise")
    assert torch.equal(seen[0], seen[1]) and not torch.equal(seen[0], seen[2])
    assert torch.equal(torch.get_rng_state(), before)


def test_rows_hold_plain_numbers() -> None:
    """They go to JSON and CSV."""
    row = transfer_row(marked(".", "."), marked("x", "x"), marked(".", "."), marked("x", "x"))
    assert {type(value) for value in [*row.values(), *clean_row(marked("x")).values()]} == {int, float}
    assert evaluate.TOLERANCE < 1 / 255 / 1000


# ---- gradients and surfaces, on a linear model where they are known


@pytest.fixture
def known() -> tuple[Tensor, Split]:
    """Weights of a linear model of three classes, and 11 images with labels."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randint(256, (11, 1, 4, 4), generator=generator, dtype=torch.uint8)
    return torch.randn(3, 16, generator=generator), Split(x, torch.randint(3, (11,), generator=generator))


@pytest.mark.parametrize("batch_size", [1, 4, 11, 100])
def test_gradient_norms_are_those_of_each_images_own_loss(known: tuple[Tensor, Split], batch_size: int) -> None:
    """Not of the batch's mean loss, whose gradient is as many times smaller."""
    weight, test = known
    x, y = test.take(torch.arange(11))
    expected = softmax_gradient(weight, x, y)
    model = linear(weight).requires_grad_(False)
    assert torch.allclose(evaluate.input_gradient(model, x, y), expected, atol=1e-6)
    norms = evaluate.gradient_norms(model, test, batch_size, Stop())
    assert norms.shape == (11,) and torch.allclose(norms, expected.flatten(1).norm(dim=1), rtol=1e-5)
    assert not x.requires_grad and not norms.requires_grad


def test_a_gradient_row_is_mean_sd_and_share_of_zeros() -> None:
    row = evaluate.gradient_row(torch.tensor([0.0, 1.0, 2.0, 0.0, 7.0]))
    assert row == {
        "gradient_l2_mean": 2.0,
        "gradient_l2_sd": pytest.approx((34 / 4) ** 0.5),
        "gradient_zero_share": pytest.approx(0.4),
    }
    assert {type(value) for value in row.values()} == {float}


def test_gradients_stop_before_the_next_batch(known: tuple[Tensor, Split]) -> None:
    weight, test = known
    stop = Stop()
    model = linear(weight)
    model.register_forward_hook(lambda *_: setattr(stop, "signum", 15))
    with pytest.raises(Interrupted):
        evaluate.gradient_norms(model, test, 4, stop)


def test_a_surface_is_the_loss_along_two_signed_gradients(known: tuple[Tensor, Split]) -> None:
    weight, test = known
    x, y = test.take(torch.arange(5))
    model, other = linear(weight), linear(weight.flip(0))
    steps = torch.tensor([0.0, 0.2, 0.5])
    for clip in (False, True):
        losses = evaluate.surface(model, (model, other), x, y, steps, clip, 2, Stop())
        first, second = (softmax_gradient(w, x, y).sign() for w in (weight, weight.flip(0)))
        for i, e1 in enumerate((0.0, 0.2, 0.5)):
            for j, e2 in enumerate((0.0, 0.2, 0.5)):
                moved = x + e1 * first + e2 * second
                logits = (moved.clamp(0, 1) if clip else moved).flatten(1) @ weight.T
                expected = -logits.log_softmax(1)[torch.arange(5), y]
                assert torch.allclose(losses[:, i, j], expected, atol=1e-5), (clip, e1, e2)
    assert losses.shape == (5, 3, 3)


def test_transferring_images_are_right_clean_and_wrong_crafted_elsewhere(a: Oracle, b: Oracle) -> None:
    """b is wrong on the first image already; of a's examples it loses the first two."""
    for batch_size in (1, 3, 4):
        arguments = (a, b, Mark(), images(8), batch_size, Generator(), Stop())
        a.crafted.clear()
        b.clean, b.fooled = [5, 1, 2, 3] * 2, {1: [5, 5, 2, 3, 5, 5, 2, 3], 2: [5] * 8}
        a.clean, a.fooled = [0, 1, 2, 3] * 2, {1: [5] * 8, 2: [5] * 8}
        assert evaluate.transferring(*arguments, 10).tolist() == [1, 5]
        a.crafted.clear()
        assert evaluate.transferring(*arguments, 1).tolist() == [1]
        assert sum(a.crafted) < 8  # no more than it takes


# ---- devices without float64, and without waiting


def test_no_rate_is_computed_in_float64_on_the_device() -> None:
    source, target, test, stop = random_network(0), random_network(1), random_images(), Stop()
    spec = {
        **{"name": "gradient", "eps": EPS, "steps": 3, "step_size": None, "step": "sign", "loss": "cross_entropy"},
        **{"kappa": 0.0, "label": "random", "start": "uniform", "start_share": 1.0, "clip_start": True},
        **{"momentum": 1.0, "restarts": 3, "keep": "best"},
    }
    attack = build(ATTACKS, spec, where="attack")
    with NoFloat64("cpu"):
        clean = [clean_mistakes(model, test, 16, stop) for model in (source, target)]
        assert clean_row(clean[0])["n"] == len(test)
        own, wrong, _ = crafted_on(source, {"t": target}, attack, 16, test=test)
        assert transfer_row(clean[0], own, clean[1], wrong["t"])["n"] == len(test)
        generators = {name: Generator().manual_seed(0) for name in ("pgd", "noise")}
        attacks = {"pgd": attack, "noise": NoiseAttack(EPS, "truncated_normal")}
        fooled, seconds = find_fooled(target, attacks, test, 16, generators, stop, "worst")
        assert worst_case_row(clean[1], fooled, seconds)["n"] == len(test)
        assert evaluate.gradient_norms(target, test, 16, stop).shape == (len(test),)
        evaluate.surface(target, (source, target), *test.take(torch.arange(3)), torch.tensor([0.0, 0.1]), True, 2, stop)


def test_norms_leave_the_device_before_they_become_float64() -> None:
    """The copy from the meta device fails, as it must; nothing became float64 on it before."""
    with pytest.raises(NotImplementedError, match="Cannot copy out of meta tensor"), NoFloat64("meta"):
        evaluate.gradient_row(torch.rand(5, device="meta"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_the_clock_is_read_when_the_device_is_done() -> None:
    device = torch.device("cuda", 0)
    began = evaluate.seconds_at(device)
    torch.cuda._sleep(200_000_000)  # cycles: a tenth of a second at the least
    assert evaluate.seconds_at(device) - began > 0.05
