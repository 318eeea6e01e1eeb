"""Images that stay in their files: worker processes decode and crop them while the device computes."""

import contextlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import tee
from threading import Thread
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from epsball.build import ConfigError, require
from epsball.data.images import Shape, to_unit
from epsball.data.readers import open_image
from epsball.runtime.device import derived_seed
from epsball.runtime.distributed import share

if TYPE_CHECKING:
    from PIL.Image import Image

IMAGES_PER_JOB = 16  # what a worker decodes at a time: 4 MB of shared memory at 299x299
JOBS_AHEAD = 4  # of each worker
PRELOADED = ["epsball.data.streamed", "torchvision.transforms.v2", "PIL.JpegImagePlugin"]
"""what the server that workers are forked from imports, once for all of them"""

SeedOf = Callable[[int, int], int]  # of an image's random crop: from the number of the batch and the image's place


class WorkersLost(RuntimeError):
    """End of a worker process before its work was done."""


@dataclass(frozen=True)
class Preprocessing:
    """Inception's crops (Szegedy et al. 2015; TF-slim's inception_preprocessing.py), bilinear, without its distortion
    of colours."""

    image_size: int
    """pixels of a side of the square that a network sees"""
    crop: float
    """central fraction of the sides, or of the short one, that a test image shows"""
    squash: bool
    """whether a test image is that fraction of both sides, resized to the square; else a square of the short side's"""
    area: tuple[float, ...]
    """smallest and largest share of the image's area that a training crop shows"""
    aspect: tuple[float, ...]
    """smallest and largest ratio of its width to its height"""
    flip: bool
    """whether half of the training images are mirrored left to right"""

    def __post_init__(self) -> None:
        require(self.image_size > 0, f"image_size should be a number of pixels, is {self.image_size}")
        require(0 < self.crop <= 1, f"crop should be in (0, 1], is {self.crop}")
        rising = len(self.area) == 2 and 0 < self.area[0] <= self.area[1] <= 1
        require(rising, f"area should be two shares in (0, 1], rising, is {list(self.area)}")
        rising = len(self.aspect) == 2 and 0 < self.aspect[0] <= self.aspect[1]
        require(rising, f"aspect should be two positive ratios, rising, is {list(self.aspect)}")

    def centre(self, image: "Image") -> "Image":
        """Return the centre, resized: what tests see."""
        from torchvision.transforms.v2 import functional as F

        if self.squash:
            central = F.center_crop(image, [round(self.crop * image.height), round(self.crop * image.width)])
            return F.resize(central, [self.image_size, self.image_size])  # type: ignore[no-any-return]
        resized = F.resize(image, [round(self.image_size / self.crop)])
        return F.center_crop(resized, [self.image_size])  # type: ignore[no-any-return]

    def random(self, image: "Image", seed: int) -> "Image":
        """Return a random crop, resized and perhaps mirrored: what a training step sees."""
        from torchvision.transforms import v2

        crop = v2.RandomResizedCrop(self.image_size, self.area, self.aspect)
        flip = v2.RandomHorizontalFlip(0.5 if self.flip else 0.0)
        with torch.random.fork_rng(devices=[]):  # torchvision draws from the CPU's default generator
            torch.default_generator.manual_seed(seed)
            return flip(crop(image))  # type: ignore[no-any-return]


class Job(NamedTuple):
    """A few images for a worker."""

    files: list[str]
    seeds: list[int] | None
    """of their random crops; None for central ones"""


@dataclass(frozen=True)
class Decoder(Dataset[Tensor | str]):
    """Decode jobs, in a worker process or in this one."""

    preprocessing: Preprocessing

    def __getitem__(self, job: Job) -> Tensor | str:
        """Return the images as uint8 NCHW; of a damaged one the error's line, which no worker's traceback surrounds."""
        from torchvision.transforms.v2.functional import pil_to_tensor

        size = self.preprocessing.image_size
        pixels = torch.empty(len(job.files), 3, size, size, dtype=torch.uint8)
        try:
            for i, file in enumerate(job.files):
                image = open_image(file, 3)
                cropped = (
                    self.preprocessing.centre(image)
                    if job.seeds is None
                    else self.preprocessing.random(image, job.seeds[i])
                )
                pixels[i] = pil_to_tensor(cropped)
        except ConfigError as error:
            return str(error)
        return pixels


