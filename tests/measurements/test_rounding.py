"""Rounding of the gradients of linear models that are sure of a label, whose gradients are known."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from linear import NoFloat64, batch_sizes, linear
from squares import make_setup
from torch import Tensor, nn

from epsball.data.images import Batched, Split
from epsball.measurements.measurement import Measurement, Rows, Setup
from epsball.measurements.rounding import Rounding, Roundings, rounding_rows, roundings
from epsball.measurements.targets import over_batches
from epsball.models.wrappers import Ensemble
from epsball.results.distributions import Bins
from epsball.runtime.progress import Stop

Measure = Callable[[Measurement, Setup], Rows]
# logits 60 and 20 of a white first pixel: the margin's gradient is (40, -1, -1, -1), what rounding leaves of the
# loss's is along (20, 1, 1, 1)
SURE = torch.tensor([[60.0, 0.0, 0.0, 0.0], [20.0, 1.0, 1.0, 1.0]])


def of_first_pixels(*values: int) -> Split:
    """Images that are black but for their first pixel; of label 0."""
    x = torch.zeros(len(values), 1, 2, 2, dtype=torch.uint8)
    x[:, 0, 0, 0] = torch.tensor(values)
    return Split(x, torch.zeros(len(values), dtype=torch.long))


def found(model: nn.Module, test: Split, batch_size: int = 2) -> Roundings:
    return over_batches(partial(roundings, model), Batched(test, batch_size, Stop()), "rounding")


def test_by_hand() -> None:
    """Of the sure images the first component alone has another sign: it speaks for both classes."""
    own = found(linear(SURE), of_first_pixels(255, 51, 0, 204))
    assert own.margin.tolist() == pytest.approx([40, 8, 0, 32])
    assert own.certain.tolist() == [True, False, False, True]
    assert own.signs.tolist() == [0.25, 0, 0, 0.25]


def test_what_has_no_gradient_by_its_cross_entropy_has_lost_all_signs() -> None:
    """A margin of 400: the wrong class's probability, e^-400, is zero in float32."""
    own = found(linear(10 * SURE), of_first_pixels(255))
    assert own.certain.tolist() == [True] and own.signs.tolist() == [1]


def test_a_component_that_is_zero_in_truth_is_not_lost() -> None:
    weight = SURE.clone()
    weight[:, 3] = 0
    assert found(linear(weight), of_first_pixels(255)).signs.tolist() == [0.25]


def test_float64_rounds_nothing_at_a_margin_of_24() -> None:
    x, y = torch.tensor([0.6, 0, 0, 0]).view(1, 1, 2, 2), torch.tensor([0])
    assert roundings(linear(SURE), x, y).signs.tolist() == [0.25]
    assert roundings(linear(SURE.double()), x.double(), y).signs.tolist() == [0]


def test_of_an_ensemble_the_member_that_is_less_sure_leads_both() -> None:
    """Its gradient is 1e12 times the other's: nothing that rounding takes from that one's shows."""
    unsure = torch.tensor([[8.0, 0.0, 0.0, 0.0], [0.0, -1.0, -1.0, -1.0]])
    both = Ensemble([linear(SURE), linear(unsure)], "mean_probability").eval()
    own = found(both, of_first_pixels(255))
    assert own.signs.tolist() == [0] and own.certain.tolist() == [False] and own.margin.tolist() == [24]  # of 40 and 8
    twice = Ensemble([linear(SURE), linear(SURE)], "mean_probability").eval()
    own = found(twice, of_first_pixels(255))
    assert own.signs.tolist() == [0.25] and own.certain.tolist() == [True] and own.margin.tolist() == [40]


def test_it_is_of_each_image_whatever_the_batch() -> None:
    test = of_first_pixels(*range(0, 256, 15))
    one, other = (found(linear(SURE), test, size) for size in (1, 7))
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert 0 < one.signs.mean() < 0.25


