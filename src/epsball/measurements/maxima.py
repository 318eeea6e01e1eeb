"""Geometry and losses of the maxima that several starts of an attack find around an image (Madry et al. 2017, 3.1)."""

from math import sqrt

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

FENCE = 3.0  # interquartile ranges beyond the quartiles: Tukey's outer fences (Exploratory Data Analysis, 1977)


def mean_distance(points: Tensor) -> Tensor:
    """Return (K,) the mean L2 distance over all pairs of each image's R points, (K, R, pixels)."""
    return mean_over_pairs(distances(points, points))


def mean_angle(perturbations: Tensor) -> Tensor:
    """Return (K,) the mean angle, in degrees, over all pairs of each image's R perturbations, (K, R, pixels). A pair
    with a zero has none; NaN where no other is left.

    W. Kahan's formula, exact for small angles, too, where the arc cosine is not.
    """
    along = directions(perturbations)
    return mean_over_pairs(2 * torch.atan2(distances(along, along), distances(along, -along)).rad2deg())


def cosines(perturbations: Tensor, gradients: Tensor) -> Tensor:
    """Return (K, R) cosines of an image's perturbations, (K, R, pixels), with its gradient, (K, pixels); NaN where
    either is zero."""
    return (directions(perturbations) * directions(gradients)[:, None]).sum(2)


def directions(vectors: Tensor) -> Tensor:
    """Return vectors, in the last dimension, divided by their length; NaN for one that is zero. Divided by the largest
    entry first: squares of small gradients underflow."""
    scaled = vectors / vectors.abs().amax(-1, keepdim=True)
    length: Tensor = torch.linalg.vector_norm(scaled, dim=-1, keepdim=True)
    return scaled / length


def distances(points: Tensor, others: Tensor) -> Tensor:
    """Return (K, R, R) L2 distances, each by its own differences: by products, near points would lose their digits."""
    return torch.cdist(points, others, compute_mode="donot_use_mm_for_euclid_dist")


def mean_over_pairs(values: Tensor) -> Tensor:
    """Return (K,) means over all pairs of what (K, R, R) holds of them, those that are NaN left out."""
    restarts = values.shape[1]
    first, second = torch.triu_indices(restarts, restarts, offset=1, device=values.device)
    return values[:, first, second].nanmean(1)


def outer_outliers(values: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Return (N, R) booleans: which of each line's values lie more than three interquartile ranges beyond its
    quartiles (linear interpolation)."""
    low, high = np.quantile(values, [0.25, 0.75], axis=1, keepdims=True)
    reach = FENCE * (high - low)
    found: NDArray[np.bool_] = (values < low - reach) | (values > high + reach)
    return found


def ball_distance(eps: float, pixels: int) -> float:
    """Return the expected L2 distance of two points drawn uniformly from an L-infinity ball in so many dimensions, the
    box [0, 1] left out.

    A squared distance is a sum of independent squares of mean 2/3 eps^2; the expectation of its root is expanded in
    1 / pixels, to the second order. What is left out is 0.08 % of it at 4 pixels, 1e-6 at 16, and less beyond.
    """
    return eps * sqrt(2 * pixels / 3) * (1 - 7 / (40 * pixels) - 65 / (896 * pixels**2))
