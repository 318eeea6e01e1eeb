"""Loss surfaces of linear models, whose losses and gradients are known."""

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from linear import NoFloat64, batch_sizes, seeded
from squares import BATCH, EPS, FGSM, assert_same, errors, example, frames, losses, make_setup, signs, whole
from torch import nn

from epsball.attacks import NamedAttack
from epsball.attacks.noise import NoiseAttack
from epsball.data.images import Batched, Split
from epsball.measurements.loss_surface import LossSurface, find_transferring, losses_on_grid, mean_surface
from epsball.measurements.measurement import Measurement, Rows, Setup
from epsball.measurements.violations import Violation
from epsball.results.given import GivenRows
from epsball.runtime.progress import Stop

Measure = Callable[[Measurement, Setup], Rows]
SURFACE = LossSurface("A", "B", extent=EPS, zoom=EPS / 10, grid=4, points=2, averaged=5, clip=False)


def chosen(test: Split, source: str = "B", target: str = "A") -> list[int]:
    """Places of all images that the target gets right and whose example crafted on the source fools it."""
    x, y = whole(test)
    found: list[int] = (~errors(target, x, y) & errors(target, example(source, x, y), y)).nonzero().flatten().tolist()
    return found


def transferring(setup: Setup, most: int) -> list[int]:
    own = (setup.models["B"], setup.models["A"], FGSM, setup.batched(), seeded(), most)
    found: list[int] = find_transferring(*own, "fgsm").tolist()
    return found


# ---- images to draw


@pytest.mark.parametrize("batch_size", [1, BATCH, 50])
def test_they_are_the_first_that_the_target_gets_right_and_the_example_fools(batch_size: int, tmp_path: Path) -> None:
    setup = make_setup(tmp_path, batch_size=batch_size)
    expected = chosen(setup.test)
    x, y = whole(setup.test)
    wrong_clean = errors("A", x, y) & errors("A", example("B", x, y), y)
    assert wrong_clean.any() and expected[-1] > 2 * BATCH and 5 < len(expected) < 40  # neither none nor all
    assert transferring(setup, 1000) == expected
    for most in (1, 5, len(expected) - 1, len(expected), len(expected) + 1):
        assert transferring(setup, most) == expected[:most]


def test_the_search_looks_no_further_than_it_must(tmp_path: Path) -> None:
    setup = make_setup(tmp_path)
    seen = batch_sizes(setup.models["B"])
    assert len(transferring(setup, 1)) == 1
    assert seen == [BATCH]


def test_a_random_attack_draws_as_its_settings_and_source_say(tmp_path: Path) -> None:
    setup = make_setup(tmp_path, NamedAttack("noise", NoiseAttack(0.5, "sign")), batch_size=50)
    x, y = whole(setup.test)
    x_adv = setup.attacks[0].attack(setup.models["B"], x, y, setup.generator(setup.attacks[0], "B"))
    places = (~errors("A", x, y) & errors("A", x_adv, y)).nonzero().flatten().tolist()
    points = [row["point"] for row in replace(SURFACE, averaged=100).measure(setup)["surface"]]
    drawn = [f"image {i} (a {int(y[i])})" for i in places[: SURFACE.points]]
    assert list(dict.fromkeys(points)) == [*drawn, f"mean of {len(places)}"]


def test_an_attack_that_leaves_the_ball_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NoiseAttack, "__call__", lambda _attack, _model, x, *_: 1 - x)
    with pytest.raises(Violation, match=r"noise eps 0\.1 on B: eps is 0\.100000, an example lies"):
        SURFACE.measure(make_setup(tmp_path, NamedAttack("noise", NoiseAttack(0.1, "sign"))))


@pytest.mark.parametrize("part", ["mean", "drawn"])
def test_gradients_of_an_ensemble_are_another_surface(part: Any, tmp_path: Path) -> None:
    """Of its members' mean loss, as earlier rows are not; those of single models count on."""
    found = [SURFACE.what(make_setup(tmp_path, ensembles=names), part) for names in ([], ["C"], ["A"], ["B"])]
    assert found[0] == found[1] != found[2] == found[3]


# ---- losses


