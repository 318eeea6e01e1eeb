"""Read datasets: each is a dataclass of settings in `DATASETS`, and `load()` reads it on the CPU.

Missing or damaged data, and data that is not what it should be, is a ConfigError: one line that names the file or the
config key.
"""

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
import torch

from epsball.build import ConfigError, listed, require
from epsball.data.images import Data, Split
from epsball.data.readers import (
    Arrays,
    ImageFile,
    enlarge_digits,
    list_folder,
    missing_idx,
    read_cached,
    read_digits,
    read_idx_pair,
    read_images,
    read_npz,
    require_memory,
    stratified,
    torchvision_dataset,
)
from epsball.data.streamed import Decoder, Preprocessing, StreamedSplit, Workers
from epsball.runtime.distributed import cores

MOST_WORKERS = 16  # decoding processes that null stands for, at most
HOW_TO_GET = "get it with dataset.download=true, or point dataset.root to it"

log = logging.getLogger(__name__)


class Dataset(Protocol):
    """A dataset's settings; a size of None is all images, n is the first n."""

    @property
    def train_size(self) -> int | None: ...
    @property
    def test_size(self) -> int | None: ...
    def load(self) -> Data: ...


@dataclass(frozen=True)
class Digits:
    """scikit-learn's embedded 1,797 handwritten digits: 1,437 for training, 360 for test, stratified; no files."""

    train_size: int | None
    test_size: int | None

    def __post_init__(self) -> None:
        require_sizes(self)

    def load(self) -> Data:
        small, labels = read_digits()
        x = enlarge_digits(small)[:, None]
        order = stratified(labels)
        train, test = order[:1437], order[1437:]
        origin = "digits, embedded in scikit-learn, enlarged from 8x8 to 28x28"
        classes = tuple(map(str, range(10)))
        return assemble(self, "digits", origin, classes, (x[train], labels[train]), (x[test], labels[test]))


@dataclass(frozen=True)
class MNIST:
    """MNIST in torchvision's layout, `root/MNIST/raw/*-ubyte`, unpacked or .gz."""

    root: str
    download: bool
    """whether to get it where it is missing"""
    train_skip: int
    """how many of the first training images are left out: 5000 gives Madry's 55,000-image training set, because
    TensorFlow's old loader kept the first 5,000 for validation"""
    train_size: int | None
    test_size: int | None

    name: ClassVar[str] = "mnist"
    folder: ClassVar[str] = "MNIST"  # also the name of torchvision's class
    classes: ClassVar[tuple[str, ...]] = tuple(map(str, range(10)))

    def __post_init__(self) -> None:
        require_sizes(self)
        require(0 <= self.train_skip < 60000, f"train_skip should be in [0, 60000), is {self.train_skip}")

    def load(self) -> Data:
        root = absolute(self.root)
        raw = root / self.folder / "raw"
        if self.download and missing_idx(raw):
            torchvision_dataset(self.folder, root, raw, train=True, download=True)
        if missing := missing_idx(raw):
            message = f"dataset.root: no {self.folder} under {raw} (no {missing[0]})"
            raise ConfigError(f"{message}; {HOW_TO_GET}")
        x, y = read_idx_pair(raw, "train", 60000)
        train, test = (x[self.train_skip :], y[self.train_skip :]), read_idx_pair(raw, "t10k", 10000)
        return assemble(self, self.name, f"{self.folder}, {raw}", self.classes, train, test)


@dataclass(frozen=True)
class FashionMNIST(MNIST):
    """Fashion-MNIST in torchvision's layout, `root/FashionMNIST/raw/*-ubyte`, unpacked or .gz."""

    name: ClassVar[str] = "fashion_mnist"
    folder: ClassVar[str] = "FashionMNIST"
    classes: ClassVar[tuple[str, ...]] = (
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    )


