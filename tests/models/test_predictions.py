"""Mistakes and their rate: first guess, first five, counted exactly."""

import math

import pytest
import torch
from torch import Generator, nn

from epsball.models.predictions import mistakes, rate


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


@pytest.mark.parametrize("unknown", [[0], [6], list(range(7))])
def test_no_guess_is_right_where_a_logit_is_nan(unknown: list[int]) -> None:
    logits = torch.arange(7.0).repeat(7, 1)
    logits[:, unknown] = math.nan
    found = mistakes(nn.Identity(), logits, torch.arange(7))
    assert found.top1.all() and found.top5 is not None and found.top5.all()


@pytest.mark.parametrize(("classes", "there"), [(5, False), (6, True)])
def test_top_five_needs_more_than_five_classes(classes: int, there: bool) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(5, classes))
    found = mistakes(model, torch.zeros(2, 1, 1, 5), torch.tensor([0, 1]))
    assert (found[1] is not None) == there