@pytest.mark.parametrize("clip", [False, True])
def test_losses_go_along_two_signed_gradients(clip: bool, tmp_path: Path) -> None:
    setup = make_setup(tmp_path)
    images = setup.test.first(5)
    x, y = whole(images)
    steps, models = [0.0, 0.2, 0.5], (setup.models["A"], setup.models["B"])
    found = losses_on_grid(models[0], models, Batched(images, 2, Stop()), torch.tensor(steps), clip)
    assert found.shape == (5, 3, 3)
    for i, e1 in enumerate(steps):
        for j, e2 in enumerate(steps):
            moved = x + e1 * signs("A", x, y) + e2 * signs("B", x, y)
            assert torch.allclose(found[:, i, j], losses("A", moved.clamp(0, 1) if clip else moved, y), atol=1e-5)


def test_no_loss_is_computed_in_float64_on_the_device(tmp_path: Path) -> None:
    setup = make_setup(tmp_path)
    models, steps = (setup.models["A"], setup.models["B"]), torch.tensor([0.0, 0.1])
    with NoFloat64("cpu"):
        losses_on_grid(models[0], models, Batched(setup.test.first(3), 2, Stop()), steps, True)


@pytest.mark.parametrize("clip", [False, True])
def test_a_surface_is_the_exact_loss_at_each_place(clip: bool, tmp_path: Path) -> None:
    setup, surface = make_setup(tmp_path), replace(SURFACE, clip=clip)
    index = chosen(setup.test)[: surface.averaged]
    x, y = setup.test.take(torch.tensor(index))
    frame = pd.DataFrame(surface.measure(setup)["surface"])
    for point, image in enumerate(index[: surface.points]):
        for window, size in (("whole", surface.extent), ("zoom", surface.zoom)):
            own = frame[(frame["point"] == f"image {image} (a {int(y[point])})") & (frame["window"] == window)]
            assert len(own) == surface.grid**2
            assert sorted(set(own["e1"])) == pytest.approx(np.linspace(0, size, surface.grid))
            for row in own.itertuples():
                moved = x + float(row.e1) * signs("A", x, y) + float(row.e2) * signs("B", x, y)
                exact = losses("A", moved.clamp(0, 1) if clip else moved, y)[point]
                assert row.loss == pytest.approx(float(exact), rel=1e-4, abs=1e-5)


def test_clipping_matters_here(tmp_path: Path) -> None:
    """Some surfaces leave the pixel range, or the test above would not tell the two apart."""
    setup = make_setup(tmp_path)
    surfaces = [pd.DataFrame(replace(SURFACE, clip=clip).measure(setup)["surface"])["loss"] for clip in (False, True)]
    assert (surfaces[0] - surfaces[1]).abs().max() > 0.01


def test_the_image_itself_is_the_grids_first_place(tmp_path: Path) -> None:
    setup = make_setup(tmp_path)
    index = torch.tensor(chosen(setup.test)[: SURFACE.averaged])
    x, y = setup.test.take(index)
    rows = SURFACE.measure(setup)
    origin = [row for row in rows["surface"] if row["e1"] == row["e2"] == 0]
    clean = losses("A", x, y)
    expected = [*clean[: SURFACE.points].tolist(), float(clean.mean())] * 2
    assert [row["loss"] for row in origin] == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert [row["window"] for row in origin] == ["whole"] * 3 + ["zoom"] * 3


def test_results_have_the_mean_loss_over_all_chosen_images(measured: Measure, tmp_path: Path) -> None:
    setup = make_setup(tmp_path)
    x, y = setup.test.take(torch.tensor(chosen(setup.test)[: SURFACE.averaged]))
    results = pd.DataFrame(measured(SURFACE, setup)["results"])
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


def test_results_have_the_clean_errors_of_both_models(measured: Measure, tmp_path: Path) -> None:
    setup = make_setup(tmp_path)
    x, y = whole(setup.test)
    rows = [row for row in measured(SURFACE, setup)["results"] if row["attack"] == "clean"]
    assert [row["target"] for row in rows] == ["A", "B"]
    assert [row["error_top1"] for row in rows] == [float(errors(name, x, y).double().mean()) for name in "AB"]


def test_a_model_may_be_its_own_other(measured: Measure, tmp_path: Path) -> None:
    rows = measured(replace(SURFACE, other="A"), make_setup(tmp_path))["results"]
    assert [row["target"] for row in rows if row["attack"] == "clean"] == ["A"]


def unfooled(folder: Path) -> Setup:
    """A setup where no example fools: an attack that does nothing."""
    return make_setup(folder, NamedAttack("fgsm", replace(FGSM, eps=0.0)))