@dataclass(frozen=True)
class CIFAR10:
    """CIFAR-10, from `root/cifar-10-batches-py` (torchvision's) or else the image folder `root/cifar10`."""

    root: str
    download: bool
    train_size: int | None
    test_size: int | None

    def __post_init__(self) -> None:
        require_sizes(self)

    def load(self) -> Data:
        root = absolute(self.root)
        batches, folder = root / "cifar-10-batches-py", root / "cifar10"
        if batches.is_dir() or self.download:
            return self.load_batches(root, batches)
        if folder.is_dir():
            return load_cifar_folder(self, folder, counts=(50000, 10000))
        raise ConfigError(f"dataset.root: no CIFAR-10 under {batches} or {folder}; {HOW_TO_GET}")

    def load_batches(self, root: Path, batches: Path) -> Data:
        parts = [torchvision_dataset("CIFAR10", root, batches, train=t, download=self.download) for t in (True, False)]
        train, test = ((p.data.transpose(0, 3, 1, 2), np.asarray(p.targets)) for p in parts)
        return assemble(self, "cifar10", f"CIFAR-10, {batches}", tuple(parts[0].classes), train, test)


def load_cifar_folder(settings: Dataset, folder: Path, counts: tuple[int, int]) -> Data:
    """Read CIFAR-10 from `folder/{train,test}/<class>/*`, `counts` images each; cache decoded images in `folder`.

    JPEGs have other pixels than CIFAR-10's own: a data set of its own name, beside which no published number is set.
    """
    classes, train, test = list_folders(settings, folder / "train", folder / "test")
    if (len(train), len(test)) != counts or len(classes) != 10:
        found = f"{len(train)} + {len(test)} images in {len(classes)} classes"
        raise ConfigError(f"dataset.root: {folder} has {found}, CIFAR-10 is {counts[0]} + {counts[1]} in 10")
    splits = [
        read_cached(folder / ".epsball-cache-train.npz", train, settings.train_size),
        read_cached(folder / ".epsball-cache-test.npz", test, settings.test_size),
    ]
    if splits[0][0].shape[1:] != (3, 32, 32):
        raise ConfigError(f"dataset.root: {folder}: the images should be 32x32")
    jpeg = any(file.path.lower().endswith((".jpg", ".jpeg")) for file in (*train, *test))
    name, title = ("cifar10_jpeg", "CIFAR-10 (JPEG)") if jpeg else ("cifar10", "CIFAR-10")
    return assemble(settings, name, f"{title}, image folder {folder}", classes, *splits)


@dataclass(frozen=True)
class ImageFolder:
    """Any images in `root/train/<class>/*` and `root/test/<class>/*` (or `val`): png, jpg, jpeg, bmp."""

    root: str
    channels: Literal[1, 3]
    """1 reads them in grey, 3 in RGB"""
    image_size: int | None
    """pixels of the square that each image is resized and centre-cropped to; null: all must have one size"""
    train_size: int | None
    test_size: int | None

    def __post_init__(self) -> None:
        require_sizes(self)
        size_fits = self.image_size is None or self.image_size > 0
        require(size_fits, f"image_size should be a number of pixels or null, is {self.image_size}")

    def load(self) -> Data:
        root = absolute(self.root)
        classes, train, test = list_folders(self, root / "train", test_folder_of(root))
        splits = [
            read_images(files[:size], self.channels, self.image_size)
            for files, size in ((train, self.train_size), (test, self.test_size))
        ]
        return assemble(self, "image_folder", f"image folder {root}", classes, *splits)