def test_a_row_is_means_and_shares_of_all_images_and_of_the_certain() -> None:
    own = Roundings(torch.tensor([1.0, 30.0, 20.0]), torch.tensor([False, True, True]), torch.tensor([0.0, 0.5, 0.25]))
    (row,) = rounding_rows(own, None)
    assert row == {
        **{"n": 3, "margin_mean": 17.0, "margin_sd": pytest.approx(217**0.5)},
        **{"certain": pytest.approx(2 / 3), "rounded_signs": 0.25, "certain_n": 2, "certain_rounded_signs": 0.375},
    }
    assert {type(value) for value in row.values()} == {int, float}
    (unsure,) = rounding_rows(Roundings(*(values[:1] for values in own)), None)
    assert unsure["certain"] == 0 and not {"certain_n", "certain_rounded_signs"} & unsure.keys()
    _, low, high = rounding_rows(own, Bins(low=0.0, high=50.0, number=2, log=False))
    assert (low["margin_share"], high["margin_share"]) == pytest.approx((2 / 3, 1 / 3))


def test_each_target_has_a_row_of_its_own(measured: Measure, tmp_path: Path) -> None:
    models = {"A": linear(SURE), "B": linear(SURE / 10)}
    test = of_first_pixels(255, 255, 0)
    rows = measured(Rounding(None), make_setup(tmp_path, models=models, test=test))["results"]
    assert [(row["measurement"], row["target"]) for row in rows] == [(m, t) for m in ("clean", "mine") for t in "AB"]
    assert [row["certain"] for row in rows[2:]] == pytest.approx([2 / 3, 0])
    assert [row["rounded_signs"] for row in rows[2:]] == pytest.approx([1 / 6, 0])
    (first,) = measured(Rounding(1), make_setup(tmp_path, models={"A": models["A"]}, test=test))["results"][1:]
    assert first["n"] == 1 and first["certain"] == 1 and first["identity"] != rows[2]["identity"]


def test_they_are_shown(measured: Measure, tmp_path: Path) -> None:
    import pandas as pd

    setup = make_setup(tmp_path, models={"A": linear(SURE)}, test=of_first_pixels(255, 0))
    shown = {"results": pd.DataFrame(measured(Rounding(None), setup)["results"])}
    (section,) = Rounding(None).present(shown, tmp_path)
    assert section.table is not None and list(section.table["signs rounded"]) == ["0.125"]
    assert Rounding(None).say(shown) == (
        "A: mean margin 20.00, 50.00% of the images certain; rounding changes 12.50% of the gradient's signs\n"
    )


def test_nothing_is_computed_in_float64_or_read_on_the_device() -> None:
    with NoFloat64("cpu"):
        found(linear(SURE), of_first_pixels(255, 0, 7))
    on_meta: Any = found(linear(SURE).to("meta"), of_first_pixels(255, 0, 7).to("meta"))
    assert [tuple(values.shape) for values in on_meta] == [(3,)] * 3


def test_the_model_is_run_once_for_its_answer_and_both_gradients() -> None:
    model = linear(SURE)
    seen = batch_sizes(model)
    found(model, of_first_pixels(255, 0, 7))
    assert seen == [2, 1]


def test_a_target_without_gradients_has_a_clean_row_alone(measured: Measure, tmp_path: Path) -> None:
    class Zeros(nn.Module):
        differentiable = False

        def forward(self, x: Tensor) -> Tensor:
            return torch.zeros(len(x), 2)

    setup = make_setup(tmp_path, models={"forest": Zeros()}, sources=[], test=of_first_pixels(255))
    assert [row["measurement"] for row in measured(Rounding(None), setup)["results"]] == ["clean"]


@pytest.mark.parametrize("images", [0, -1])
def test_no_images_are_refused(images: int) -> None:
    with pytest.raises(ValueError, match=f"^images should be at least 1 or null, is {images}$"):
        Rounding(images)
