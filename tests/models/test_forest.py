"""The random forest against scikit-learn's own, fitted on the same images."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from torch import Tensor

from epsball.build import ConfigError, build
from epsball.models import MODELS
from epsball.models.forest import RandomForest

DIGITS, CLASSES, TREES, SEED = (1, 8, 8), 10, 20, 3
Fitted = tuple[RandomForest, RandomForestClassifier]


def digits() -> tuple[Tensor, Tensor]:
    """All 1797 digits; the first 600 are fitted to."""
    images, labels = load_digits(return_X_y=True)
    return torch.from_numpy(images).float().view(-1, *DIGITS) / 16, torch.from_numpy(labels).long()


def pixels(x: Tensor) -> np.ndarray:
    return x.flatten(1).numpy()


def pair(x: Tensor, y: Tensor, seed: int = SEED, trees: int = TREES) -> Fitted:
    """Our forest and scikit-learn's, fitted on the same."""
    ours = RandomForest((x.shape[1], x.shape[2], x.shape[3]), CLASSES, trees)
    ours.fit_to(x, y, seed)
    return ours, RandomForestClassifier(trees, random_state=seed).fit(pixels(x), y.numpy())


@pytest.fixture(scope="module")
def fitted() -> Fitted:
    x, y = digits()
    return pair(x[:600], y[:600])


def assert_same(ours: RandomForest, theirs: RandomForestClassifier, x: Tensor) -> None:
    """Bit for bit the same shares, the same guesses, and the log of those shares where there are any."""
    shares = np.zeros((len(x), CLASSES))
    shares[:, theirs.classes_] = theirs.predict_proba(pixels(x))
    logits = ours(x)
    assert np.array_equal(ours.probabilities(x).numpy(), shares)
    assert np.array_equal(logits.argmax(1).numpy(), theirs.predict(pixels(x)))
    assert logits.dtype == torch.float32 and logits.isfinite().all()
    torch.testing.assert_close(logits.exp(), torch.from_numpy(shares).float())


def test_equals_scikit_learns(fitted: Fitted) -> None:
    ours, theirs = fitted
    x, y = digits()
    assert_same(ours, theirs, x)
    assert (ours(x[600:]).argmax(1) == y[600:]).float().mean() > 0.85
    assert torch.equal(ours(x[:7]), ours(x)[:7]) and ours(x[:0]).shape == (0, CLASSES)


def test_a_pixel_on_a_threshold_goes_as_in_scikit_learn(fitted: Fitted) -> None:
    """Every threshold as a pixel, the float32 before it and the one after."""
    ours, theirs = fitted
    at = ours.threshold.float()
    ends = torch.tensor([-1.0, 2.0])
    values = torch.cat([torch.nextafter(at, ends[0]), at, torch.nextafter(at, ends[1])])
    generator = torch.Generator().manual_seed(0)
    x = values[torch.randint(len(values), (500, *DIGITS), generator=generator)]
    assert_same(ours, theirs, x)


def test_ties_go_to_the_lowest_class() -> None:
    """Two trees differ on many images: half the votes each."""
    x, y = digits()
    ours, theirs = pair(x[:100], y[:100], trees=2)
    tied = (ours.probabilities(x) == 0.5).sum(1) == 2
    assert tied.sum() > 100
    assert_same(ours, theirs, x)


def test_leaves_of_several_classes() -> None:
    """Equal images with different labels share a leaf; sums of thirds then differ in a float64's last bits only."""
    x, _ = digits()
    nearly_tied = 0
    for seed in range(12):
        labels = torch.randint(CLASSES, (240,), generator=torch.Generator().manual_seed(seed))
        ours, theirs = pair(x[:40].repeat(6, 1, 1, 1), labels, seed, trees=10)
        assert_same(ours, theirs, x)
        first, second = ours.probabilities(x).topk(2).values.T
        nearly_tied += int(((second < first) & (first < second + 1e-12)).sum())
    assert nearly_tied > 0


def test_a_missing_class_keeps_its_column() -> None:
    x, y = digits()
    chosen = (y != 0) & (y != 4) & (y != 9)
    ours, theirs = pair(x[chosen][:200], y[chosen][:200])
    assert_same(ours, theirs, x)
    assert not ours.probabilities(x)[:, [0, 4, 9]].any()


