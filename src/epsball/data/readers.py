"""Read IDX, npz, image folders and the digits into arrays, checked; a ConfigError names the file that is wrong."""

import contextlib
import gzip
import hashlib
import http.client
import importlib.util
import io
import logging
import math
import os
import struct
import warnings
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from epsball.build import ConfigError, one_line
from epsball.runtime.distributed import cores
from epsball.runtime.files import write_whole

if TYPE_CHECKING:
    from PIL.Image import Image

Array = NDArray[Any]
Arrays = tuple[Array, Array]  # images uint8 NCHW, integer labels
UNREADABLE = (OSError, EOFError, ValueError, KeyError, NotImplementedError, zipfile.BadZipFile, zlib.error)
IMAGES = (".png", ".jpg", ".jpeg", ".bmp")
FOLDER_LAYOUT = (
    "an image folder is dataset.root/train/<class>/*.png (or jpg, jpeg, bmp) and .../test/<class>/* (or val)"
)
NPZ_LAYOUT = "dataset.root/train.npz and test.npz should each hold x (uint8, NHWC or NHW) and y (labels from 0)"

log = logging.getLogger(__name__)


def idx_file(raw: Path, stem: str) -> Path:
    """Return `raw/stem`, or `raw/stem.gz` if only that is there."""
    return raw / stem if (raw / stem).is_file() else raw / f"{stem}.gz"


