"""Images on the device: uint8 splits, batches as floats in [0, 1], augmentation in batches."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from epsball.build import require
from epsball.runtime.distributed import share
from epsball.runtime.progress import Stop

Shape = tuple[int, int, int]  # C, H, W


class Images(Protocol):
    """Images with labels: all of them in memory (`Split`), or streamed from files (`StreamedSplit`). Where a method of
    these two has no docstring, it does what is said here."""

    @property
    def y(self) -> Tensor:
        """(N,) int64 labels, on the device."""

    @property
    def shape(self) -> Shape: ...

    @property
    def device(self) -> torch.device:
        """Return the device that batches lie on."""

    @property
    def index_device(self) -> torch.device:
        """Return where the places that `read` is given should lie."""

    @property
    def repeats(self) -> bool:
        """Whether training steps read the same images in every epoch."""

    def __len__(self) -> int: ...

    def take(self, index: Tensor, *pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the examples at `index`: float32 images in [0, 1] and labels. `pixels`: what `read` gave with it."""

    def first(self, number: int | None) -> Self:
        """Return the first `number` examples; all, where there are no more, or where it is None."""

    def only(self, index: Tensor) -> Self:
        """Return the examples at `index` alone."""

    def share(self) -> Self:
        """Return the examples that are this process's, of a job of several."""

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield all examples in order, as `take` gives them, `size` at a time; the last batch may be short."""

    def read(self, places: Iterable[Tensor], seed: int, first: int) -> Iterator[tuple[Tensor, ...]]:
        """Yield for each training step, from number `first` on, what `take` needs for it: its `places` and, of images
        that are streamed, their bytes. `seed`: of random crops."""

    def to(self, device: torch.device | str) -> Self: ...


@dataclass(frozen=True, eq=False)
class Split:
    """Images as uint8 NCHW and int64 labels, both on one device."""

    x: Tensor
    y: Tensor

    repeats = True

    def __len__(self) -> int:
        return len(self.y)

    @property
    def shape(self) -> Shape:
        channels, height, width = self.x.shape[1:]
        return channels, height, width

    @property
    def device(self) -> torch.device:
        return self.x.device

    @property
    def index_device(self) -> torch.device:
        return self.x.device

    def take(self, index: Tensor, *pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the examples at `index` (int64, on the split's device): float32 images in [0, 1] and labels."""
        assert not pixels, "`read` gives places alone"
        return to_unit(self.x[index]), self.y[index]

    def first(self, number: int | None) -> Self:
        return replace(self, x=self.x[:number], y=self.y[:number])

    def only(self, index: Tensor) -> Self:
        return replace(self, x=self.x[index], y=self.y[index])

    def share(self) -> Self:
        part = share(len(self))
        return replace(self, x=self.x[part], y=self.y[part])

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        for start in range(0, len(self), size):
            yield to_unit(self.x[start : start + size]), self.y[start : start + size]

    def read(self, places: Iterable[Tensor], seed: int, first: int) -> Iterator[tuple[Tensor]]:
        """Yield the places of each training step: `take` finds the images on the device."""
        for index in places:
            yield (index,)

    def to(self, device: torch.device | str) -> Self:
        return replace(self, x=self.x.to(device), y=self.y.to(device))


@dataclass(frozen=True, eq=False)
class Data:
    """A training and a test split of one image shape, with what a run's record says about them."""

    name: str
    train: Images
    test: Images
    classes: tuple[str, ...]
    origin: str  # one line for the log: which layout was read, and from where
    checksum: str  # sha256 of the training images and labels in use; of their files' names and sizes if streamed
    test_checksum: str

    @property
    def shape(self) -> Shape:
        return self.train.shape

    def to(self, device: torch.device | str) -> Self:
        return replace(self, train=self.train.to(device), test=self.test.to(device))


@dataclass(frozen=True)
class Augment:
    """Random changes of a training batch, drawn per example on the batch's device, without a host sync.

    Without a `generator` the global one of the device is drawn from; what is off draws nothing.
    """

    shift: int
    """zero-padded translation by up to that many pixels in each direction ("pad, random crop back")"""
    crop: float
    """smallest side fraction of a random square crop that is resized back bilinearly; 1.0 is off"""
    flip: bool
    """horizontal flip with probability 1/2"""

    def __post_init__(self) -> None:
        require(self.shift >= 0, f"shift should be a number of pixels, 0 or more, is {self.shift}")
        require(0 < self.crop <= 1, f"crop should be in (0, 1], 1 is off, is {self.crop}")

    def __call__(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return images [N, C, H, W] in [0, 1], changed and still in [0, 1]; `x` itself when everything is off."""
        if self.shift > 0:
            x = random_shift(x, self.shift, generator)
        if self.crop < 1:
            x = random_crop(x, self.crop, generator)
        if self.flip:
            x = random_flip(x, generator)
        return x


def random_shift(x: Tensor, shift: int, generator: torch.Generator | None) -> Tensor:
    """Move each image by its own (dy, dx) in {-shift..shift}^2; every value is an input pixel or 0."""
    n, channels, height, width = x.shape
    offset = torch.randint(0, 2 * shift + 1, (2, n, 1), generator=generator, device=x.device)
    rows = offset[0] + torch.arange(height, device=x.device)
    columns = offset[1] + torch.arange(width, device=x.device)
    image = torch.arange(n, device=x.device)[:, None, None, None]
    channel = torch.arange(channels, device=x.device)[:, None, None]
    padded = F.pad(x, (shift, shift, shift, shift))
    return padded[image, channel, rows[:, None, :, None], columns[:, None, None, :]]


def random_crop(x: Tensor, smallest: float, generator: torch.Generator | None) -> Tensor:
    """Crop each image, side fraction uniform in [smallest, 1] and place uniform, and resize it back bilinearly."""
    side, across, down = torch.rand(3, len(x), generator=generator, device=x.device, dtype=x.dtype)
    side = smallest + (1 - smallest) * side
    zero = torch.zeros_like(side)
    horizontal = torch.stack([side, zero, (1 - side) * (2 * across - 1)], dim=1)
    vertical = torch.stack([zero, side, (1 - side) * (2 * down - 1)], dim=1)
    grid = F.affine_grid(torch.stack([horizontal, vertical], dim=1), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, "bilinear", "border", align_corners=False).clamp(0, 1)


def random_flip(x: Tensor, generator: torch.Generator | None) -> Tensor:
    """Mirror each image left to right with probability 1/2."""
    mirrored = torch.rand(len(x), 1, 1, 1, generator=generator, device=x.device) < 0.5
    return torch.where(mirrored, x.flip(-1), x)


def to_unit(x: Tensor) -> Tensor:
    """Return uint8 intensities as float32 in [0, 1]."""
    return x.to(torch.float32).div_(255)


@dataclass(frozen=True)
class Batched:
    """Images as an evaluation goes through them: batch by batch, until the run is asked to stop."""

    images: Images
    size: int
    """images per batch"""
    stop: Stop

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield all images in order, with their labels. Raises Interrupted between two batches."""
        for batch in self.images.batches(self.size):
            self.stop.check()
            yield batch

    @property
    def device(self) -> torch.device:
        return self.images.device

    def share(self) -> Self:
        """Return the images that are this process's, of a job of several."""
        return replace(self, images=self.images.share())


def in_batches(size: int, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield tensors of one length (N, ...) together, `size` images at a time, at last perhaps fewer."""
    return zip(*(torch.split(tensor, size) for tensor in tensors), strict=True)