class JobQueue:
    """Jobs of a loader: other ones every time that it is used, while its workers stay."""

    def __init__(self) -> None:
        self.jobs: Iterator[Job] = iter(())

    def __iter__(self) -> Iterator[Job]:
        return self.jobs


class Loader(DataLoader[Tensor | str]):
    """torch's, without its warning of more workers than cores: on a slow disk workers wait for their files."""

    def check_worker_number_rationality(self) -> None:
        pass


class Workers:
    """Loaders with worker processes of their own; each serves one reader at a time and is kept for the next.

    Training reads on while the test images are scored, so that there are two of them.
    """

    def __init__(self, decoder: Decoder, number: int) -> None:
        """`number`: processes of a loader; 0 decodes in this one."""
        self.decoder, self.number = decoder, number
        self.idle: list[tuple[bool, DataLoader[Tensor | str]]] = []

    def decode(self, jobs: Iterator[Job], pinned: bool) -> Iterator[Tensor]:
        """Yield the images of each job, in order, some jobs ahead; `pinned`: for a copy that CUDA does not wait for.

        Raises ConfigError, which names the file, for an image that cannot be read, and WorkersLost.
        """
        own = next((entry for entry in self.idle if entry[0] == pinned), None)
        if own is None:
            own = pinned, self.start(pinned)
        else:
            self.idle.remove(own)
        own[1].sampler.jobs = jobs  # type: ignore[attr-defined]
        try:
            with losing_workers():
                batches = iter(own[1])
            while (found := next_of(batches)) is not None:
                if isinstance(found, str):
                    raise ConfigError(found)
                yield found
        except WorkersLost as lost:
            own = None
            with unheard_deletions():
                lost.__context__ = lost.__traceback__ = None  # what holds an iterator that torch had made half
            raise
        finally:
            self.idle += [] if own is None else [own]

    def start(self, pinned: bool) -> DataLoader[Tensor | str]:
        """Return a loader. Its generator is its own: torch's global one, which training draws from, stays as it is."""
        own: dict[str, Any] = {"batch_size": None, "sampler": JobQueue(), "generator": torch.Generator()}
        if self.number > 0:
            own |= {"num_workers": self.number, "persistent_workers": True, "prefetch_factor": JOBS_AHEAD}
            own |= {"worker_init_fn": begin_worker, "multiprocessing_context": worker_context()}
        return Loader(self.decoder, pin_memory=pinned, **own)


def next_of(batches: Iterator[Tensor | str]) -> Tensor | str | None:
    """Return what comes next, None at the end."""
    with losing_workers():
        return next(batches, None)


@contextlib.contextmanager
def losing_workers() -> Iterator[None]:
    """Raise WorkersLost for what torch and multiprocessing say when a worker, or their server, is gone."""
    try:
        yield
    except (RuntimeError, EOFError, ConnectionError) as error:
        told = "exited unexpectedly" in str(error) or "killed by signal" in str(error)
        if isinstance(error, RuntimeError) and not told:
            raise
        why = "a signal, or too little memory (/dev/shm included: fewer dataset.workers need less)"
        raise WorkersLost(f"a process that decodes images has ended: {why}") from None


@contextlib.contextmanager
def unheard_deletions() -> Iterator[None]:
    """Let nothing on stderr tell of errors in `__del__`: torch's iterator over workers has one where a signal ended the
    workers while they began."""
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    try:
        yield
    finally:
        sys.unraisablehook = hook


