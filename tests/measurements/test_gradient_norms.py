"""Norms of the input gradient on linear models, whose gradients are known."""

from collections.abc import Callable
from math import nan
from pathlib import Path

import pandas as pd
import pytest
import torch
from linear import Brightness, NoFloat64, linear, softmax_gradient
from squares import CLASSES, PIXELS, WEIGHTS, frames, make_setup, whole
from torch import Tensor

from epsball.attacks.losses import input_gradient
from epsball.data.images import Batched, Split
from epsball.measurements.gradient_norms import GradientNorms, gradient_norms, gradient_rows, lengths
from epsball.measurements.measurement import Measurement, Rows, Setup
from epsball.models.wrappers import Ensemble
from epsball.results.distributions import Bins
from epsball.runtime.progress import Interrupted, Stop

Measure = Callable[[Measurement, Setup], Rows]
NORMS = GradientNorms(bins=None)
BINS = Bins(low=0.5, high=2.5, number=4, log=False)


@pytest.fixture
def known() -> tuple[Tensor, Split]:
    """Weights of a linear model of three classes, and 11 images with labels."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randint(256, (11, 1, 4, 4), generator=generator, dtype=torch.uint8)
    return torch.randn(3, 16, generator=generator), Split(x, torch.randint(3, (11,), generator=generator))


@pytest.mark.parametrize("batch_size", [1, 4, 11, 100])
def test_they_are_those_of_each_images_own_loss(known: tuple[Tensor, Split], batch_size: int) -> None:
    """Not of the batch's mean loss, whose gradient is as many times smaller."""
    weight, test = known
    x, y = test.take(torch.arange(11))
    expected = softmax_gradient(weight, x, y)
    model = linear(weight).requires_grad_(False)
    assert torch.allclose(input_gradient(model, x, y), expected, atol=1e-6)
    norms = gradient_norms(model, Batched(test, batch_size, Stop()))
    assert norms.shape == (11,) and torch.allclose(norms, expected.flatten(1).norm(dim=1), rtol=1e-5)
    assert not x.requires_grad and not norms.requires_grad


def test_only_a_gradient_of_zeros_has_length_zero() -> None:
    """Of a confident model all components are so small that float32 has no number for their squares."""
    gradients = torch.tensor([[0.0, 0.0], [3.0, -4.0], [3e-25, 4e-25], [0.0, -1e-36], [1e-13, 0.0]])
    found = lengths(gradients)
    assert gradients.norm(dim=1)[2:4].tolist() == [0.0, 0.0]
    assert found.tolist() == pytest.approx([0.0, 5.0, 5e-25, 1e-36, 1e-13], rel=1e-5)
    assert found[1] == gradients[1].norm()  # as it was


def test_a_row_is_mean_sd_and_share_of_zeros() -> None:
    (row,) = gradient_rows(torch.tensor([0.0, 1.0, 2.0, 0.0, 7.0]), None)
    assert row == {
        "n": 5,
        "gradient_l2_mean": 2.0,
        "gradient_l2_sd": pytest.approx((34 / 4) ** 0.5),
        "gradient_zero_share": pytest.approx(0.4),
    }
    assert {type(value) for value in row.values()} == {int, float}


def test_each_target_has_a_row_of_its_own_gradients(measured: Measure, tmp_path: Path) -> None:
    setup = make_setup(tmp_path)
    x, y = whole(setup.test)
    rows = measured(NORMS, setup)["results"]
    assert [(row["measurement"], row["source"], row["target"], row["attack"], row["eps"]) for row in rows] == [
        *(("clean", name, name, "clean", 0.0) for name in "AB"),
        *(("mine", name, name, "clean", 0.0) for name in "AB"),
    ]
    assert all("gradient_l2_mean" not in row for row in rows[:2])
    for row in rows[2:]:
        norms = softmax_gradient(WEIGHTS[row["target"]], x, y).flatten(1).norm(dim=1).double()
        assert row["gradient_l2_mean"] == pytest.approx(float(norms.mean()), rel=1e-4)
        assert row["gradient_l2_sd"] == pytest.approx(float(norms.std()), rel=1e-4)
        assert row["gradient_zero_share"] == 0 and row["n"] == len(y)
    assert rows[2]["gradient_l2_mean"] != pytest.approx(rows[3]["gradient_l2_mean"], rel=0.01)


def test_with_bins_a_histogram_of_the_norms_stands_below_their_mean(measured: Measure, tmp_path: Path) -> None:
    setup = make_setup(tmp_path)
    x, y = whole(setup.test)
    rows = [row for row in measured(GradientNorms(BINS), setup)["results"][2:] if row["target"] == "B"]
    assert [row.get("bin_low") for row in rows] == [None, 0.5, 1.0, 1.5, 2.0]
    norms = softmax_gradient(WEIGHTS["B"], x, y).flatten(1).norm(dim=1)
    inside = norms.clamp(0.5, 2.5)
    for row in rows[1:]:
        last = row["bin_high"] == 2.5
        counted = (inside >= row["bin_low"]) & ((inside <= 2.5) if last else (inside < row["bin_high"]))
        assert row["gradient_l2_share"] == pytest.approx(float(counted.double().mean())) and row["n"] == len(y)
    assert len({row["identity"] for row in rows}) == 1
    assert setup.find("gradients", "B", "B") is None  # other bins are another measurement


