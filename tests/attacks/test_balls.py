"""Norms and steps by hand."""

import pytest
import torch
from torch import Tensor

from epsball.attacks.balls import STEPS, norm

G = torch.tensor([[3.0, -4.0], [0.0, 0.0], [-1e-30, 0.0]]).view(3, 1, 1, 2)
BY_HAND: dict[str, list[list[float]]] = {
    "sign": [[1.0, -1.0], [0.0, 0.0], [-1.0, 0.0]],
    "l2": [[0.6, -0.8], [0.0, 0.0], [-1.0, 0.0]],
    "linf": [[0.75, -1.0], [0.0, 0.0], [-1.0, 0.0]],
}


def test_every_step_is_worked_by_hand() -> None:
    assert set(BY_HAND) == set(STEPS)


@pytest.mark.parametrize("step", BY_HAND)
def test_steps_by_hand(step: str) -> None:
    """Also of a gradient whose square underflows; one of zero moves nothing."""
    torch.testing.assert_close(STEPS[step](G).flatten(1), torch.tensor(BY_HAND[step]))


@pytest.mark.parametrize(("order", "length"), [(1, 7.0), (2, 5.0), (float("inf"), 4.0)])
def test_norms_by_hand(order: float, length: float) -> None:
    found: Tensor = norm(G, order)
    assert found.shape == (3, 1, 1, 1) and found[0].item() == length
    assert found[1].item() > 0  # so that zero can be divided by it
