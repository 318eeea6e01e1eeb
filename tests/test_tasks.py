"""Tasks on linear models, whose logits, gradients and FGSM examples are worked out by hand."""

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from linear import CountingModel, batch_sizes, linear, seeded, softmax_gradient
from torch import Tensor, nn

from epsball import evaluate, worst_case
from epsball.attacks import GradientAttack
from epsball.build import ConfigError
from epsball.data import Split
from epsball.evaluate import Mistakes
from epsball.progress import Interrupted, Stop
from epsball.tasks import TASKS, Craft, GradientPictures, LossSurface, TransferMatrix, WorstCase

Row = dict[str, Any]
EPS, BATCH, PIXELS, CLASSES = 0.2, 16, 4, 3
FGSM = GradientAttack(
    **{"eps": EPS, "steps": 1, "step_size": None, "step": "sign", "loss": "cross_entropy", "kappa": 0.0},
    **{"label": "true", "start": "none", "start_share": 0.0, "clip_start": True, "momentum": 0.0},
    **{"restarts": 1, "keep": "last"},
)
NOISE = 6 * torch.randn(2, CLASSES, PIXELS, generator=seeded())
NOISE -= NOISE.mean(2, keepdim=True)  # brightness decides nothing, so that all classes occur
WEIGHTS = {"A": NOISE[0], "B": 0.7 * NOISE[0] + 0.5 * NOISE[1]}  # alike enough for examples to transfer
SURFACE = LossSurface("A", "B", extent=EPS, zoom=EPS / 10, grid=4, points=2, averaged=5, clip=False)


def images(count: int = 50) -> Split:
    """Random 2 x 2 images that model A gets right but for a few, so that some examples of B fool it and some do not."""
    x = torch.randint(0, 256, (count, 1, 2, 2), generator=seeded(7), dtype=torch.uint8)
    x[0], x[1] = 0, 255  # corners of the pixel range
    y = (x.flatten(1).float() / 255 @ WEIGHTS["A"].T).argmax(1)
    y[::9] = (y[::9] + 1) % CLASSES
    return Split(x, y)


