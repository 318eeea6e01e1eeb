"""Losses by hand."""

import pytest
import torch
import torch.nn.functional as F
from linear import linear, seeded, softmax_gradient
from torch import nn

from epsball.attacks.losses import (
    Heads,
    at_least_fp32,
    cross_entropy,
    entropy,
    input_gradient,
    log_cross_entropy,
    log_odds,
    margin,
)
from epsball.models.wrappers import Ensemble, Rule


def test_margin_and_entropy_by_hand() -> None:
    logits = torch.tensor([[3.0, 1.0, 2.0], [0.0, 5.0, 1.0]])
    assert margin(logits, torch.tensor([0, 2])).tolist() == [1.0, -4.0]
    assert entropy(torch.tensor([[0.0, 0.0, 0.0, 0.0], [50.0, 0.0, 0.0, 0.0]])).tolist() == pytest.approx(
        [1.386294, 0.0], abs=1e-6
    )


@pytest.mark.parametrize("scale", [1.0, 10.0])
def test_cross_entropy_is_a_function_of_the_log_odds(scale: float) -> None:
    """J = log(1 + exp(odds)), so dJ/dx = (1 - p) dodds/dx: one direction."""
    logits = (scale * torch.randn(20, 4, generator=seeded(), dtype=torch.float64)).requires_grad_()
    y = torch.arange(20) % 4
    odds, loss = log_odds(logits, y), F.cross_entropy(logits, y, reduction="none")
    torch.testing.assert_close(F.softplus(odds), loss)
    along, whole = (torch.autograd.grad(value.sum(), logits, retain_graph=True)[0] for value in (odds, loss))
    torch.testing.assert_close(along * (1 - (-loss).exp())[:, None], whole)


@pytest.mark.parametrize("sure", [20.0, 400.0])
def test_log_odds_have_a_gradient_where_the_probability_rounds_to_1(sure: float) -> None:
    """Half along each of the two wrong labels' logits, against the right one's, whose part cross-entropy loses."""
    y = torch.tensor([0])
    logits = torch.tensor([[sure, 0.0, 0.0]], requires_grad=True)
    assert torch.autograd.grad(log_odds(logits, y), logits)[0].tolist() == [[-1.0, 0.5, 0.5]]
    assert torch.autograd.grad(F.cross_entropy(logits, y), logits)[0][0, 0] == 0


