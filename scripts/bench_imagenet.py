"""Images per second that workers decode, and that a training step of Inception v3 takes, in one process, alternating.

The ratio says how many times as long as without workers the same images take; images per second are beside it. The
images are those of data/imagenet_sample: 125 photographs, short side 342, which most of ImageNet's exceed.
"""

import statistics
from collections.abc import Callable, Sequence

import torch
from bench import Table, composed, options, rounds
from torch import Tensor

from epsball.build import build, construct
from epsball.data.datasets import DATASETS
from epsball.data.images import Data
from epsball.models import MODELS
from epsball.training.fit import TrainingState
from epsball.training.trainer import Trainer

BATCH = 32  # Kurakin's
IMAGES = 125  # of the sample
WORKERS = (0, 1, 2)
WIDTH = 0.25  # of the network: a whole Inception takes a CPU core 20 seconds a step


def sample(workers: int, device: str) -> Data:
    spec = composed("dataset=imagenet_sample", "scale=paper", f"dataset.workers={workers}")["dataset"]
    data: Data = build(DATASETS, spec, where="dataset").load()
    return data.to(device)


def reading(data: Data) -> Callable[[], object]:
    """A function that reads every image once. It begins and ends with the call: nothing is decoded between rounds."""
    return lambda: list(data.train.read(places(data), 0, 0))


def places(data: Data) -> Sequence[Tensor]:
    return torch.split(torch.arange(len(data.train)), BATCH)


def training(data: Data, device: str) -> Callable[[], None]:
    """A function that trains on every image once, reading included."""
    torch.manual_seed(0)
    chosen = composed("arch=inception_v3", f"arch.width={WIDTH}", "trainer=standard", f"trainer.batch_size={BATCH}")
    model = build(MODELS, chosen["arch"], data.shape, len(data.classes), where="arch").to(device)
    trainer: Trainer = construct(Trainer, chosen["trainer"], where="trainer")
    state = TrainingState.begin(model, trainer, [], data, seed=0)

    def train() -> None:
        for index, *pixels in data.train.read(places(data), 0, 0):
            state.advance(index, 0.0, *pixels)

    return train


def main() -> None:
    given = options("bench_imagenet.csv", repeats=3)
    table = Table("what")
    data = {number: sample(number, given.device) for number in WORKERS}
    for what, make in {"decode": reading, f"train, width {WIDTH}": lambda d: training(d, given.device)}.items():
        times = rounds({f"{n} workers": make(own) for n, own in data.items()}, given.repeats, given.device)
        table.add((what,), times, base="0 workers")
        for name, taken in times.items():
            print(f"{what}, {name}: {IMAGES / statistics.median(taken):.1f} images per second", flush=True)
    table.write(given.out)


if __name__ == "__main__":
    main()
