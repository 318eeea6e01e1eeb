"""The transfer matrix: who is source, who is target, who is counted; crafted once, and nothing finished again."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from linear import CountingModel, NoFloat64, linear, seeded
from squares import CLASSES, EPS, FGSM, WEIGHTS, assert_same, cells, errors, example, frames, make_setup, whole
from torch import Generator, Tensor, nn

from epsball.attacks import ATTACKS, NamedAttack
from epsball.attacks.attack import BrokenContract
from epsball.attacks.noise import NoiseAttack
from epsball.build import ConfigError, build
from epsball.data.examples import ROUNDING
from epsball.data.images import Batched, Data, Split
from epsball.experiment.prepare import prepare_experiment
from epsball.measurements.measurement import Measurement, Row, Rows, Setup, clean_rates
from epsball.measurements.score_examples import ScoreExamples
from epsball.measurements.transfer_matrix import TransferMatrix, transfer, transfer_rates
from epsball.measurements.violations import Violation
from epsball.models.predictions import Mistakes, find_mistakes
from epsball.paper.expressions import parse_expression
from epsball.results.paired import packed_bits
from epsball.runtime.progress import Interrupted, Stop
from epsball.runtime.store import Store

REACH = 0.1
IMAGES = 4
LABELS = [0, 1, 2, 3]
MATRIX = TransferMatrix(cells="all")
CLEAN = [("clean", "A", "A"), ("clean", "B", "B")]


Measure = Callable[[Measurement, Setup], Rows]


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

    eps: float = REACH
    reach: float = REACH
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


def numbered(count: int = IMAGES, background: int = 0) -> Split:
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
    batched = Batched(test or numbered(), batch_size, stop or Stop())
    return transfer(source, attack or Mark(), targets, batched, generator, "mark on source")[:3]


def test_source_and_target_are_not_interchangeable(a: Oracle, b: Oracle) -> None:
    own, wrong, largest = crafted_on(a, {"a": a, "b": b})
    assert wrong["a"].top1.tolist() == own.top1.tolist() == [True, True, True, False]
    assert wrong["b"].top1.tolist() == [True, True, False, False]
    assert largest == pytest.approx(REACH)
    own, wrong, _ = crafted_on(b, {"a": a, "b": b})
    assert wrong["a"].top1.tolist() == [True, False, False, False]
    assert wrong["b"].top1.tolist() == own.top1.tolist() == [True, True, True, True]


def test_clean_images_are_not_attacked(a: Oracle, b: Oracle) -> None:
    assert find_mistakes(a, Batched(numbered(), 3, Stop())).top1.tolist() == [False] * 4
    assert find_mistakes(b, Batched(numbered(), 3, Stop())).top1.tolist() == [True, False, False, False]
    assert a.seen == [3, 1] and a.crafted == []


def test_a_row_from_a_to_b_by_hand(a: Oracle, b: Oracle) -> None:
    clean = {
        "a": find_mistakes(a, Batched(numbered(), 2, Stop())),
        "b": find_mistakes(b, Batched(numbered(), 2, Stop())),
    }
    own, wrong, _ = crafted_on(a, {"a": a, "b": b})
    row = transfer_rates(clean["a"], own, clean["b"], wrong["b"])
    assert (row["n"], row["error_top1"], row["clean_error_top1"]) == (4, 0.5, 0.25)
    assert (row["transfer_n"], row["transfer_rate_top1"]) == (3, pytest.approx(2 / 3))
    own, wrong, _ = crafted_on(b, {"a": a, "b": b})
    row = transfer_rates(clean["b"], own, clean["a"], wrong["a"])
    assert (row["n"], row["error_top1"], row["clean_error_top1"]) == (4, 0.25, 0.0)
    assert (row["transfer_n"], row["transfer_rate_top1"]) == (3, 0.0)  # b was wrong on the first image before


def test_the_white_box_transfer_rate_is_one(a: Oracle) -> None:
    own, wrong, _ = crafted_on(a, {"a": a})
    row = transfer_rates(
        find_mistakes(a, Batched(numbered(), 4, Stop())),
        own,
        find_mistakes(a, Batched(numbered(), 4, Stop())),
        wrong["a"],
    )
    assert (row["transfer_rate_top1"], row["transfer_n"]) == (1.0, 3)


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


def marked(top1: str, top5: str | None = None) -> Mistakes:
    """`x` is wrong, `.` is right."""
    return Mistakes(
        torch.tensor([c == "x" for c in top1]),
        None if top5 is None else torch.tensor([c == "x" for c in top5]),
        torch.arange(len(top1)) + 1.0,
        2.5,
    )


def test_the_transfer_rate_counts_what_the_source_loses() -> None:
    row = transfer_rates(
        source_clean=marked("..x...", "......"),
        source_adv=marked("xxxx..", ".x..x."),
        target_clean=marked("x.....", "......"),
        target_adv=marked("x.xxx.", "xxx..."),
    )
    assert row == {
        "n": 6,
        "loss_mean": 3.5,
        "loss_sd": pytest.approx(3.5**0.5),
        "mistakes_top1": packed_bits([True, False, True, True, True, False]),
        "mistakes_top5": packed_bits([True, True, True, False, False, False]),
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
    row = transfer_rates(marked("x."), marked("x."), marked(".."), marked("xx"))
    assert math.isnan(row["transfer_rate_top1"]) and row["transfer_n"] == 0
    assert row["error_top1"] == 1.0


def test_with_five_classes_there_is_no_top_five() -> None:
    row = transfer_rates(marked(".."), marked("xx"), marked(".."), marked("x."))
    assert math.isnan(row["error_top5"]) and math.isnan(row["transfer_rate_top5"])
    assert math.isnan(clean_rates(marked("x."))["error_top5"])


def test_an_example_outside_the_ball_is_refused(a: Oracle) -> None:
    with pytest.raises(Violation, match=r"mark on source: eps is 0\.100000, an example lies 0\.101000 from its image"):
        crafted_on(a, {"a": a}, Mark(reach=REACH + 1e-3))


def test_an_example_outside_the_box_is_refused(a: Oracle) -> None:
    with pytest.raises(Violation, match=r"0\.100000 outside \[0, 1\]"):
        crafted_on(a, {"a": a}, test=numbered(background=255))
    with pytest.raises(Violation, match=r"0\.050000 outside \[0, 1\]"):
        crafted_on(a, {"a": a}, Mark(reach=-0.05))


def test_an_example_that_is_no_number_is_refused(a: Oracle) -> None:
    with pytest.raises(Violation):
        crafted_on(a, {"a": a}, Mark(reach=math.nan))


def test_an_attack_that_writes_over_its_images_is_refused(a: Oracle) -> None:
    """How far its examples lie from the images cannot be told any more."""

    class Writing(Mark):
        def __call__(self, model: nn.Module, x: Tensor, *_: object, **__: object) -> Tensor:
            return x.add_(3 * REACH).clamp_(0, 1)

    with pytest.raises(BrokenContract, match="Writing should leave images and labels as they are"):
        crafted_on(a, {"a": a}, Writing())


def test_one_bad_example_in_the_last_batch_is_enough(a: Oracle) -> None:
    test = numbered()
    test.x[-1, 0, 0, 1] = 255
    with pytest.raises(Violation):
        crafted_on(a, {"a": a}, test=test)


@pytest.mark.parametrize("background", [0, 100])
def test_rounding_is_no_violation(a: Oracle, background: int) -> None:
    _, _, largest = crafted_on(a, {"a": a}, Mark(reach=REACH + 5e-7), test=numbered(background=background))
    assert largest == pytest.approx(REACH, abs=1e-6)


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
        find_mistakes(target, Batched(numbered(), 1, stop))
    assert target.seen == []


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
        **{
            "name": "gradient",
            "eps": REACH,
            "steps": steps,
            "step_size": None,
            "step_share": None,
            "step": "sign",
            "loss": "cross_entropy",
        },
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
    attack = build(ATTACKS, {"name": "noise", "eps": REACH, "distribution": "sign"}, where="attack")
    source, test = random_network(1), Split(torch.full((1, 1, 4, 4), 128, dtype=torch.uint8), torch.tensor([0]))
    torch.manual_seed(0)
    before = torch.get_rng_state()
    seen: list[Tensor] = []
    source.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    for seed in (0, 0, 1):
        transfer(source, attack, {"s": source}, Batched(test, 8, Stop()), Generator().manual_seed(seed), "noise")
    assert torch.equal(seen[0], seen[1]) and not torch.equal(seen[0], seen[2])
    assert torch.equal(torch.get_rng_state(), before)


def test_rows_hold_plain_numbers() -> None:
    """They go to JSON and CSV."""
    row = transfer_rates(marked(".", "."), marked("x", "x"), marked(".", "."), marked("x", "x"))
    assert {type(value) for value in [*row.values(), *clean_rates(marked("x")).values()]} == {int, float, str}
    assert ROUNDING < 1 / 255 / 1000


def test_no_rate_is_computed_in_float64_on_the_device() -> None:
    source, target, test, stop = random_network(0), random_network(1), random_images(), Stop()
    spec = {
        **{
            "name": "gradient",
            "eps": REACH,
            "steps": 3,
            "step_size": None,
            "step_share": None,
            "step": "sign",
            "loss": "cross_entropy",
        },
        **{"kappa": 0.0, "label": "random", "start": "uniform", "start_share": 1.0, "clip_start": True},
        **{"momentum": 1.0, "restarts": 3, "keep": "best"},
    }
    attack = build(ATTACKS, spec, where="attack")
    with NoFloat64("cpu"):
        clean = [find_mistakes(model, Batched(test, 16, stop)) for model in (source, target)]
        assert clean_rates(clean[0])["n"] == len(test)
        own, wrong, _ = crafted_on(source, {"t": target}, attack, 16, test=test)
        assert transfer_rates(clean[0], own, clean[1], wrong["t"])["n"] == len(test)


# ---- the measurement, on models whose errors are worked out by hand


def test_the_matrix_has_the_errors_worked_by_hand(measured: Measure, tmp_path: Path) -> None:
    setup = make_setup(tmp_path)
    x, y = whole(setup.test)
    rows = measured(MATRIX, setup)["results"]
    assert cells(rows) == [*CLEAN, *(("fgsm", s, t) for s in "AB" for t in "AB")]
    clean = {name: float(errors(name, x, y).double().mean()) for name in "AB"}
    assert clean["A"] != clean["B"] and [row["error_top1"] for row in rows[:2]] == list(clean.values())
    found = {}
    for row in rows[2:]:
        source, target = row["source"], row["target"]
        wrong = errors(target, example(source, x, y), y)
        counted = ~errors(source, x, y) & errors(source, example(source, x, y), y)
        assert row["error_top1"] == pytest.approx(float(wrong.double().mean()))
        assert row["transfer_n"] == int(counted.sum()) > 0
        assert row["transfer_rate_top1"] == pytest.approx(float(wrong[counted].double().mean()))
        assert row["clean_error_top1"] == clean[target] and row["n"] == len(y) and row["eps"] == EPS
        assert row["max_perturbation"] == pytest.approx(EPS, abs=1e-6)
        found[source, target] = row["error_top1"], row["transfer_n"]
    assert len(set(found.values())) == 4  # every cell has its own: none could stand in another's place


@pytest.mark.parametrize("kept", [("A", "B"), ("B", "A"), ("A", "A")])
def test_a_row_stands_at_its_target_whichever_was_finished_before(
    kept: tuple[str, str], measured: Measure, tmp_path: Path
) -> None:
    whole_matrix = measured(MATRIX, make_setup(tmp_path / "whole"))["results"]
    source, target = kept
    measured(MATRIX, make_setup(tmp_path / "part", sources=[source], targets=[target]))
    assert_same(measured(MATRIX, make_setup(tmp_path / "part"))["results"], whole_matrix, but=["seconds"])


def test_only_what_is_asked_about_is_measured(measured: Measure, tmp_path: Path) -> None:
    asked = [
        parse_expression("error(A | B, fgsm)").quantities[0],
        parse_expression("error(B | A, fgsm, eps=0.1)").quantities[0],
    ]  # the other eps
    rows = measured(TransferMatrix(cells="asked"), make_setup(tmp_path / "few", asked=asked))["results"]
    assert cells(rows) == [*CLEAN, ("fgsm", "B", "A")]
    every = measured(MATRIX, make_setup(tmp_path / "all"))["results"]
    assert_same(
        rows, [row for row in every if row["attack"] == "clean" or cells([row]) == cells(rows[2:])], but=["seconds"]
    )


def test_what_is_asked_about_is_told_by_source_target_attack_and_eps(tmp_path: Path) -> None:
    asked = [
        parse_expression("error(A | B, fgsm)").quantities[0],
        parse_expression("transfer_rate(B | A, fgsm, eps=0.1)").quantities[0],
    ]
    attacks = NamedAttack("fgsm", FGSM), NamedAttack("fgsm", replace(FGSM, eps=0.1)), NamedAttack("other", FGSM)
    promised = TransferMatrix(cells="asked").error_cells(make_setup(tmp_path, *attacks, asked=asked))
    assert promised == [("B", "A", "fgsm", EPS), ("A", "B", "fgsm", 0.1), ("B", "A", "fgsm", 0.1)]


def test_a_source_that_nothing_asks_about_is_not_attacked(measured: Measure, tmp_path: Path) -> None:
    models = counting_models()
    rows = measured(TransferMatrix(cells="asked"), make_setup(tmp_path, models=models))["results"]
    assert cells(rows) == CLEAN
    assert {name: model.images for name, model in models.items()} == {"A": 50, "B": 50}  # the clean errors alone


def counting_models() -> dict[str, CountingModel]:
    return {name: CountingModel(linear(weight)).eval() for name, weight in WEIGHTS.items()}


def test_only_what_is_missing_is_measured(measured: Measure, tmp_path: Path) -> None:
    """One row of four is gone: its source is attacked again, shown to its target, and the row is the same."""
    models = counting_models()
    setup = make_setup(tmp_path, models=models)
    first = measured(MATRIX, setup)["results"]
    (tmp_path / "rows" / f"{setup.identity(setup.attacks[0].identity, 'A', 'B')}.json").unlink()
    for model in models.values():
        model.images = 0
    assert_same(measured(MATRIX, setup)["results"], first, but=["seconds"])
    assert {name: model.images for name, model in models.items()} == {"A": 100, "B": 50}  # A: its gradient, and itself


def test_clean_mistakes_are_found_once(measured: Measure, tmp_path: Path) -> None:
    models = counting_models()
    attacks = NamedAttack("fgsm", FGSM), NamedAttack("weaker", replace(FGSM, eps=0.1))
    measured(MATRIX, make_setup(tmp_path, *attacks, models=models))
    clean, crafted, shown = 50, 2 * 50, 2 * 2 * 50  # of each model: two attacks on itself, all four examples
    assert {model.images for model in models.values()} == {clean + crafted + shown}


class Threshold(nn.Module):
    """A target without gradients: class 1 where the first pixel is bright."""

    differentiable = False

    def forward(self, x: Tensor) -> Tensor:
        bright = x.flatten(1)[:, :1] > 0.5
        return torch.cat([~bright, bright, torch.zeros_like(bright)], 1).float()


def test_a_target_without_gradients_is_shown_the_examples_of_others(measured: Measure, tmp_path: Path) -> None:
    models = {"A": linear(WEIGHTS["A"]), "forest": Threshold()}
    setup = make_setup(tmp_path, models=models, sources=["A"])
    rows = measured(MATRIX, setup)["results"]
    assert cells(rows) == [("clean", "A", "A"), ("clean", "forest", "forest"), *(("fgsm", "A", t) for t in models)]
    x, y = whole(setup.test)
    bright = (example("A", x, y).flatten(1)[:, 0] > 0.5).long()
    assert rows[-1]["error_top1"] == float((bright != y).double().mean())


def test_no_two_attacks_sources_or_seeds_draw_the_same_noise(tmp_path: Path) -> None:
    """Two attacks whose settings differ in eps alone, on two sources, in two seeds: eight examples of one image."""
    grey = Split(torch.full((1, 1, 4, 4), 128, dtype=torch.uint8), torch.tensor([0]))
    seen: list[Tensor] = []
    for seed in (0, 1):
        models = {name: linear(torch.zeros(CLASSES, 16)) for name in "AB"}
        attacks = [NamedAttack(f"noise {eps}", NoiseAttack(eps, "sign")) for eps in (0.1, 0.2)]
        setup = make_setup(tmp_path, *attacks, models=models, targets=["A"], test=grey, seed=seed)
        models["A"].register_forward_pre_hook(lambda _, inputs: seen.append((inputs[0] - 128 / 255).sign()))
        MATRIX.measure(setup)
    noise = {tuple(x.flatten().tolist()) for x in seen if x.any()}
    assert len(noise) == 2 * 2 * 2


def test_the_matrix_is_presented_as_files_and_sections(measured: Measure, tmp_path: Path) -> None:
    setup = make_setup(tmp_path / "store", NamedAttack("fgsm", FGSM), NamedAttack("fgsm", replace(FGSM, eps=0.1)))
    shown, folder = frames(measured(MATRIX, setup)), tmp_path / "shown"
    folder.mkdir()
    sections = MATRIX.present(shown, folder)
    assert {path.name for path in folder.iterdir()} == {
        *("transfer_matrix.csv", "transfer_matrix.png", "error_by_eps.png")
    }
    assert [section.title for section in sections][-2:] == ["Transfer matrix", "Error by eps"]
    assert "fgsm" in MATRIX.say(shown)


# ---- exported examples


EXPORT = TransferMatrix(cells="all", export=True)


def exported_files(folder: Path) -> dict[str, Path]:
    return {path.name.rpartition("-")[0]: path for path in sorted((folder / "examples").iterdir())}


def test_the_examples_of_every_attack_on_every_source_are_written(measured: Measure, tmp_path: Path) -> None:
    setup = make_setup(tmp_path / "store", NamedAttack("fgsm", FGSM), NamedAttack("fgsm", replace(FGSM, eps=0.1)))
    setup = replace(setup, targets=["B"])
    x, y = whole(setup.test)
    rows = measured(EXPORT, setup)["results"]
    files = exported_files(tmp_path / "store")
    assert list(files) == [f"{source}-fgsm-eps{eps}" for source in "AB" for eps in (0.1, 0.2)]
    for name, path in files.items():
        array, eps = np.load(path), float(name.rpartition("eps")[2])
        assert array.dtype == np.float32 and np.array_equal(array, example(name[0], x, y, eps).flatten(1).numpy())
    plain = measured(MATRIX, replace(setup, store=Store(tmp_path / "other", lambda: None)))["results"]
    assert_same(rows, plain, but=["seconds"])  # identities, too
    assert not (tmp_path / "other" / "examples").exists()


def test_colour_images_are_written_as_the_challenge_has_them(tmp_path: Path) -> None:
    x = torch.randint(0, 256, (9, 3, 4, 5), generator=seeded(), dtype=torch.uint8)
    test = Split(x, torch.arange(9) % CLASSES)
    models = {name: linear(torch.randn(CLASSES, 60, generator=seeded(n))) for n, name in enumerate("AB")}
    setup = make_setup(tmp_path, models=models, test=test, batch_size=4)
    rows = {(row["source"], row["target"]): row for row in EXPORT.measure(setup)["results"]}
    data = Data("made", test, test, tuple("abc"), "made up", "", setup.test_checksum)
    for name, path in exported_files(tmp_path).items():
        array = np.load(path)
        assert array.shape == (9, 4, 5, 3) and 200 < array.max() <= 255 and array.min() >= 0
        scored = ScoreExamples(str(path), EPS, None).read(data).measure(setup)["results"]
        for row in scored:
            crafted = rows[name[0], row["target"]]
            for number in ("error_top1", "mistakes_top1", "loss_mean", "loss_sd", "max_perturbation"):
                assert row[number] == crafted[number], (name, number)


def test_a_file_that_is_missing_is_crafted_again_though_all_rows_are_there(measured: Measure, tmp_path: Path) -> None:
    models = counting_models()
    setup = make_setup(tmp_path, models=models)
    first = measured(MATRIX, setup)["results"]
    assert MATRIX.workload(setup).models == set() and EXPORT.workload(setup).models == {"A", "B"}
    assert_same(measured(EXPORT, setup)["results"], first)
    files = exported_files(tmp_path)
    content = files["A-fgsm-eps0.2"].read_bytes()
    assert EXPORT.workload(setup).models == set()
    files["A-fgsm-eps0.2"].unlink()
    assert EXPORT.workload(setup).models == {"A"}
    for model in models.values():
        model.images = 0
    assert_same(measured(EXPORT, replace(setup, models={"A": models["A"]}))["results"], first)
    assert {name: model.images for name, model in models.items()} == {"A": 100, "B": 0}
    assert files["A-fgsm-eps0.2"].read_bytes() == content


def test_a_source_by_another_name_has_the_same_file(measured: Measure, tmp_path: Path) -> None:
    setup = make_setup(tmp_path, sources=["A"], targets=["A"])
    measured(EXPORT, setup)
    models = {"mine": setup.models["A"]}
    other = make_setup(tmp_path, models=models, keys={"mine": setup.keys["A"]})
    assert not EXPORT.workload(other).models
    assert EXPORT.workload(replace(other, seed=1)).models == {"mine"}


def test_nothing_is_exported_of_what_is_skipped(measured: Measure, tmp_path: Path) -> None:
    measured(EXPORT, replace(make_setup(tmp_path), models={}, skips=True))
    assert not list(tmp_path.rglob("*.npy"))


def test_examples_outside_the_ball_are_not_written(a: Oracle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ATTACKS, "mark", Mark)  # type: ignore[arg-type]
    setup = make_setup(tmp_path, NamedAttack("mark", Mark(reach=0.2)), models={"a": a}, test=numbered())
    with pytest.raises(Violation):
        EXPORT.measure(setup)
    assert not list(tmp_path.rglob("*.npy"))


# ---- an attack that has examples of the first images alone


FEW = TransferMatrix(cells="all", images={"fgsm": 3})
WEAKER = NamedAttack("weaker", replace(FGSM, eps=0.1))


def of_attack(rows: Rows, attack: str) -> list[Row]:
    return [row for row in rows["results"] if row["attack"] == attack]


def test_an_attack_of_the_first_images_by_hand(measured: Measure, tmp_path: Path) -> None:
    """Of three images the first is mislabelled: both are wrong on it, clean. Any example fools A on all three, and B on
    the first two."""
    rows = of_attack(measured(FEW, make_setup(tmp_path)), "fgsm")
    x, y = whole(make_setup(tmp_path).test.first(3))
    wrong = {name: errors(name, x, y).tolist() for name in "AB"}
    fooled = {(s, t): errors(t, example(s, x, y), y).tolist() for s in "AB" for t in "AB"}
    assert wrong == {name: [True, False, False] for name in "AB"}
    assert fooled == {(s, t): [True, True, t == "A"] for s in "AB" for t in "AB"}
    found = {(row["source"], row["target"]): row for row in rows}
    for (source, target), row in found.items():
        lost = [not clean and own for clean, own in zip(wrong[source], fooled[source, source], strict=True)]
        both = [of and on for of, on in zip(lost, fooled[source, target], strict=True)]
        assert row["n"] == 3 and row["error_top1"] == pytest.approx(sum(fooled[source, target]) / 3)
        assert row["mistakes_top1"] == packed_bits(fooled[source, target])
        assert row["clean_error_top1"] == pytest.approx(sum(wrong[target]) / 3)
        assert row["transfer_n"] == sum(lost) and row["transfer_rate_top1"] == pytest.approx(sum(both) / sum(lost))
    assert {key: row["transfer_n"] for key, row in found.items() if key[1] == "B"} == {("A", "B"): 2, ("B", "B"): 1}
    assert found["A", "B"]["transfer_rate_top1"] == 0.5  # of the last two, the first


@pytest.mark.parametrize("attack", [FGSM, NoiseAttack(EPS, "sign")], ids=["fgsm", "noise"])
def test_rows_of_the_first_images_are_those_of_a_test_set_of_them(
    attack: Any, measured: Measure, tmp_path: Path
) -> None:
    named = NamedAttack("fgsm", attack), WEAKER
    setup = make_setup(tmp_path / "few", *named)
    rows = measured(FEW, setup)
    short = make_setup(tmp_path / "short", *named, test=setup.test.first(3), test_checksum="3 squares")
    small, every = measured(MATRIX, short), measured(MATRIX, make_setup(tmp_path / "all", *named))
    assert_same(of_attack(rows, "fgsm"), of_attack(small, "fgsm"), but=["seconds", "identity"])
    for other in ("weaker", "clean"):
        assert_same(of_attack(rows, other), of_attack(every, other), but=["seconds"])  # all 50, identity and all
    both = measured(replace(FEW, images=3), make_setup(tmp_path / "number", *named))  # a number: every attack's
    assert_same(of_attack(both, "fgsm"), of_attack(rows, "fgsm"), but=["seconds"])
    assert_same(of_attack(both, "weaker"), of_attack(small, "weaker"), but=["seconds", "identity"])
    assert_same(of_attack(both, "clean"), of_attack(every, "clean"), but=["seconds"])
    assert {row["n"] for row in of_attack(rows, "weaker")} == {50}
    assert [row["n"] for row in of_attack(every, "fgsm")] == [50] * 4


def test_rows_of_fewer_images_have_an_identity_of_their_own(measured: Measure, tmp_path: Path) -> None:
    identities = {}
    for number in (3, 4, 49, 50, 51, 10_000):
        matrix = TransferMatrix(cells="all", images={"fgsm": number})
        rows = of_attack(measured(matrix, make_setup(tmp_path / str(number))), "fgsm")
        assert {row["n"] for row in rows} == {min(number, 50)}
        identities[number] = tuple(row["identity"] for row in rows)
    every = tuple(row["identity"] for row in of_attack(measured(MATRIX, make_setup(tmp_path / "all")), "fgsm"))
    assert identities[50] == identities[51] == identities[10_000] == every
    assert len({one for own in identities.values() for one in own}) == 4 * 4  # 3, 4, 49 and all, of four cells


def test_rows_of_all_images_do_not_stand_in_for_those_of_the_first(measured: Measure, tmp_path: Path) -> None:
    setup = make_setup(tmp_path)
    measured(MATRIX, setup)
    assert FEW.workload(setup).models == {"A", "B"} and not MATRIX.workload(setup).models
    first = measured(FEW, setup)
    assert {row["n"] for row in of_attack(first, "fgsm")} == {3}
    assert not FEW.workload(setup).models and not MATRIX.workload(setup).models
    assert_same(measured(FEW, replace(setup, models={}, skips=True))["results"], first["results"])


def test_the_first_images_alone_are_attacked(tmp_path: Path) -> None:
    models = counting_models()
    setup = make_setup(tmp_path, models=models, sources=["A"], targets=["B"])
    FEW.measure(setup)
    assert {name: model.images for name, model in models.items()} == {"A": 50 + 2 * 3, "B": 50 + 3}  # clean, and these


def test_every_eps_of_an_attack_has_the_first_images(measured: Measure, tmp_path: Path) -> None:
    setup = make_setup(tmp_path, NamedAttack("fgsm", FGSM), NamedAttack("fgsm", replace(FGSM, eps=0.1)))
    assert [row["n"] for row in of_attack(measured(FEW, setup), "fgsm")] == [3] * 8


def test_examples_of_the_first_images_are_written_beside_those_of_all(measured: Measure, tmp_path: Path) -> None:
    setup = make_setup(tmp_path, NamedAttack("fgsm", FGSM), WEAKER, sources=["A"], targets=["B"])
    measured(replace(FEW, export=True), setup)
    x, y = whole(setup.test)
    files = exported_files(tmp_path)
    few, weaker = (np.load(files[f"A-{name}"]) for name in ("fgsm-eps0.2", "weaker-eps0.1"))
    assert few.shape == (3, 4) and np.array_equal(few, example("A", x[:3], y[:3]).flatten(1).numpy())
    assert weaker.shape == (50, 4)
    assert EXPORT.workload(setup).models == {"A", "B"}
    measured(EXPORT, setup)
    assert sorted(len(np.load(path)) for path in (tmp_path / "examples").iterdir()) == [3, 50, 50]


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ({"fgsn": 3}, "images.fgsn is none of the attacks (did you mean 'fgsm'?): they are fgsm"),
        ({"fgsm": 2, "mine": 3}, "images.mine is none of the attacks: they are fgsm"),
        ({"fgsm": 0}, "images.fgsm should be at least 1, is 0"),
        ({"fgsm": -1}, "images.fgsm should be at least 1, is -1"),
        ({"fgsm": 1.5}, "images.fgsm should be an int, is 1.5"),
    ],
)
def test_wrong_numbers_of_images_are_refused_before_training(
    images: dict[str, Any], message: str, tiny: Callable[..., dict[str, Any]]
) -> None:
    config = tiny()
    config["measurement"]["images"] = images
    with pytest.raises(ConfigError) as error:
        prepare_experiment(config)
    assert str(error.value) == f"measurement.{message}"


def test_a_config_may_set_the_number_of_images(tiny: Callable[..., dict[str, Any]]) -> None:
    for word, images in (("+measurement.images={fgsm: 3}", {"fgsm": 3}), ("measurement.images=3", 3)):
        (measurement,) = prepare_experiment(tiny(word)).measurements.values()
        assert measurement == replace(FEW, images=images)


# ---- the first of the images and of what is known of them


def test_the_first_of_a_split_and_of_mistakes() -> None:
    test = numbered()
    assert test.first(3).x[:, 0, 0, 0].tolist() == [0, 1, 2] and test.first(3).y.tolist() == LABELS[:3]
    assert len(test.first(4)) == len(test.first(9)) == len(test) == 4
    found = marked(".xx.", "..x.").first(3)
    assert found.top1.tolist() == [False, True, True] and found.losses.tolist() == [1.0, 2.0, 3.0]
    assert found.top5 is not None and found.top5.tolist() == [False, False, True] and found.seconds == 2.5
    assert marked(".x").first(1).top5 is None