def test_without_a_chosen_image_there_is_a_clear_section(measured: Measure, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # see the next test
        rows = measured(SURFACE, unfooled(tmp_path / "store"))
    assert rows["surface"] == []
    assert {row["n"] for row in rows["results"] if row["attack"] == "surface"} == {0}
    shown = frames(rows)
    (tmp_path / "shown").mkdir()
    (section,) = SURFACE.present(shown, tmp_path / "shown")
    assert section.text == "No example crafted on B fools A." and section.image is None
    assert SURFACE.say(shown) == "0 loss surfaces\n" and not list((tmp_path / "shown").iterdir())


def test_no_network_is_shown_a_batch_of_no_image(tmp_path: Path) -> None:
    """Many reshape by `view(len(x), -1)`, which torch refuses there."""
    setup = unfooled(tmp_path)

    def refuse(_network: nn.Module, inputs: tuple[torch.Tensor]) -> None:
        assert len(inputs[0])

    for network in setup.models.values():
        network.register_forward_pre_hook(refuse)
    assert {row["n"] for row in SURFACE.measure(setup)["results"]} == {0}


@pytest.mark.parametrize("averaged", [0, 1])
def test_few_chosen_images_give_no_warning(averaged: int, tmp_path: Path) -> None:
    """The spread of fewer than two losses is NaN, quietly."""
    setup = make_setup(tmp_path) if averaged else unfooled(tmp_path)
    surface = replace(SURFACE, points=1, averaged=1) if averaged else SURFACE
    rows = [row for row in surface.measure(setup)["results"] if row["attack"] == "surface"]
    assert all(row["n"] == averaged and np.isnan(row["loss_sd"]) for row in rows)


def test_surfaces_of_all_seeds_are_written_and_those_of_one_drawn(measured: Measure, tmp_path: Path) -> None:
    shown = frames(measured(SURFACE, make_setup(tmp_path)), seeds=(1, 2))
    sections = SURFACE.present(shown, tmp_path)
    assert [section.image for section in sections] == [tmp_path / "loss_surface.png"]
    assert (tmp_path / "loss_surface.png").read_bytes().startswith(b"\x89PNG")
    written = pd.read_csv(tmp_path / "surface.csv")
    assert len(written) == 2 * 2 * 3 * SURFACE.grid**2  # seeds, windows, two images and the mean
    assert SURFACE.say(shown) == "3 loss surfaces\n"


def test_other_images_to_draw_are_measured_although_their_mean_is_finished(tmp_path: Path) -> None:
    setup, more = make_setup(tmp_path), replace(SURFACE, points=3)
    first = SURFACE.measure(setup)
    assert more.workload(setup).models == {"A", "B"} and not SURFACE.workload(setup).models
    again = more.measure(setup)
    assert len({row["point"] for row in again["surface"]}) == 4 and not more.workload(setup).models
    assert_same(again["results"], first["results"])


def test_mean_losses_that_the_user_gives_suffice_without_models(tmp_path: Path) -> None:
    measured = SURFACE.measure(make_setup(tmp_path / "one"))["results"]
    given = GivenRows({measured[0]["identity"]: measured})
    setup = make_setup(tmp_path / "other", given=given)
    assert not SURFACE.workload(setup).models
    found = SURFACE.measure(replace(setup, models={}))
    assert_same(found["results"], measured)
    assert found["surface"] == []


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


REFUSED = [
    (["A"], ["fgsm"], "other names 'B': the sources are A"),
    (["B"], ["fgsm"], "model names 'A': the sources are B"),
    (["A", "B"], [], "name loss_surface needs one attack, has 0: suite=fgsm attack=none"),
    (["A", "B"], ["fgsm", "pgd"], "name loss_surface needs one attack, has 2: suite=fgsm attack=none"),
]


@pytest.mark.parametrize(("sources", "attacks", "message"), REFUSED)
def test_what_cannot_be_drawn_is_refused(sources: list[str], attacks: list[str], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        SURFACE.check(sources, ["A", "B"], [NamedAttack(name, FGSM) for name in attacks])
    assert str(caught.value) == message


def test_the_drawn_surface_is_that_of_the_rows(tmp_path: Path) -> None:
    rows = SURFACE.measure(make_setup(tmp_path))["results"]
    named = {"surface": "whole", "surface_zoom": "zoom"}
    expected = [[named[row["attack"]], row["e1"], row["e2"], row["loss_mean"]] for row in rows]
    assert mean_surface(pd.DataFrame(rows))[["window", "e1", "e2", "loss"]].values.tolist() == expected