class Lab:
    """`tasks.Lab` in memory: rows are kept in a dict."""

    def __init__(
        self,
        *crafts: Craft,
        models: Mapping[str, nn.Module] | None = None,
        test: Split | None = None,
        wanted: Callable[[Craft, str, str], bool] = lambda craft, source, target: True,
    ) -> None:
        self.models = models or {name: linear(weight) for name, weight in WEIGHTS.items()}
        self.sources = self.targets = list(self.models)
        self.crafts = list(crafts) or [Craft("fgsm", FGSM)]
        self.test, self.batch_size, self.stop = test or images(), BATCH, Stop()
        self.asked = wanted
        self.rows: dict[tuple[str, str, str], Row] = {}
        self.judged: dict[str, int] = {}
        self.mistakes: dict[str, Mistakes] = {}

    def clean(self, model: str) -> Mistakes:
        if model not in self.mistakes:
            self.judged[model] = self.judged.get(model, 0) + 1
            self.mistakes[model] = evaluate.clean_mistakes(self.models[model], self.test, self.batch_size, self.stop)
        return self.mistakes[model]

    def generator(self, craft: Craft, source: str) -> torch.Generator:
        return seeded(len(craft.name) + ord(source[0]))

    def graphs(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def find(self, what: object, source: str, target: str) -> Row | None:
        return self.rows.get((repr(what), source, target))

    def keep(self, what: object, source: str, target: str, row: Row) -> Row:
        assert (repr(what), source, target) not in self.rows, "kept twice"
        self.rows[repr(what), source, target] = row
        return row

    def named(self, row: Row, source: str, target: str, attack: str, eps: float) -> Row:
        return {"dataset": "squares", "source": source, "target": target, "attack": attack, "eps": eps, **row}


def logits(name: str, x: Tensor) -> Tensor:
    return x.flatten(1) @ WEIGHTS[name].T


def losses(name: str, x: Tensor, y: Tensor) -> Tensor:
    """log sum exp(logits) - logit of the label."""
    z = logits(name, x)
    return z.logsumexp(1) - z[torch.arange(len(y)), y]


def signs(name: str, x: Tensor, y: Tensor) -> Tensor:
    return softmax_gradient(WEIGHTS[name], x, y).sign()


def example(name: str, x: Tensor, y: Tensor, eps: float = EPS) -> Tensor:
    """The FGSM example crafted on a model."""
    return (x + eps * signs(name, x, y)).clamp(0, 1)


def errors(name: str, x: Tensor, y: Tensor) -> Tensor:
    return logits(name, x).argmax(1) != y


def whole(test: Split) -> tuple[Tensor, Tensor]:
    return test.take(torch.arange(len(test)))


def chosen(test: Split, source: str = "B", target: str = "A") -> list[int]:
    """Places of all images that the target gets right and whose example crafted on the source fools it."""
    x, y = whole(test)
    found: list[int] = (~errors(target, x, y) & errors(target, example(source, x, y), y)).nonzero().flatten().tolist()
    return found


def frames(rows: Mapping[str, list[Row]], seeds: tuple[int, ...] = (0,)) -> dict[str, pd.DataFrame]:
    """Rows as `experiments` hands them to `present`."""
    return {name: pd.DataFrame([{"seed": s, **row} for s in seeds for row in own]) for name, own in rows.items()}


# ---- loss surfaces


def transferring(lab: Lab, source: str, target: str, most: int) -> list[int]:
    own = (lab.models[source], lab.models[target], FGSM, lab.test, lab.batch_size, seeded(), lab.stop, most)
    found: list[int] = evaluate.transferring(*own).tolist()
    return found


def test_transferring_are_the_first_that_the_target_gets_right_and_the_example_fools() -> None:
    lab = Lab()
    expected = chosen(lab.test)
    assert expected[-1] > 2 * BATCH and 5 < len(expected) < 40  # in several batches; neither none nor all
    assert transferring(lab, "B", "A", 1000) == expected
    for most in (1, 5, len(expected) - 1, len(expected), len(expected) + 1):
        assert transferring(lab, "B", "A", most) == expected[:most]


def test_transferring_looks_no_further_than_it_must() -> None:
    lab = Lab()
    seen = batch_sizes(lab.models["B"])
    assert len(transferring(lab, "B", "A", 1)) == 1
    assert seen == [BATCH]


@pytest.mark.parametrize("clip", [False, True])
def test_a_surface_is_the_exact_loss_at_each_place(clip: bool) -> None:
    lab, task = Lab(), replace(SURFACE, clip=clip)
    index = chosen(lab.test)[: task.averaged]
    x, y = lab.test.take(torch.tensor(index))
    frame = pd.DataFrame(task.measure(lab)["surface"])
    for point, image in enumerate(index[: task.points]):
        for window, size in (("whole", task.extent), ("zoom", task.zoom)):
            own = frame[(frame["point"] == f"image {image} (a {int(y[point])})") & (frame["window"] == window)]
            assert len(own) == task.grid**2
            assert sorted(set(own["e1"])) == pytest.approx(np.linspace(0, size, task.grid))
            for row in own.itertuples():
                moved = x + float(row.e1) * signs("A", x, y) + float(row.e2) * signs("B", x, y)
                exact = losses("A", moved.clamp(0, 1) if clip else moved, y)[point]
                assert row.loss == pytest.approx(float(exact), rel=1e-4, abs=1e-5)


def test_clipping_matters_here() -> None:
    """Some surfaces leave the pixel range, or the test above would not tell the two apart."""
    surfaces = [pd.DataFrame(replace(SURFACE, clip=clip).measure(Lab())["surface"])["loss"] for clip in (False, True)]
    assert (surfaces[0] - surfaces[1]).abs().max() > 0.01


def test_the_image_itself_is_the_grids_first_place() -> None:
    lab = Lab()
    index = torch.tensor(chosen(lab.test)[: SURFACE.averaged])
    x, y = lab.test.take(index)
    rows = SURFACE.measure(lab)
    origin = [row for row in rows["surface"] if row["e1"] == row["e2"] == 0]
    clean = losses("A", x, y)
    expected = [*clean[: SURFACE.points].tolist(), float(clean.mean())] * 2
    assert [row["loss"] for row in origin] == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert [row["window"] for row in origin] == ["whole"] * 3 + ["zoom"] * 3


def test_results_have_the_mean_loss_over_all_chosen_images() -> None:
    lab = Lab()
    x, y = lab.test.take(torch.tensor(chosen(lab.test)[: SURFACE.averaged]))
    results = pd.DataFrame(SURFACE.measure(lab)["results"])
    assert set(results["attack"]) == {"clean", "surface", "surface_zoom"}
    for name, size in (("surface", SURFACE.extent), ("surface_zoom", SURFACE.zoom)):
        own = results[results["attack"] == name]
        assert len(own) == SURFACE.grid**2
        assert set(own["source"]) == {"B"} and set(own["target"]) == {"A"} and set(own["n"]) == {SURFACE.averaged}
        assert own["e1"].max() == own["e2"].max() == size  # such as 0.3, not what float32 makes of it
        assert list(own["eps"]) == list(own[["e1", "e2"]].max(axis=1))
        for row in own.itertuples():
            at = losses("A", x + float(row.e1) * signs("A", x, y) + float(row.e2) * signs("B", x, y), y)
            assert (row.loss_mean, row.loss_sd) == pytest.approx((float(at.mean()), float(at.std())), rel=1e-3)


def test_results_have_the_clean_errors_of_both_models() -> None:
    lab = Lab()
    x, y = whole(lab.test)
    rows = [row for row in SURFACE.measure(lab)["results"] if row["attack"] == "clean"]
    assert [row["target"] for row in rows] == ["A", "B"]
    assert [row["error_top1"] for row in rows] == [float(errors(name, x, y).double().mean()) for name in "AB"]


def test_a_model_may_be_its_own_other() -> None:
    rows = replace(SURFACE, other="A").measure(Lab())["results"]
    assert [row["target"] for row in rows if row["attack"] == "clean"] == ["A"]


def unfooled() -> Lab:
    """A lab where no example fools: an attack that does nothing."""
    return Lab(Craft("fgsm", replace(FGSM, eps=0.0)))


def test_without_a_chosen_image_there_is_a_clear_section(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # see the next test
        rows = SURFACE.measure(unfooled())
    assert rows["surface"] == []
    assert {row["n"] for row in rows["results"] if row["attack"] == "surface"} == {0}
    shown = frames(rows)
    (section,) = SURFACE.present(shown, tmp_path)
    assert section.text == "No example crafted on B fools A." and section.image is None
    assert SURFACE.say(shown) == "0 loss surfaces\n" and not list(tmp_path.iterdir())


@pytest.mark.parametrize("averaged", [0, 1])
def test_few_chosen_images_give_no_warning(averaged: int) -> None:
    """The spread of fewer than two losses is NaN, quietly."""
    lab, task = (Lab(), replace(SURFACE, points=1, averaged=1)) if averaged else (unfooled(), SURFACE)
    rows = [row for row in task.measure(lab)["results"] if row["attack"] == "surface"]
    assert all(row["n"] == averaged and np.isnan(row["loss_sd"]) for row in rows)


def test_surfaces_of_all_seeds_are_written_and_those_of_one_drawn(tmp_path: Path) -> None:
    shown = frames(SURFACE.measure(Lab()), seeds=(1, 2))
    sections = SURFACE.present(shown, tmp_path)
    assert [section.image for section in sections] == [tmp_path / "loss_surface.png"]
    assert (tmp_path / "loss_surface.png").read_bytes().startswith(b"\x89PNG")
    written = pd.read_csv(tmp_path / "surface.csv")
    assert len(written) == 2 * 2 * 3 * SURFACE.grid**2  # seeds, windows, two images and the mean
    assert SURFACE.say(shown) == "3 loss surfaces\n"


# ---- gradient pictures


def test_pictures_are_the_first_of_each_class_with_gradient_and_example() -> None:
    lab = Lab()
    rows = GradientPictures(images=2).measure(lab)
    pictures = rows["pictures"]
    places = [i for label in range(CLASSES) for i in (lab.test.y == label).nonzero().flatten().tolist()[:2]]
    assert [(row["model"], row["image"]) for row in pictures] == [(model, i) for model in "AB" for i in places]
    x, y = lab.test.take(torch.tensor(places))
    for model in "AB":
        own = [row for row in pictures if row["model"] == model]
        expected = {"original": x, "gradient": signs(model, x, y), "perturbed": example(model, x, y)}
        for name, value in expected.items():
            np.testing.assert_allclose(np.stack([row[name] for row in own]), value, atol=1e-6)
        assert [row["label"] for row in own] == y.tolist()
        assert [row["predicted"] for row in own] == logits(model, x).argmax(1).tolist()
        adversarial = logits(model, example(model, x, y)).argmax(1).tolist()
        assert [row["predicted_adv"] for row in own] == adversarial
        assert {(row["attack"], row["eps"]) for row in own} == {("fgsm", EPS)}
    assert [(row["target"], row["attack"]) for row in rows["results"]] == [("A", "clean"), ("B", "clean")]


def test_pictures_become_a_png_for_each_attack_and_eps(tmp_path: Path) -> None:
    task = GradientPictures(images=1)
    lab = Lab(Craft("fgsm", FGSM), Craft("fgsm", replace(FGSM, eps=0.1)), Craft("other", FGSM))
    shown = frames(task.measure(lab), seeds=(0, 1))
    sections = task.present(shown, tmp_path)
    names = ["gradients_fgsm_0.2.png", "gradients_fgsm_0.1.png", "gradients_other_0.2.png"]
    assert [section.image for section in sections] == [tmp_path / name for name in names]
    for name in names:
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    assert task.say(shown).endswith(" pictures\n")


def test_more_images_than_a_class_has_are_all_of_them() -> None:
    lab = Lab(test=images(7))
    assert len(GradientPictures(images=100).measure(lab)["pictures"]) == 7 * 2


# ---- the transfer matrix

MATRIX = TransferMatrix(cells="all", gradient_norms=False)


def keys(rows: list[Row]) -> list[tuple[str, str, str]]:
    return [(row["attack"], row["source"], row["target"]) for row in rows]


CLEAN = [("clean", "A", "A"), ("clean", "B", "B")]


def test_the_matrix_has_the_errors_worked_by_hand() -> None:
    lab = Lab()
    x, y = whole(lab.test)
    rows = MATRIX.measure(lab)["results"]
    assert keys(rows) == [*CLEAN, *(("fgsm", s, t) for s in "AB" for t in "AB")]
    for row in rows[2:]:
        wrong = errors(row["target"], example(row["source"], x, y), y)
        counted = ~errors(row["source"], x, y) & errors(row["source"], example(row["source"], x, y), y)
        assert row["error_top1"] == pytest.approx(float(wrong.double().mean()))
        assert row["transfer_n"] == int(counted.sum()) > 0
        assert row["transfer_rate_top1"] == pytest.approx(float(wrong[counted].double().mean()))
        assert row["max_perturbation"] == pytest.approx(EPS, abs=1e-6)


def test_only_what_is_asked_about_is_measured() -> None:
    lab = Lab(wanted=lambda craft, source, target: (craft.name, source, target) == ("fgsm", "B", "A"))
    rows = TransferMatrix(cells="asked", gradient_norms=False).measure(lab)["results"]
    assert keys(rows) == [*CLEAN, ("fgsm", "B", "A")]
    assert rows[-1]["error_top1"] == MATRIX.measure(Lab())["results"][4]["error_top1"]


def test_a_source_that_nothing_asks_about_is_not_attacked() -> None:
    models = {name: CountingModel(linear(weight)).eval() for name, weight in WEIGHTS.items()}
    lab = Lab(models=models, wanted=lambda craft, source, target: False)
    assert keys(TransferMatrix(cells="asked", gradient_norms=False).measure(lab)["results"]) == CLEAN
    assert {name: model.images for name, model in models.items()} == {"A": 50, "B": 50}  # the clean errors alone


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """A switch: from then on, whatever crafts, judges or takes gradients fails."""

    def switch() -> None:
        for name in ("transfer", "gradient_norms", "clean_mistakes", "find_fooled"):
            module = worst_case if name == "find_fooled" else evaluate
            monkeypatch.setattr(module, name, lambda *_, name=name, **__: pytest.fail(f"{name} was called"))

    yield switch


@pytest.mark.parametrize("task", [MATRIX, replace(MATRIX, gradient_norms=True), WorstCase()], ids=repr)
def test_what_is_kept_is_not_measured_again(task: Any, no_work: Callable[[], None]) -> None:
    lab = Lab()
    first = task.measure(lab)
    lab.mistakes.clear()
    no_work()
    assert task.measure(lab) == first


def test_only_what_is_missing_is_measured() -> None:
    """One row of four is gone: its source is attacked again, shown to its target, and the row is the same."""
    models = {name: CountingModel(linear(weight)).eval() for name, weight in WEIGHTS.items()}
    lab = Lab(models=models)
    first = MATRIX.measure(lab)["results"]
    (gone,) = [key for key in lab.rows if key[1:] == ("A", "B") and key[0] != repr("clean")]
    del lab.rows[gone]
    for model in models.values():
        model.images = 0
    again = MATRIX.measure(lab)["results"]
    pd.testing.assert_frame_equal(*(pd.DataFrame(rows).drop(columns="seconds") for rows in (again, first)))
    assert {name: model.images for name, model in models.items()} == {"A": 100, "B": 50}  # A: its gradient, and itself


def test_clean_mistakes_are_found_once() -> None:
    lab = Lab(Craft("fgsm", FGSM), Craft("weaker", replace(FGSM, eps=0.1)))
    replace(MATRIX, gradient_norms=True).measure(lab)
    assert lab.judged == {"A": 1, "B": 1}


def test_gradient_norms_are_those_of_the_exact_gradient() -> None:
    lab = Lab()
    x, y = whole(lab.test)
    for row in replace(MATRIX, gradient_norms=True).measure(lab)["results"][:2]:
        norms = softmax_gradient(WEIGHTS[row["target"]], x, y).flatten(1).norm(dim=1).double()
        assert row["gradient_l2_mean"] == pytest.approx(float(norms.mean()), rel=1e-4)
        assert row["gradient_l2_sd"] == pytest.approx(float(norms.std()), rel=1e-4)
        assert row["gradient_zero_share"] == 0
    assert "gradient_l2_mean" not in MATRIX.measure(Lab())["results"][0]


def test_a_gradient_that_is_zero_is_counted() -> None:
    lab = Lab(models={"A": linear(torch.zeros(CLASSES, PIXELS))})
    row = replace(MATRIX, gradient_norms=True).measure(lab)["results"][0]
    assert (row["gradient_l2_mean"], row["gradient_l2_sd"], row["gradient_zero_share"]) == (0, 0, 1)


class Threshold(nn.Module):
    """A target without gradients: class 1 where the first pixel is bright."""

    differentiable = False

    def forward(self, x: Tensor) -> Tensor:
        bright = x.flatten(1)[:, :1] > 0.5
        return torch.cat([~bright, bright, torch.zeros_like(bright)], 1).float()


def test_a_target_without_gradients_has_no_gradient_norms() -> None:
    lab = Lab(models={"A": linear(WEIGHTS["A"]), "forest": Threshold()})
    lab.sources = ["A"]
    rows = replace(MATRIX, gradient_norms=True).measure(lab)["results"]
    assert keys(rows) == [("clean", "A", "A"), ("clean", "forest", "forest"), *(("fgsm", "A", t) for t in lab.targets)]
    assert "gradient_l2_mean" in rows[0] and "gradient_l2_mean" not in rows[1]


def test_the_matrix_is_presented_as_files_and_sections(tmp_path: Path) -> None:
    lab = Lab(Craft("fgsm", FGSM), Craft("fgsm", replace(FGSM, eps=0.1)))
    shown = frames(MATRIX.measure(lab))
    sections = MATRIX.present(shown, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        *("transfer_matrix.csv", "transfer_matrix.png", "error_by_eps.png")
    }
    assert [section.title for section in sections][-2:] == ["Transfer matrix", "Error by eps"]
    assert "fgsm" in MATRIX.say(shown)


# ---- the worst case


def test_the_worst_case_of_two_eps_is_that_of_each() -> None:
    weaker = Craft("fgsm", replace(FGSM, eps=0.1))
    lab = Lab(Craft("fgsm", FGSM), weaker)
    x, y = whole(lab.test)
    rows = WorstCase().measure(lab)["results"]
    lines = [("clean", 0), ("worst_case", 0.1), ("worst_case", EPS)]
    assert [(row["target"], row["attack"], row["eps"]) for row in rows] == [(m, *line) for m in "AB" for line in lines]
    for row in rows:
        name, eps = row["target"], row["eps"]
        lost = errors(name, x, y) | errors(name, example(name, x, y, eps), y)
        assert row["error_top1"] == pytest.approx(float(lost.double().mean()))


# ---- any task


def tasks() -> dict[str, Any]:
    return {
        "transfer_matrix": MATRIX,
        "worst_case": WorstCase(),
        "gradient_pictures": GradientPictures(images=1),
        "loss_surface": SURFACE,
    }


def test_every_task_is_tested_here() -> None:
    assert tasks().keys() == TASKS.keys()
    assert all(isinstance(task, TASKS[name]) for name, task in tasks().items())  # type: ignore[arg-type]


@pytest.mark.parametrize("name", TASKS)
def test_a_task_stops_when_asked_to_and_leaves_models_as_they_were(name: str) -> None:
    lab = Lab()
    before = {model: own.state_dict() for model, own in lab.models.items()}
    before = {model: {key: value.clone() for key, value in state.items()} for model, state in before.items()}
    rows = tasks()[name].measure(lab)
    assert "results" in rows
    for model, own in lab.models.items():
        assert all(torch.equal(value, before[model][key]) for key, value in own.state_dict().items())
        assert all(parameter.grad is None for parameter in own.parameters()) and not own.training
    stopped = Lab()
    stopped.stop.signum = 15
    with pytest.raises(Interrupted):
        tasks()[name].measure(stopped)


@pytest.mark.parametrize("name", TASKS)
def test_a_task_that_fits_is_not_refused(name: str) -> None:
    tasks()[name].check(["A", "B"], ["A", "B"], ["fgsm"])


REFUSED: list[tuple[Any, list[str], list[str], str]] = [
    (SURFACE, ["A"], ["fgsm"], "task.other names 'B': the sources are A"),
    (SURFACE, ["B"], ["fgsm"], "task.model names 'A': the sources are B"),
    (SURFACE, ["A", "B"], [], "task.name loss_surface needs one attack, has 0: suite=fgsm"),
    (SURFACE, ["A", "B"], ["fgsm", "pgd"], "task.name loss_surface needs one attack, has 2: suite=fgsm"),
    (GradientPictures(images=1), ["A"], [], "task.name gradient_pictures needs an attack: suite=fgsm"),
]


@pytest.mark.parametrize(("task", "sources", "attacks", "message"), REFUSED)
def test_a_task_that_cannot_be_done_is_refused(task: Any, sources: list[str], attacks: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        task.check(sources, ["A", "B"], attacks)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"zoom": EPS}, "zoom should be in (0, extent)"),
        ({"zoom": 0.0}, "zoom should be in (0, extent)"),
        ({"extent": 1.5}, "zoom should be in (0, extent)"),
        ({"grid": 1}, "grid should be at least 2, is 1"),
        ({"points": 0}, "points should be in [1, averaged], is 0"),
        ({"points": 6}, "points should be in [1, averaged], is 6"),
    ],
)
def test_surfaces_that_make_no_sense_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        replace(SURFACE, **change)
    assert str(caught.value).startswith(message)


def test_pictures_of_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="images should be at least 1, is 0"):
        GradientPictures(images=0)