@pytest.mark.parametrize("scale", [1.0, 10.0, 40.0])
def test_log_cross_entropy_is_its_logarithm(scale: float) -> None:
    """In float64, for heads of margins up to a hundred; one without weight counts for nothing."""
    logits = (scale * torch.randn(2, 20, 4, generator=seeded(), dtype=torch.float64)).requires_grad_()
    y = torch.arange(20) % 4
    for outputs in ([(logits[0], 1.0)], [(logits[0], 0.3), (logits[1], 0.7)], [(logits[0], 1.0), (logits[1], 0.0)]):
        value, loss = log_cross_entropy(outputs, y), cross_entropy(outputs, y, label_smoothing=0.0)
        kept = (loss > 1e-9).detach()  # below, float64's own cross-entropy rounds
        assert kept.sum() > 8
        torch.testing.assert_close(value[kept], loss[kept].log(), rtol=1e-6, atol=1e-9)
        along, whole = (torch.autograd.grad(v[kept].sum(), logits, retain_graph=True)[0] for v in (value, loss))
        torch.testing.assert_close(along * loss.where(kept, 0)[:, None], whole, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("sure", [10.0, 29.0, 31.0, 88.0, 120.0, 1e4])
def test_log_cross_entropy_has_its_gradient_in_float32_however_sure(sure: float) -> None:
    """-1 for the label's logit, a half for each of the others; of two heads that of the less sure one alone."""
    y = torch.tensor([0])
    logits = torch.tensor([[[sure, 0.0, 0.0]], [[2 * sure, 0.0, 0.0]]], requires_grad=True)
    half = [[-1.0, 0.5, 0.5]]
    one: Heads = [(logits[0], 1.0)]
    both: Heads = [(logits[0], 0.5), (logits[1], 0.5)]
    for outputs in (one, both):
        (found,) = torch.autograd.grad(log_cross_entropy(outputs, y).sum(), logits)
        torch.testing.assert_close(found, torch.tensor([half, [[0.0] * 3]]), rtol=0, atol=2e-4)


LOGITS = torch.tensor([[2.0, 0.0, -1.0], [0.5, 0.5, 3.0]])


def test_cross_entropy_adds_up_weighted_heads() -> None:
    y, other = torch.tensor([0, 1]), LOGITS.flip(1)
    expected = F.cross_entropy(LOGITS, y, reduction="none") + 0.4 * F.cross_entropy(other, y, reduction="none")
    torch.testing.assert_close(cross_entropy([(LOGITS, 1.0), (other, 0.4)], y, label_smoothing=0.0), expected)


def test_label_smoothing_by_hand() -> None:
    """A tenth of the label is shared out over all three classes."""
    log_p = LOGITS.log_softmax(1)
    expected = -(0.9 * log_p[torch.arange(2), torch.tensor([0, 1])] + 0.1 * log_p.mean(1))
    found = cross_entropy([(LOGITS, 1.0)], torch.tensor([0, 1]), label_smoothing=0.1)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("given", "taken"),
    [(torch.bfloat16, torch.float32), (torch.float32, torch.float32), (torch.float64, torch.float64)],
)
def test_no_loss_is_taken_in_half_precision(given: torch.dtype, taken: torch.dtype) -> None:
    logits, y = LOGITS.to(given), torch.tensor([0, 1])
    assert at_least_fp32(logits).dtype == taken
    assert cross_entropy([(logits, 1.0)], y, label_smoothing=0.0).dtype == taken


def test_the_input_gradient_is_each_images_own() -> None:
    weight, y = torch.tensor([[1.0, -2.0], [0.5, 1.0], [-1.0, 0.3]]), torch.tensor([2, 0])
    x = torch.tensor([0.1, 0.9, 0.6, 0.2]).view(2, 1, 1, 2)
    found = input_gradient(linear(weight), x, y)
    torch.testing.assert_close(found, softmax_gradient(weight, x, y))
    assert not found.requires_grad and not x.requires_grad


def test_a_single_models_gradient_is_bit_for_bit_that_of_its_cross_entropy() -> None:
    torch.manual_seed(0)
    model, y = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ELU(), nn.Linear(32, 10)), torch.arange(20) % 10
    x = torch.rand(20, 1, 8, 8).requires_grad_()
    (expected,) = torch.autograd.grad(F.cross_entropy(model(x), y, reduction="sum"), x)
    assert torch.equal(input_gradient(model, x, y), expected)


@pytest.mark.parametrize("rule", ["mean_probability", "mean_logit", "vote"])
def test_an_ensembles_gradient_is_of_its_members_mean_loss(rule: Rule) -> None:
    """Whatever its rule; the second member, sure of its label, would decide the mean logit's sign."""
    weights = [torch.tensor([[0.0] * 4, [2, -1, 1, 1]]), torch.tensor([[0.0] * 4, [-90, 3, -3, -3]])]
    x, y = torch.full((3, 1, 1, 4), 0.2), torch.zeros(3, dtype=torch.int64)
    model = Ensemble([linear(weight) for weight in weights], rule).eval()
    found = input_gradient(model, x, y)
    expected = torch.stack([softmax_gradient(weight, x, y) for weight in weights]).mean(0)
    assert torch.allclose(found, expected) and not found.requires_grad
    assert found.flatten(1).sign().tolist() == [[1, -1, 1, 1]] * 3
    along = input_gradient(model, x, y, of="log_cross_entropy")
    assert F.cosine_similarity(along.flatten(1), found.flatten(1)).tolist() == pytest.approx([1] * 3)