@dataclass(frozen=True)
class StreamedFolder:
    """Any images in `root/<train_folder>/<class>/*` and `root/<test_folder>/<class>/*`, in RGB, never all in memory:
    worker processes decode and crop them while the device computes."""

    root: str
    train_folder: str
    test_folder: str | None
    """null: test, or val where that alone is there"""
    image_size: int
    """pixels of a side of the square that a network sees"""
    crop: float
    """central fraction of the sides, or of the short one, that a test image shows"""
    squash: bool
    """whether a test image is that fraction of both sides, resized to the square; else a square of the short side's"""
    area: tuple[float, ...]
    """smallest and largest share of an image's area that a training crop shows"""
    aspect: tuple[float, ...]
    """smallest and largest ratio of a training crop's width to its height"""
    flip: bool
    """whether half of the training images are mirrored left to right"""
    train_size: int | None
    test_size: int | None
    workers: int | None
    """decoding processes, on which no result depends; 0 decodes between the steps, null is one for each core"""

    title: ClassVar[str] = "streamed image folder"

    def __post_init__(self) -> None:
        require_sizes(self)
        self.preprocessing()
        require(self.workers is None or self.workers >= 0, f"workers should be at least 0 or null, is {self.workers}")

    def preprocessing(self) -> Preprocessing:
        return Preprocessing(self.image_size, self.crop, self.squash, self.area, self.aspect, self.flip)

    def load(self) -> Data:
        root = absolute(self.root)
        train = root / self.train_folder
        test = test_folder_of(root) if self.test_folder is None else root / self.test_folder
        classes, *every = list_folders(self, train, test)
        files = every[0][: self.train_size], every[1][: self.test_size]
        number = min(MOST_WORKERS, cores()) if self.workers is None else self.workers
        workers = Workers(Decoder(self.preprocessing()), number)
        splits = [
            StreamedSplit([f.path for f in own], torch.tensor([f.label for f in own], dtype=torch.int64), workers)
            for own in files
        ]
        checksums = (
            streamed_checksum(train, files[0], (self.image_size, self.area, self.aspect, self.flip)),
            streamed_checksum(test, files[1], (self.image_size, self.crop, *(["squash"] if self.squash else []))),
        )
        origin = f"{self.title}, {train} and {test}"
        require_classes(classes, origin)
        require_memory(4 * 3 * self.image_size**2, f"dataset.image_size={self.image_size}")
        return Data(self.row_name(classes), splits[0], splits[1], classes, origin, *checksums)

    def row_name(self, classes: tuple[str, ...]) -> str:
        """Return what rows call the data set."""
        return "streamed_folder"


@dataclass(frozen=True)
class ImageNet(StreamedFolder):
    """ImageNet (ILSVRC 2012) in torchvision's layout, `root/train/<wnid>/*.JPEG` and `root/val/<wnid>/*.JPEG`.

    Some of its classes alone are a data set of another name, beside which no published number is set.
    """

    title: ClassVar[str] = "ImageNet"

    def row_name(self, classes: tuple[str, ...]) -> str:
        return "imagenet" if len(classes) == 1000 else "imagenet_sample"


@dataclass(frozen=True)
class Npz:
    """Any images in `root/train.npz` and `root/test.npz`, each with x (uint8, NHWC or NHW) and y (labels from 0)."""

    root: str
    train_size: int | None
    test_size: int | None

    def __post_init__(self) -> None:
        require_sizes(self)

    def load(self) -> Data:
        root = absolute(self.root)
        train, test = read_npz(root / "train.npz"), read_npz(root / "test.npz")
        count = int(train[1].max()) + 1
        if test[1].max() >= count:
            labels = f"label {test[1].max()}, but the training labels end at {count - 1}"
            raise ConfigError(f"dataset.root: {root / 'test.npz'} has {labels}")
        present = np.unique(train[1])
        if len(present) < count:
            absent = next(label for label in range(count) if label >= len(present) or present[label] != label)
            labels = f"labels up to {count - 1}, but no image with {absent}: number the classes from 0 without gaps"
            raise ConfigError(f"dataset.root: {root / 'train.npz'} has {labels}")
        for part, size, (_, y) in (("train", self.train_size, train), ("test", self.test_size, test)):
            found, there = len(np.unique(y[:size])), len(np.unique(y))
            if found < there:
                has = f"the first {size} images of {root / f'{part}.npz'} are of {found} of its {there} classes"
                log.warning("dataset.%s_size: %s: shuffle a file that is sorted by class", part, has)
        return assemble(self, "npz", f"npz files, {root}", tuple(map(str, range(count))), train, test)


DATASETS: dict[str, Callable[..., Dataset]] = {
    "digits": Digits,
    "mnist": MNIST,
    "fashion_mnist": FashionMNIST,
    "cifar10": CIFAR10,
    "image_folder": ImageFolder,
    "streamed_folder": StreamedFolder,
    "imagenet": ImageNet,
    "npz": Npz,
}


def absolute(root: str) -> Path:
    return Path(root).expanduser().absolute()


def test_folder_of(root: Path) -> Path:
    """Return `root/test`, or `root/val` where that alone is there."""
    test, val = root / "test", root / "val"
    return val if val.is_dir() and not test.is_dir() else test


