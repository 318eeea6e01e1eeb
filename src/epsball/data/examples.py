"""Adversarial images as a .npy, in the format of the public challenges of Madry et al. 2017 (run_attack.py of
MadryLab/mnist_challenge and MadryLab/cifar10_challenge): the test images in their order, changed.
"""

import hashlib
import io
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from epsball.build import one_line, require
from epsball.data.images import Data, Shape

Array = NDArray[Any]

COMPARED_AT_ONCE = 1000  # images
ROUNDING = 1e-6  # in [0, 1]: float32 rounding of x + eps - x
CHALLENGE_TOLERANCE = 1e-4
"""how far run_attack.py lets a pixel leave the ball or the range, in the file's own units: of 255, six steps of
float32"""


@dataclass(frozen=True, eq=False)
class Examples:
    """Adversarial images that lie in the ball around the test images."""

    x: Tensor
    """(N, C, H, W) float32 in [0, 1], on the CPU: one for each test image"""
    largest: float
    """the largest change of a pixel, in [0, 1]"""
    in_file: int
    """how many the file has; those beyond the test images are left out"""
    digest: str
    """12 hexadecimal digits of the sha256 of `x`: the same images in another layout or type have the same"""


def challenge_bytes(x: Tensor) -> bytes:
    """Return images (N, C, H, W), float32 in [0, 1], as the .npy of a challenge: grey ones (N, H * W) in [0, 1], colour
    ones (N, H, W, C) in [0, 255].

    `read_examples` gives the very same bits back: 255 * x is exact in float64; in float32 one x in 250 has no place.
    """
    pixels = x.numpy()
    array = pixels.reshape(len(pixels), -1) if x.shape[1] == 1 else 255 * pixels.transpose(0, 2, 3, 1).astype("<f8")
    content = io.BytesIO()
    np.save(content, np.ascontiguousarray(array), allow_pickle=False)
    return content.getvalue()


def read_examples(file: str, pixel_max: int, eps: float, data: Data) -> Examples:
    """Read a .npy of adversarial images, one for each test image of `data` or more, in pixels from 0 to `pixel_max`.

    What the challenges' tolerance lets out of the range is clamped. ValueError: one line that names the file, for one
    that is damaged, of another shape, type or range, or with an image further than `eps` from its test image.
    """
    array = open_array(file)
    count = len(data.test)
    pixels = as_nchw(array, data.shape, file)
    if len(pixels) < count:
        raise ValueError(
            f"{file} has {len(pixels)} images, the run {count} test images: give one for each, or set "
            f"dataset.test_size={len(pixels)}"
        )
    unit = np.array(pixels[:count], dtype=np.float64)
    check_range(unit, pixel_max, file)
    x = torch.from_numpy(np.ascontiguousarray(unit / pixel_max, dtype=np.float32)).clamp_(0, 1)
    parts = zip(torch.split(x, COMPARED_AT_ONCE), data.test.batches(COMPARED_AT_ONCE), strict=True)
    distances = torch.cat([(part - own.cpu()).abs().flatten(1).amax(1) for part, (own, _) in parts])
    outside = (distances > eps + max(ROUNDING, CHALLENGE_TOLERANCE / pixel_max)).nonzero().flatten()
    if len(outside):
        first = int(outside[0])
        what = f"image {first} of {file} lies {float(distances[first]):.6f} from its test image, eps is {eps:.6f}"
        raise ValueError(what + ball_hint(array.dtype, len(outside), data))
    digest = hashlib.sha256(repr(tuple(x.shape)).encode() + x.numpy().astype("<f4").tobytes()).hexdigest()
    return Examples(x, float(distances.amax()), len(pixels), digest[:12])


def open_array(file: str) -> Array:
    """Open a .npy of numbers, whose content is read when it is used, or the one array of an .npz. Nothing in it is ever
    unpickled."""
    path = Path(file).expanduser()
    require(path.is_file(), f"there is no file {file}")
    try:
        if zipfile.is_zipfile(path):
            return check_numbers(only_array(path), file)
        array = np.lib.format.open_memmap(path, mode="r")
    except Exception as error:  # a damaged header can fail in any way
        reason = one_line(error)
        raise ValueError(f"{file} cannot be read as a .npy of numbers ({reason})") from None
    return check_numbers(array, file)


def only_array(path: Path) -> Array:
    """Return the array of an .npz that has one, or one called x_adv."""
    with np.load(path, allow_pickle=False) as arrays:
        names = ["x_adv"] if "x_adv" in arrays else list(arrays)
        require(len(names) == 1, f"it is an .npz of {', '.join(names)}: one alone, or one called x_adv, is taken")
        only: Array = arrays[names[0]]
        return only


def check_numbers(array: Array, file: str) -> Array:
    numbers = array.dtype.kind in "iu" or (array.dtype.kind == "f" and array.dtype.itemsize <= 8)
    require(numbers, f"{file} has values of type {array.dtype}, should have float16, float32, float64 or integers")
    return array


def as_nchw(array: Array, shape: Shape, file: str) -> Array:
    """Return images as (N, C, H, W). ValueError unless their layout is one of those that a file may have."""
    channels, height, width = shape
    last, first = (height, width, channels), (channels, height, width)
    known = [last, first] if channels > 1 else [(height * width,), (height, width), last, first]
    layout = array.shape[1:]
    if array.ndim == 0 or layout not in known:
        *others, final = (f"(N, {', '.join(map(str, each))})" for each in known)
        raise ValueError(f"{file} has the shape {array.shape}, should have {', '.join(others)} or {final}")
    if channels > 1 and layout == last:
        return array.transpose(0, 3, 1, 2)
    return array.reshape(len(array), *first)


def check_range(pixels: Array, pixel_max: int, file: str) -> None:
    """ValueError unless all pixels are numbers from 0 to `pixel_max`, and not plainly of the other scale."""
    if not np.isfinite(pixels).all():
        first = int(np.argmin(np.isfinite(pixels).all(axis=(1, 2, 3))))
        raise ValueError(f"image {first} of {file} has pixels that are no finite numbers")
    low, high = float(pixels.min()), float(pixels.max())
    found = f"{file} has pixels from {low:g} to {high:g}"
    inside = low >= -CHALLENGE_TOLERANCE and high <= pixel_max + CHALLENGE_TOLERANCE
    other = 1 if pixel_max == 255 else 255
    fits = low >= -CHALLENGE_TOLERANCE and high <= other + CHALLENGE_TOLERANCE
    if fits and (not inside or other == 1):
        raise ValueError(f"{found}: pixel_max should be {other}, is {pixel_max}")
    require(inside, f"{found}, should have them in [0, {pixel_max}]")


def ball_hint(dtype: np.dtype[Any], outside: int, data: Data) -> str:
    """Return how many images lie outside, and what may be the reason."""
    text = f" ({outside} of {len(data.test)} lie outside)"
    if dtype == np.float16:
        text += "; float16 rounds pixels by up to 0.00024: save float32"
    if data.name == "cifar10_jpeg":
        text += "; the images here are CIFAR-10 (JPEG), of other pixels and in another order than CIFAR-10's own, of "
        text += "which the challenge's files are: put cifar-10-batches-py under dataset.root for these"
    return text
