"""Random forest as a target: no gradient leads through it, so its adversarial examples come from other models."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from epsball.build import require
from epsball.models.layers import Shape, check_input

NODES = ("left", "right", "feature", "threshold")  # the buffers with one entry per node
TINY = torch.finfo(torch.float32).tiny  # in place of a share of zero, whose log is not finite


class RandomForest(nn.Module):
    """scikit-learn's random forest of `trees` fully grown trees, evaluated in torch; for any image.

    Not `differentiable`: its output is constant between thresholds, so no gradient attack can be crafted on it.
    It has no parameters; `fit_to`, or the state of a fitted forest, fills its buffers, and until then `forward` raises
    RuntimeError. Tramèr et al. 2017, appendix C (100 trees on MNIST).
    """

    differentiable = False

    roots: Tensor  # (trees,) each tree's first node; a node below 0 is a leaf, and ~node its row in `shares`
    left: Tensor  # (nodes,) the next node where the pixel is at most the threshold
    right: Tensor  # (nodes,) the next node where it is above
    feature: Tensor  # (nodes,) which pixel of the flattened image
    threshold: Tensor  # (nodes,) float64, as scikit-learn's
    shares: Tensor  # (rows, classes) what there is of class shares in leaves, each once

    def __init__(self, shape: Shape, classes: int, trees: int) -> None:
        super().__init__()
        check_input(shape, classes, "random_forest", smallest=1)
        require(trees >= 1, f"trees should be at least 1, is {trees}")
        self.features = math.prod(shape)
        self.register_buffer("roots", torch.zeros(trees, dtype=torch.int32))
        for name in NODES:
            self.register_buffer(name, torch.empty(0, dtype=torch.float64 if name == "threshold" else torch.int32))
        self.register_buffer("shares", torch.empty(0, classes, dtype=torch.float64))

    def fit_to(self, x: Tensor, y: Tensor, seed: int) -> None:
        """Grow the trees on images `x` (N, C, H, W) in [0, 1] with labels `y` (N,), on the CPU.

        The same data and seed give the same forest, whatever the threads; scikit-learn takes 32 bits of the seed.
        """
        from sklearn.ensemble import RandomForestClassifier

        forest = RandomForestClassifier(len(self.roots), random_state=seed % 2**32, n_jobs=torch.get_num_threads())
        forest.fit(x.flatten(1).float().numpy(force=True), y.numpy(force=True))
        buffers = flattened([tree.tree_ for tree in forest.estimators_])
        shares = np.zeros((len(buffers["shares"]), self.shares.shape[1]))
        shares[:, forest.classes_] = buffers["shares"]  # a class that `y` lacks has its column all the same
        for name, values in {**buffers, "shares": shares}.items():
            setattr(self, name, torch.from_numpy(values).to(getattr(self, name)))

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, classes) log of the trees' mean class shares, finite and float32; no gradient flows to `x`.

        The largest is scikit-learn's prediction: of equal shares the first, and shares that differ only in float64 are
        not equal.
        """
        shares = self.probabilities(x)
        logs = shares.clamp(min=TINY).log().float()
        first = shares.argmax(1, keepdim=True)
        return logs.scatter(1, first, logs.gather(1, first).nextafter(logs.new_tensor(math.inf)))

    def probabilities(self, x: Tensor) -> Tensor:
        """Return (N, classes) float64: the trees' mean class shares, summed in the order of scikit-learn."""
        if len(self.shares) == 0:
            raise RuntimeError("the random forest is not fitted: call fit_to, or load the state of a fitted one")
        rows = self.rows(x.detach().reshape(len(x), self.features).float())
        none = self.shares.new_zeros(len(x), self.shares.shape[1])
        return sum((self.shares[of_tree] for of_tree in rows), start=none) / len(rows)

    def rows(self, x: Tensor) -> Tensor:
        """Return (trees, N) rows in `shares` of the leaves that the flat images `x` (N, features) fall into."""
        node = self.roots.repeat_interleave(len(x))
        image = torch.arange(len(x), device=x.device).repeat(len(self.roots))
        falling = (node >= 0).nonzero().squeeze(1)
        while len(falling) > 0:
            at = node[falling]
            goes_left = x[image[falling], self.feature[at]] <= self.threshold[at]
            at = torch.where(goes_left, self.left[at], self.right[at])
            node[falling] = at
            falling = falling[at >= 0]
        return ~node.view(len(self.roots), len(x))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Take as many nodes and rows as the state has; whatever else differs is refused as usual."""
        for size, names in (("threshold", NODES), ("shares", ("shares",))):
            if prefix + size in state_dict:
                for name in names:
                    old = getattr(self, name)
                    setattr(self, name, old.new_empty(len(state_dict[prefix + size]), *old.shape[1:]))
        super()._load_from_state_dict(state_dict, prefix, *args)


def flattened(trees: list[Any]) -> dict[str, np.ndarray]:
    """Return scikit-learn's trees as the buffers of a RandomForest, with a column in `shares` per class it has seen."""
    sizes = [tree.node_count for tree in trees]
    first = np.cumsum([0, *sizes[:-1]])
    left, right, feature, threshold, value = (
        np.concatenate([getattr(tree, name) for tree in trees])
        for name in ("children_left", "children_right", "feature", "threshold", "value")
    )
    inner = left >= 0
    shares, row = np.unique(value[~inner, 0], axis=0, return_inverse=True)
    number = np.empty(len(inner), dtype=np.int32)
    number[inner] = np.arange(inner.sum())
    number[~inner] = ~row
    shift = np.repeat(first, sizes)[inner]
    return {
        "roots": number[first],
        "left": number[left[inner] + shift],
        "right": number[right[inner] + shift],
        "feature": feature[inner],
        "threshold": threshold[inner],
        "shares": shares,
    }