def test_one_class_and_one_tree() -> None:
    """Trees without a split."""
    x, _ = digits()
    ours, theirs = pair(x[:20], torch.full((20,), 7), trees=1)
    assert len(ours.left) == 0
    assert_same(ours, theirs, x[:50])


def test_images_of_several_channels() -> None:
    x, y = digits()
    wide = torch.cat([x.flip(3), x, x.transpose(2, 3)], dim=1)[:, :, :, 1:]
    wide = wide.contiguous(memory_format=torch.channels_last)
    ours, theirs = pair(wide[:200], y[:200])
    assert_same(ours, theirs, wide[:400])


# ---- its state


def test_a_state_fills_a_fresh_forest(fitted: Fitted, tmp_path: Path) -> None:
    ours, theirs = fitted
    save_file(ours.state_dict(), tmp_path / "model.safetensors")
    fresh = RandomForest(DIGITS, CLASSES, TREES)
    fresh.load_state_dict(load_file(tmp_path / "model.safetensors"))
    assert_same(fresh.eval().requires_grad_(False), theirs, digits()[0])
    inside = torch.nn.Sequential(RandomForest(DIGITS, CLASSES, TREES))
    inside.load_state_dict({f"0.{key}": value for key, value in ours.state_dict().items()})
    assert torch.equal(inside(digits()[0]), ours(digits()[0]))


def test_a_state_replaces_another(fitted: Fitted) -> None:
    x, y = digits()
    other, _ = pair(x[:50], y[:50])
    other.load_state_dict(fitted[0].state_dict())
    assert_same(other, fitted[1], x[:100])


@pytest.mark.parametrize("key", ["roots", "left", "right", "feature", "threshold", "shares"])
def test_a_damaged_state_is_refused(fitted: Fitted, key: str) -> None:
    state = fitted[0].state_dict()
    without = {name: value for name, value in state.items() if name != key}
    with pytest.raises(RuntimeError, match=f'Missing key.*"{key}"'):
        RandomForest(DIGITS, CLASSES, TREES).load_state_dict(without)
    shorter = state[key][:, 1:] if key == "shares" else state[key][1:]
    with pytest.raises(RuntimeError, match="size mismatch"):
        RandomForest(DIGITS, CLASSES, TREES).load_state_dict({**state, key: shorter})


def test_another_forests_state_is_refused(fitted: Fitted) -> None:
    for trees, classes in ((TREES + 1, CLASSES), (TREES, CLASSES + 1)):
        with pytest.raises(RuntimeError, match="size mismatch"):
            RandomForest(DIGITS, classes, trees).load_state_dict(fitted[0].state_dict())


# ---- the contract of a target


def test_a_seed_is_a_forest(fitted: Fitted, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = digits()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    again, _ = pair(x[:600], y[:600])
    for name, values in fitted[0].state_dict().items():
        assert torch.equal(values, again.state_dict()[name])
    other, _ = pair(x[:600], y[:600], seed=SEED + 1)
    assert not torch.equal(other(x), again(x))
    other.fit_to(x[:600], y[:600], seed=2**63 - 1)
    assert other(x[:2]).shape == (2, CLASSES)


def test_no_gradient_flows(fitted: Fitted) -> None:
    x = digits()[0][:5].requires_grad_()
    assert not fitted[0](x).requires_grad
    assert not RandomForest.differentiable and not list(fitted[0].parameters())


def test_an_unfitted_forest_and_other_images_are_refused(fitted: Fitted) -> None:
    with pytest.raises(RuntimeError, match=r"^the random forest is not fitted: [^\n]*$"):
        RandomForest(DIGITS, CLASSES, TREES)(torch.zeros(1, *DIGITS))
    with pytest.raises(RuntimeError, match="shape"):
        fitted[0](torch.zeros(3, 1, 8, 9))


def test_fields_are_checked() -> None:
    spec = {"name": "random_forest", "trees": 0}
    with pytest.raises(ConfigError, match=r"^arch\.trees should be at least 1, is 0$"):
        build(MODELS, spec, DIGITS, CLASSES, where="arch")
    forest = build(MODELS, {**spec, "trees": 4}, DIGITS, CLASSES, where="arch")
    assert isinstance(forest, RandomForest) and len(forest.roots) == 4