def missing_idx(raw: Path) -> list[str]:
    stems = [f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
    return [stem for stem in stems if not idx_file(raw, stem).is_file()]


def read_idx_pair(raw: Path, part: str, count: int) -> Arrays:
    """Read the `count` images (28x28) and labels (0 to 9) of one part of an MNIST-like dataset."""
    x = read_idx(idx_file(raw, f"{part}-images-idx3-ubyte"), (count, 28, 28))
    labels = idx_file(raw, f"{part}-labels-idx1-ubyte")
    y = read_idx(labels, (count,))
    if y.max() > 9:
        raise ConfigError(f"dataset.root: {labels} has the label {y.max()}, labels are 0 to 9")
    return x[:, None], y


def read_idx(path: Path, shape: tuple[int, ...]) -> Array:
    """Read a uint8 IDX file of exactly this shape (torchvision's reader takes any count and needs it unpacked)."""
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except UNREADABLE as error:
        raise ConfigError(f"dataset.root: {path} cannot be read: {reason_of(error)}") from error
    start = 4 + 4 * len(shape)
    expected = start + math.prod(shape)
    if content[:4] != struct.pack(">I", 0x800 + len(shape)):
        problem = f"is not an IDX file of bytes in {len(shape)} dimensions"
    elif len(content) >= start and (found := struct.unpack_from(f">{len(shape)}I", content, 4)) != shape:
        problem = f"holds {' x '.join(map(str, found))}, should be {' x '.join(map(str, shape))}"
    elif len(content) != expected:
        problem = f"is {'truncated' if len(content) < expected else 'too long'}: {len(content)} of {expected} bytes"
    else:
        return np.frombuffer(content, np.uint8, offset=start).reshape(shape)
    raise ConfigError(f"dataset.root: {path} {problem}")


def read_npz(path: Path) -> Arrays:
    """Read images and labels of one npz file, checked; images as NCHW."""
    if not path.is_file():
        raise ConfigError(f"dataset.root: no {path}; {NPZ_LAYOUT}")
    try:
        with path.open("rb") as file, np.lib.npyio.NpzFile(file, allow_pickle=False) as arrays:
            x, y = arrays["x"], arrays["y"]
    except UNREADABLE as error:
        raise ConfigError(f"dataset.root: {path} cannot be read: {reason_of(error)}; {NPZ_LAYOUT}") from error
    x = x[..., None] if x.ndim == 3 else x
    if x.dtype != np.uint8 or x.ndim != 4 or x.shape[-1] not in (1, 3) or 0 in x.shape:
        should = "should be uint8 NHWC or NHW, C 1 or 3, not empty"
        raise ConfigError(f"dataset.root: {path}: x is {x.dtype} {x.shape}, {should}")
    if y.dtype.kind not in "iu" or y.shape != x.shape[:1]:
        raise ConfigError(f"dataset.root: {path}: y is {y.dtype} {y.shape}, should be one integer label per image")
    if y.min() < 0:
        raise ConfigError(f"dataset.root: {path} has the label {y.min()}, labels start at 0")
    return x.transpose(0, 3, 1, 2), y


class ImageFile(NamedTuple):
    """One file of an image folder."""

    path: str
    label: int
    size: int  # in bytes; it and mtime tell a changed file
    mtime: int  # in ns


def list_folder(folder: Path) -> tuple[tuple[str, ...], list[ImageFile]]:
    """Return the classes sorted by name, and the files `folder/<class>/<image>` in a stratified order, without hidden
    ones (macOS leaves a `._x.png` beside each `x.png` on a foreign disk). A warning tells of what else lies there."""
    if not folder.is_dir():
        raise ConfigError(f"dataset.root: no {folder}; {FOLDER_LAYOUT}")
    shown = sorted(path for path in folder.iterdir() if not is_hidden(path.name))
    classes = tuple(path.name for path in shown if path.is_dir())
    files, unread = [], [str(path) for path in shown if not path.is_dir()]
    for label, name in enumerate(classes):
        try:
            with os.scandir(folder / name) as entries:
                inside = [e for e in entries if not is_hidden(e.name)]
                images = [e for e in inside if e.name.lower().endswith(IMAGES)]
                found = [ImageFile(e.path, label, e.stat().st_size, e.stat().st_mtime_ns) for e in images]
        except OSError as error:  # a link to a file that is gone
            raise ConfigError(f"dataset.root: {error.filename} cannot be read: {error.strerror}") from error
        if not found:
            raise ConfigError(f"dataset.root: {folder / name} has no images; {FOLDER_LAYOUT}")
        files += sorted(found)
        unread += sorted({e.path for e in inside} - {e.path for e in images})
    if not files:
        raise ConfigError(f"dataset.root: {folder} has no classes; {FOLDER_LAYOUT}")
    if unread:
        others = f" and {len(unread) - 1} more" if len(unread) > 1 else ""
        log.warning("dataset.root: not read is %s%s; %s", unread[0], others, FOLDER_LAYOUT)
    return classes, [files[i] for i in stratified(np.array([f.label for f in files]))]


def is_hidden(name: str) -> bool:
    return name.startswith(".")


def read_cached(cache: Path, files: list[ImageFile], size: int | None) -> Arrays:
    """Read the first `size` RGB images: from `cache` if it holds so many of these very files; else decode and cache."""
    listing = [(f.path.removeprefix(str(cache.parent)), f.size, f.mtime) for f in files]
    key = hashlib.sha256(repr(listing).encode()).hexdigest()
    wanted = files[:size]
    try:
        with cache.open("rb") as file, np.lib.npyio.NpzFile(file, allow_pickle=False) as stored:
            if str(stored["key"]) == key and len(x := stored["x"]) >= len(wanted):
                return x[: len(wanted)], np.array([f.label for f in wanted])
    except UNREADABLE:
        pass  # absent or damaged: it is written anew
    x, y = read_images(wanted, 3, None)
    content = io.BytesIO()
    np.savez(content, key=np.array(key), x=x)
    with contextlib.suppress(OSError):  # a folder that cannot be written to is left alone
        write_whole(cache, content.getvalue())
    return x, y


def read_images(files: list[ImageFile], channels: int, image_size: int | None) -> Arrays:
    """Decode images in a pool of threads, all of one size; return them and their labels."""
    if image_size is not None:
        require_memory(len(files) * channels * image_size**2, f"dataset.image_size={image_size}")
    chunks = [files[i : i + 250] for i in range(0, len(files), 250)]
    with ThreadPoolExecutor(min(8, cores())) as pool:
        decoded = pool.map(lambda chunk: [decode_image(f.path, channels, image_size) for f in chunk], chunks)
        images = [image for chunk in decoded for image in chunk]
    for file, image in zip(files, images, strict=True):
        if image.shape != images[0].shape:
            sizes = f"{image.shape[1:]}, {files[0].path} is {images[0].shape[1:]} (H, W)"
            raise ConfigError(f"dataset.root: {file.path} is {sizes}: set dataset.image_size to make them alike")
    return np.stack(images), np.array([f.label for f in files])


def require_memory(size: int, said: str) -> None:
    """ConfigError where this machine cannot hold so many bytes of images, which are stacked once: twice their size."""
    has = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else math.inf
    if 2 * size > has:
        needed = f"{2 * size / 2**30:,.0f} GiB, this machine has {has / 2**30:,.0f}"
        raise ConfigError(f"{said} takes {needed}: choose a smaller one, or fewer images (train_size, test_size)")


def decode_image(path: str, channels: int, image_size: int | None) -> Array:
    """Read one 8-bit image as [C, H, W] uint8, resized and centre-cropped to a square of `image_size` if given."""
    from PIL import Image, ImageOps

    pixels = open_image(path, channels)
    if image_size is not None:
        pixels = ImageOps.fit(pixels, (image_size, image_size), Image.Resampling.BILINEAR)
    return np.asarray(pixels).reshape(pixels.height, pixels.width, channels).transpose(2, 0, 1)


def open_image(path: str, channels: int) -> "Image":
    """Decode one 8-bit image, 1 channel in grey, 3 in RGB."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            if image.mode.startswith(("I", "F")):  # Pillow would clip these to 255
                raise ValueError(f"mode {image.mode} is not 8 bits per channel")
            if "transparency" in image.info:  # of a palette: Pillow warns where it is dropped on the way to RGB
                return image.convert("RGBA").convert("L" if channels == 1 else "RGB")
            return image.convert("L" if channels == 1 else "RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ConfigError(f"dataset.root: {path} is not a readable image: {reason_of(error)}") from error


def stratified(labels: Array) -> Array:
    """Return a fixed shuffled order of the examples in which every prefix has the class shares of the whole."""
    shuffled: Array = np.random.RandomState(0).permutation(len(labels))  # a stream that numpy keeps unchanged
    placed, rank, count = labels[shuffled], np.empty(len(labels)), np.bincount(labels)
    by_class = np.argsort(placed, kind="stable")
    first = np.cumsum(count) - count  # of each class, its place in by_class
    own = placed[by_class]
    rank[by_class] = (np.arange(len(labels)) - first[own] + 0.5) / count[own]
    order: Array = shuffled[np.argsort(rank, kind="stable")]
    return order


def read_digits() -> Arrays:
    """Read scikit-learn's digits, (1797, 8, 8) in 0..16, and their labels, without its import, which takes seconds."""
    found = importlib.util.find_spec("sklearn")
    folders = found.submodule_search_locations if found else None
    path = Path(*(folders or ["sklearn"])[:1], "datasets", "data", "digits.csv.gz")
    try:
        with gzip.open(path, "rt") as file:
            table = np.loadtxt(file, delimiter=",", dtype=np.int64)
    except UNREADABLE as error:
        raise ConfigError(f"dataset: the digits of scikit-learn, {path}, cannot be read: {reason_of(error)}") from error
    return table[:, :-1].reshape(-1, 8, 8), table[:, -1]


def enlarge_digits(x: Array) -> Array:
    """Enlarge 8x8 intensities 0..16 to 28x28 uint8, bilinear; in integers (1/14ths): the same bytes everywhere."""
    position = np.clip(4 * np.arange(28) - 5, 0, 7 * 14)
    weights = np.maximum(0, 14 - np.abs(position[:, None] - 14 * np.arange(8)))
    whole = 16 * 14 * 14
    enlarged: Array = (weights @ x @ weights.T * 255 + whole // 2) // whole
    return enlarged.astype(np.uint8)


def torchvision_dataset(name: str, root: Path, folder: Path, *, train: bool, download: bool) -> Any:
    """Open torchvision's dataset `name`, in `folder` under `root`; one process at a time downloads it."""
    try:
        from torchvision import datasets
    except (ImportError, RuntimeError) as error:
        reason = f"torch {torch.__version__} and torchvision builds do not match, install both from one release"
        raise ConfigError(f"torchvision cannot be imported ({reason_of(error)}): {reason}") from error
    from filelock import FileLock

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r"dtype\(\): align")  # CIFAR-10's old pickles under numpy 2.4
            try:
                return getattr(datasets, name)(root, train=train)
            except RuntimeError:  # not there, or not whole, as where another process unpacks it
                if not download:
                    raise
            root.mkdir(parents=True, exist_ok=True)
            with FileLock(root / ".epsball-download.lock"):
                return getattr(datasets, name)(root, train=train, download=True)
    except (OSError, RuntimeError, http.client.HTTPException) as error:
        if download:
            raise ConfigError(
                f"dataset.download: {name} could not be downloaded to {folder}: {reason_of(error)}"
            ) from error
        advice = "delete this folder and set dataset.download=true"
        raise ConfigError(f"dataset.root: {folder} is incomplete or damaged; {advice}") from error


def reason_of(error: Exception) -> str:
    """Return what an error says, its kind where it says nothing."""
    return one_line(error) or type(error).__name__
