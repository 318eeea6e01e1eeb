"""Distances, angles and outliers of maxima, on points whose geometry is known."""

from math import nan, sqrt

import numpy as np
import pytest
import torch
from linear import seeded
from torch import Tensor

from epsball.measurements.maxima import ball_distance, cosines, mean_angle, mean_distance, outer_outliers

TRIANGLE = torch.tensor([[[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]]])


def test_distances_of_a_right_triangle() -> None:
    assert mean_distance(torch.cat([TRIANGLE, 2 * TRIANGLE])).tolist() == pytest.approx([4.0, 8.0])
    assert mean_distance(torch.ones(1, 3, 5)).tolist() == [0.0]


@pytest.mark.parametrize("apart", [1e-3, 1e-5])
def test_near_points_keep_their_digits(apart: float) -> None:
    points = torch.full((1, 2, 784), 0.75)
    points[0, 1] += apart
    exact = float((points[0, 1] - points[0, 0]).double().norm())
    assert float(mean_distance(points)) == pytest.approx(exact, rel=1e-5)


def perturbations(*degrees: float, length: float = 0.1) -> Tensor:
    turns = torch.tensor(degrees, dtype=torch.float64).deg2rad()
    return length * torch.stack([turns.cos(), turns.sin()], 1)[None].float()


@pytest.mark.parametrize(
    ("degrees", "mean"),
    [((0, 90), 90), ((0, 180), 180), ((0, 60, 120), 80), ((30, 30), 0), ((0, 0.01), 0.01), ((0, 179.99), 179.99)],
)
@pytest.mark.parametrize("length", [0.1, 1e-30, 1e30])
def test_angles_of_any_size_and_length(degrees: tuple[float, ...], mean: float, length: float) -> None:
    assert mean_angle(perturbations(*degrees, length=length)).tolist() == pytest.approx([mean], rel=1e-3, abs=1e-4)


def test_a_perturbation_of_zero_has_no_angle() -> None:
    some = torch.cat([perturbations(0, 90), torch.zeros(1, 1, 2)], 1)
    assert mean_angle(some).tolist() == pytest.approx([90])
    assert mean_angle(torch.cat([perturbations(0), torch.zeros(1, 1, 2)], 1)).isnan().all()


def test_cosines_with_the_gradient() -> None:
    gradient = torch.tensor([[1e-30, 0.0], [0.0, 0.0]])
    moved = torch.cat([perturbations(0, 60, 90, 180), perturbations(0, 60, 90, 180)])
    moved[0, 0] = 0
    found = cosines(moved, gradient)
    assert found[0].tolist() == pytest.approx([nan, 0.5, 0, -1], abs=1e-6, nan_ok=True) and found[1].isnan().all()
    assert (found < 0).tolist() == [[False, False, False, True], [False] * 4]


def test_extreme_outliers_lie_beyond_tukeys_outer_fences() -> None:
    """Quartiles 1 and 3 of 0, 1, 2, 3 and a fifth value from 3 on: fences at -5 and 9."""
    values = np.array([[0, 1, 2, 3, 9.0], [0, 1, 2, 3, 9.01], [-5.01, 1, 2, 3, 4], [-5, 1, 2, 3, 4], [1, 1, 1, 1, 1]])
    assert outer_outliers(values).tolist() == [
        *([False] * 5, [False] * 4 + [True], [True] + [False] * 4, [False] * 5, [False] * 5)
    ]


@pytest.mark.parametrize(("pixels", "exact"), [(4, 1.5553313), (16, 3.2293360), (64, 6.5139959)])
def test_the_distance_of_two_points_of_the_ball(pixels: int, exact: float) -> None:
    """Exact: (1 / sqrt(pi)) times the integral over s of (1 - E[exp(-(s w)^2)]^pixels) / s^2, w the difference of two
    numbers uniform in [-1, 1]; by quadrature."""
    assert ball_distance(0.3, pixels) == pytest.approx(0.3 * exact, rel=1e-3 if pixels == 4 else 2e-6)


def test_the_distance_of_the_ball_is_that_of_drawn_points() -> None:
    points = 2 * torch.rand(40, 100, 784, generator=seeded()) - 1
    assert float(mean_distance(points).mean()) == pytest.approx(ball_distance(1.0, 784), rel=1e-3)
    assert ball_distance(1.0, 784) == pytest.approx(sqrt(2 * 784 / 3), rel=1e-3)