def require_sizes(settings: Dataset) -> None:
    for field, size in (("train_size", settings.train_size), ("test_size", settings.test_size)):
        require(size is None or size > 0, f"{field} should be a number of images or null, is {size}")


def require_available(settings: Dataset, train: int, test: int) -> None:
    """ConfigError unless there are at least as many images as the settings ask for."""
    for field, size, found in (("train_size", settings.train_size, train), ("test_size", settings.test_size, test)):
        if size is not None and size > found:
            raise ConfigError(f"dataset.{field} is {size}, but there are only {found} such images: null takes all")


def require_classes(classes: tuple[str, ...], origin: str) -> None:
    """ConfigError unless there is something to tell apart."""
    if len(classes) < 2:
        raise ConfigError(f"dataset.root: {origin} has one class, {listed(classes)}: there should be at least 2")


def require_arrays(arrays: Arrays, classes: int, whose: str) -> None:
    """ConfigError unless they are images and their labels: `split` would cut floats in [0, 1] down to 0 and 1."""
    x, y = arrays
    if x.dtype != np.uint8 or x.ndim != 4 or not len(x):
        raise ConfigError(f"{whose} images should be uint8 (N, C, H, W), one at least, are {x.dtype} {x.shape}")
    if y.dtype.kind not in "iu" or y.shape != x.shape[:1]:
        raise ConfigError(f"{whose} labels should be {len(x)} integers, one for each image, are {y.dtype} {y.shape}")
    if not 0 <= y.min() <= y.max() < classes:
        raise ConfigError(f"{whose} labels should be 0 to {classes - 1}, the classes, are {y.min()} to {y.max()}")


def assemble(settings: Dataset, name: str, origin: str, classes: tuple[str, ...], train: Arrays, test: Arrays) -> Data:
    """Return the first `train_size` and `test_size` examples as tensors, with their checksums."""
    for part, arrays in (("training", train), ("test", test)):
        require_arrays(arrays, len(classes), f"{name}: its {part}")
    require_available(settings, len(train[1]), len(test[1]))
    require_classes(classes, origin)
    if train[0].shape[1:] != test[0].shape[1:]:
        shapes = f"{train[0].shape[1:]} for training, {test[0].shape[1:]} for test"
        raise ConfigError(f"dataset.root: the images have different shapes (C, H, W): {shapes}; {origin}")
    splits = split(train, settings.train_size), split(test, settings.test_size)
    return Data(name, *splits, classes, origin, checksum(splits[0]), checksum(splits[1]))


def split(arrays: Arrays, size: int | None) -> Split:
    x, y = arrays
    images = np.array(x[:size], dtype=np.uint8, order="C")
    return Split(torch.from_numpy(images), torch.from_numpy(y[:size].astype(np.int64)))


def checksum(split: Split) -> str:
    """Return the sha256 of shape, images and labels."""
    digest = hashlib.sha256(repr(tuple(split.x.shape)).encode())
    digest.update(split.x.numpy().data)
    digest.update(split.y.numpy().astype("<i8").data)
    return digest.hexdigest()


def streamed_checksum(folder: Path, files: list[ImageFile], crops: tuple[Any, ...]) -> str:
    """Return the sha256 of names below `folder`, labels and sizes in bytes of the files, in their order, and of how
    they are cropped: ImageNet's contents are 140 GB, which no run reads before it begins. So a file that is replaced by
    another of its size goes unseen."""
    digest = hashlib.sha256(repr(crops).encode())
    for file in files:
        digest.update(f"{Path(file.path).relative_to(folder).as_posix()} {file.label} {file.size}\n".encode())
    return digest.hexdigest()


def list_folders(
    settings: Dataset, train: Path, test: Path
) -> tuple[tuple[str, ...], list[ImageFile], list[ImageFile]]:
    """Return the classes that two image folders share, and their files in a stratified order."""
    classes, train_files = list_folder(train)
    test_classes, test_files = list_folder(test)
    if classes != test_classes:
        odd = ", ".join(sorted(set(classes) ^ set(test_classes)))
        raise ConfigError(f"dataset.root: {train} and {test} should have the same classes; only in one: {odd}")
    require_available(settings, len(train_files), len(test_files))
    return classes, train_files, test_files
