"""Pictures of linear models' gradients, which are known."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from linear import batch_sizes
from squares import CLASSES, EPS, FGSM, cells, example, frames, images, logits, make_setup, signs

from epsball.attacks import NamedAttack
from epsball.attacks.noise import NoiseAttack
from epsball.measurements.gradient_pictures import GradientPictures
from epsball.measurements.measurement import Measurement, Rows, Setup
from epsball.measurements.violations import Violation

Measure = Callable[[Measurement, Setup], Rows]


def test_they_are_the_first_of_each_class_with_gradient_and_example(measured: Measure, tmp_path: Path) -> None:
    setup = make_setup(tmp_path)
    rows = measured(GradientPictures(images=2), setup)
    pictures = rows["pictures"]
    places = [i for label in range(CLASSES) for i in (setup.test.y == label).nonzero().flatten().tolist()[:2]]
    assert [(row["model"], row["image"]) for row in pictures] == [(model, i) for model in "AB" for i in places]
    x, y = setup.test.take(torch.tensor(places))
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
    assert cells(rows["results"]) == [("clean", "A", "A"), ("clean", "B", "B")]


def test_no_more_images_are_shown_to_a_model_at_once_than_a_batch_has(tmp_path: Path) -> None:
    """A thousand classes of large images are more than memory holds."""
    setup = make_setup(tmp_path, batch_size=2)
    whole = GradientPictures(images=2).measure(replace(setup, batch_size=50))["pictures"]
    seen = batch_sizes(setup.models["A"])
    pictures = GradientPictures(images=2).measure(setup)["pictures"]
    assert set(seen) <= {1, 2} and len(pictures) == len(whole) > 4
    for one, other in zip(pictures, whole, strict=True):
        np.testing.assert_array_equal(one["perturbed"], other["perturbed"])


def test_random_attacks_draw_as_their_attack_and_source_say(tmp_path: Path) -> None:
    attacks = [NamedAttack(f"noise {eps}", NoiseAttack(eps, "sign")) for eps in (0.1, 0.2)]
    setup = make_setup(tmp_path, *attacks)
    pictures = GradientPictures(images=2).measure(setup)["pictures"]
    places = list(dict.fromkeys(row["image"] for row in pictures))
    x, y = setup.test.take(torch.tensor(places))
    for named in attacks:
        for source in "AB":
            own = [row["perturbed"] for row in pictures if (row["attack"], row["model"]) == (named.name, source)]
            drawn = named.attack(setup.models[source], x, y, setup.generator(named, source))
            np.testing.assert_array_equal(np.stack(own), drawn)


def test_an_attack_that_leaves_the_ball_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NoiseAttack, "__call__", lambda _attack, _model, x, *_: 1 - x)
    with pytest.raises(Violation, match=r"noise eps 0\.1 on A: eps is 0\.100000, an example lies"):
        GradientPictures(images=1).measure(make_setup(tmp_path, NamedAttack("noise", NoiseAttack(0.1, "sign"))))


def test_they_become_a_png_for_each_attack_and_eps(measured: Measure, tmp_path: Path) -> None:
    pictures = GradientPictures(images=1)
    attacks = NamedAttack("fgsm", FGSM), NamedAttack("fgsm", replace(FGSM, eps=0.1)), NamedAttack("other", FGSM)
    shown = frames(measured(pictures, make_setup(tmp_path, *attacks)), seeds=(0, 1))
    sections = pictures.present(shown, tmp_path)
    names = ["gradients_fgsm_0.2.png", "gradients_fgsm_0.1.png", "gradients_other_0.2.png"]
    assert [section.image for section in sections] == [tmp_path / name for name in names]
    for name in names:
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    assert pictures.say(shown) == f"{2 * 3 * 2 * CLASSES} pictures\n"  # seeds, attacks, models


def test_more_images_than_a_class_has_are_all_of_them(tmp_path: Path) -> None:
    assert len(GradientPictures(images=100).measure(make_setup(tmp_path, test=images(7)))["pictures"]) == 7 * 2


def test_pictures_of_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="images should be at least 1, is 0"):
        GradientPictures(images=0)


def test_pictures_without_an_attack_are_refused() -> None:
    with pytest.raises(ValueError) as caught:
        GradientPictures(images=1).check(["A"], ["A", "B"], [])
    assert str(caught.value) == "name gradient_pictures needs an attack: suite=fgsm"