def test_a_gradient_that_is_zero_is_counted(tmp_path: Path) -> None:
    setup = make_setup(tmp_path, models={"A": linear(torch.zeros(CLASSES, PIXELS))})
    (row,) = NORMS.measure(setup)["results"]
    assert (row["gradient_l2_mean"], row["gradient_l2_sd"], row["gradient_zero_share"]) == (0, 0, 1)


def test_an_ensembles_gradient_is_that_which_attacks_follow_and_rows_of_another_do_not_count(tmp_path: Path) -> None:
    """Votes have no gradient; what an earlier version kept of an ensemble is of the loss of its votes."""
    models = {"A": linear(WEIGHTS["A"]), "E": Ensemble([linear(weight) for weight in WEIGHTS.values()], "vote")}
    setup = make_setup(tmp_path, models=models)
    for name in models:
        setup.keep("gradients", name, name, [{"n": 50, "gradient_l2_mean": -1.0}])
    assert NORMS.workload(setup).models == {"E"}
    old, new = NORMS.measure(setup)["results"]
    x, y = whole(setup.test)
    mean = torch.stack([softmax_gradient(weight, x, y) for weight in WEIGHTS.values()]).mean(0)
    assert old["gradient_l2_mean"] == -1
    assert new["gradient_l2_mean"] == pytest.approx(float(mean.flatten(1).norm(dim=1).mean()), rel=1e-4)


def test_a_target_without_gradients_has_a_clean_row_alone(measured: Measure, tmp_path: Path) -> None:
    models = {"A": linear(WEIGHTS["A"]), "forest": Brightness()}
    rows = measured(NORMS, make_setup(tmp_path, models=models, sources=["A"]))["results"]
    assert [(row["measurement"], row["target"]) for row in rows] == [("clean", "A"), ("clean", "forest"), ("mine", "A")]


def test_they_are_shown_as_means_over_the_seeds(measured: Measure, tmp_path: Path) -> None:
    rows = measured(NORMS, make_setup(tmp_path))["results"]
    doubled = [{**row, "seed": 1} for row in rows]
    for row in doubled[2:]:
        row["gradient_l2_mean"] *= 2
    shown = {"results": pd.DataFrame([*rows, *doubled])}
    (section,) = NORMS.present(shown, tmp_path)
    assert section.table is not None and list(section.table["target"]) == ["A", "B"]
    means = [1.5 * row["gradient_l2_mean"] for row in rows[2:]]
    assert list(section.table["mean"].astype(float)) == pytest.approx(means, abs=1e-4)
    spread = rows[2]["gradient_l2_sd"]
    assert NORMS.say(shown).startswith(f"A: gradient norm {means[0]:.4g}, sd {spread:.4g}, 0.00% zero\nB: ")


def test_small_norms_keep_their_digits(tmp_path: Path) -> None:
    """Those of a confident model are as small as 1e-23."""
    row = {"measurement": "mine", "target": "A", "gradient_l2_mean": 2.1e-7, "gradient_l2_sd": nan}
    shown = {"results": pd.DataFrame([{**row, "gradient_zero_share": 0.25}])}
    (section,) = NORMS.present(shown, tmp_path)
    assert section.table is not None and section.table.to_numpy().tolist() == [["A", "2.1e-07", "-", "0.25"]]
    assert NORMS.say(shown) == "A: gradient norm 2.1e-07, sd nan, 25.00% zero\n"


def test_without_a_model_that_has_gradients_there_is_no_section(measured: Measure, tmp_path: Path) -> None:
    setup = make_setup(tmp_path, models={"forest": Brightness()}, sources=[])
    shown = frames(measured(NORMS, setup))
    assert NORMS.present(shown, tmp_path) == [] and NORMS.say(shown) == ""


def test_they_stop_before_the_next_batch(known: tuple[Tensor, Split]) -> None:
    weight, test = known
    stop = Stop()
    model = linear(weight)
    model.register_forward_hook(lambda *_: setattr(stop, "signum", 15))
    with pytest.raises(Interrupted):
        gradient_norms(model, Batched(test, 4, stop))


def test_no_norm_is_computed_in_float64_on_the_device(known: tuple[Tensor, Split]) -> None:
    weight, test = known
    with NoFloat64("cpu"):
        assert gradient_norms(linear(weight), Batched(test, 4, Stop())).shape == (11,)


def test_norms_leave_the_device_before_they_become_float64() -> None:
    """The copy from the meta device fails, as it must; nothing became float64 on it before."""
    with pytest.raises(NotImplementedError, match="Cannot copy out of meta tensor"), NoFloat64("meta"):
        gradient_rows(torch.rand(5, device="meta"), None)