@contextlib.contextmanager
def stopped_if_lost(check: Callable[[], None]) -> Iterator[None]:
    """Let `check` raise Interrupted where workers were lost to a signal that is this process's too."""
    try:
        yield
    except WorkersLost:
        check()
        raise


def worker_context() -> Any:
    """Return how workers begin: forked from a small server that has no threads, where the system has that."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def begin_worker(_number: int) -> None:
    """Leave Ctrl-C, which a terminal sends to workers too, to the process that reads: it finishes its step first. And
    end with that process, however it ends: torch's workers look whether their own parent has, which is the server."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=end_with_reader, daemon=True).start()


def end_with_reader() -> None:
    if reader := multiprocessing.parent_process():
        reader.join()
        os._exit(1)


@dataclass(frozen=True, eq=False)
class StreamedSplit:
    """Images in files, of which a few batches are in memory at a time, and their labels, which all are.

    `take` and `batches` give central crops, as for tests; `read`, the way of training steps, random ones.
    """

    files: Sequence[str]
    y: Tensor
    """int64, on the device that batches are brought to"""
    workers: Workers

    repeats = False  # every epoch has random crops of its own

    def __len__(self) -> int:
        return len(self.files)

    @property
    def shape(self) -> Shape:
        size = self.workers.decoder.preprocessing.image_size
        return 3, size, size

    @property
    def device(self) -> torch.device:
        return self.y.device

    @property
    def index_device(self) -> torch.device:
        """Return where the places that `read` is given should lie: files are opened by the host."""
        return torch.device("cpu")

    def take(self, index: Tensor, *pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the examples at `index`: float32 images in [0, 1] and labels. `pixels`: their bytes, where `read` gave
        them; then nothing waits for a file or the device."""
        if not pixels:
            ((index, *pixels),) = self.stream([index.cpu()], None)  # type: ignore[assignment]
        return to_unit(pixels[0]), self.y[index]

    def first(self, number: int | None) -> Self:
        return replace(self, files=self.files[:number], y=self.y[:number])

    def only(self, index: Tensor) -> Self:
        return replace(self, files=[self.files[i] for i in index.tolist()], y=self.y[index])

    def share(self) -> Self:
        part = share(len(self))
        return replace(self, files=self.files[part], y=self.y[part])

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        places = (torch.arange(start, min(start + size, len(self))) for start in range(0, len(self), size))
        for index, pixels in self.stream(places, None):
            yield self.take(index, pixels)

    def read(self, places: Iterable[Tensor], seed: int, first: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield for each training step, from number `first` on, its places and their images' bytes, on the device.

        A crop depends on seed, step and place alone: not on the number of workers, nor on where a training goes on.
        """
        yield from self.stream(places, lambda number, place: derived_seed(seed, "crop", first + number, place))

    def stream(self, places: Iterable[Tensor], seed_of: SeedOf | None) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield places and bytes of each batch, on the device, while workers decode the next ones."""
        ahead, batches = tee(places)
        decoded = self.workers.decode(self.jobs(ahead, seed_of), pinned=self.device.type == "cuda")
        with contextlib.closing(decoded):  # type: ignore[type-var]
            for index in batches:
                parts = [next(decoded).to(self.device, non_blocking=True) for _ in parts_of(index)]
                yield index.to(self.device, non_blocking=True), torch.cat(parts)

    def jobs(self, places: Iterable[Tensor], seed_of: SeedOf | None) -> Iterator[Job]:
        """Yield the jobs of each batch, in order."""
        for number, index in enumerate(places):
            for part in (part.tolist() for part in parts_of(index)):
                seeds = None if seed_of is None else [seed_of(number, place) for place in part]
                yield Job([self.files[place] for place in part], seeds)

    def to(self, device: torch.device | str) -> Self:
        return replace(self, y=self.y.to(device))


def parts_of(index: Tensor) -> tuple[Tensor, ...]:
    """Return the places of a batch job by job; of none, one empty job."""
    return torch.split(index, IMAGES_PER_JOB)
