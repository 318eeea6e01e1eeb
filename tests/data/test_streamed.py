"""Images streamed from their files: the pixels of PIL, the same for any number of workers, and no process left over."""

import contextlib
import gc
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT
from PIL import Image
from tiny_training import Recorder, fitted, identical, plain, trainer
from torch import Tensor, nn
from torchvision.transforms import RandomResizedCrop

from epsball.build import ConfigError, build
from epsball.data import datasets
from epsball.data.datasets import DATASETS
from epsball.data.images import Data, Images
from epsball.data.streamed import StreamedSplit, WorkersLost
from epsball.runtime.device import derived_seed
from epsball.runtime.progress import Interrupted
from epsball.training.fit import TrainingState, saved_if_lost

SAMPLE = ROOT / "data" / "imagenet_sample"
FIELDS: dict[str, Any] = {
    **{
        "name": "imagenet",
        "train_folder": "train",
        "test_folder": "val",
        "image_size": 16,
        "crop": 0.875,
        "squash": False,
    },
    **{"area": [0.08, 1.0], "aspect": [0.75, 4 / 3], "flip": True, "train_size": None, "test_size": None, "workers": 0},
}
STEPS = [torch.tensor(places) for places in ([3, 0, 7], list(range(20)), [5])]
AREA, ASPECT = [0.08, 1.0], [0.75, 4 / 3]


def write_photographs(folder: Path, each: int, classes: tuple[str, ...] = ("n01", "n02", "n03")) -> None:
    """Write JPEGs of several sizes, of which no two are alike, in RGB but for the first of each class, in grey."""
    for label, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for i in range(each):
            wide, high = 40 + 3 * i, 30 + 5 * label
            pixels = np.random.default_rng([label, i]).integers(0, 256, (high, wide, 3), np.uint8)
            image = Image.fromarray(pixels)
            (image if i else image.convert("L")).save(folder / name / f"{name}_{i}.JPEG")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("imagenet")
    write_photographs(folder / "train", each=8)
    write_photographs(folder / "val", each=3)
    return folder


def load(root: Path, **fields: Any) -> Data:
    loaded: Data = build(DATASETS, {**FIELDS, "root": str(root), **fields}, where="dataset").load()
    return loaded


def files(split: Images) -> list[str]:
    assert isinstance(split, StreamedSplit)
    return list(split.files)


def as_tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255


def all_images(split: Images, size: int) -> Tensor:
    return torch.cat([x for x, _ in split.batches(size)])


# --- which images ---------------------------------------------------------------------------------------------------


def test_a_test_image_is_the_resized_centre_that_pil_gives(root: Path) -> None:
    test = load(root).test
    for file, x in zip(files(test), all_images(test, 4), strict=True):
        image = Image.open(file).convert("RGB")
        short = min(image.size)
        side = round(16 / 0.875)
        small = image.resize(tuple(int(side * edge / short) for edge in image.size), Image.Resampling.BILINEAR)
        left, top = (round((edge - 16) / 2) for edge in small.size)
        assert torch.equal(x, as_tensor(small.crop((left, top, left + 16, top + 16))))


def test_a_squashed_one_is_the_centre_of_both_sides(root: Path) -> None:
    squashed = load(root, squash=True)
    for file, x in zip(files(squashed.test), all_images(squashed.test, 4), strict=True):
        image = Image.open(file).convert("RGB")
        wide, high = (round(0.875 * edge) for edge in image.size)
        left, top = round((image.width - wide) / 2), round((image.height - high) / 2)
        centre = image.crop((left, top, left + wide, top + high))
        assert torch.equal(x, as_tensor(centre.resize((16, 16), Image.Resampling.BILINEAR)))
    plain = load(root)
    assert plain.checksum == squashed.checksum and plain.test_checksum != squashed.test_checksum


def test_a_training_image_is_the_random_crop_that_its_seed_gives(root: Path) -> None:
    train, mirrored = load(root).train, 0
    ((index, pixels),) = train.read([torch.arange(24)], seed=5, first=7)
    x, y = train.take(index, pixels)
    assert torch.equal(y, train.y) and pixels.dtype == torch.uint8
    for place, file in enumerate(files(train)):
        image = Image.open(file).convert("RGB")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derived_seed(5, "crop", 7, place))
            top, left, high, wide = RandomResizedCrop.get_params(image, AREA, ASPECT)  # type: ignore[arg-type]
        crop = image.crop((left, top, left + wide, top + high)).resize((16, 16), Image.Resampling.BILINEAR)
        flipped = torch.equal(x[place], as_tensor(crop).flip(-1))
        assert flipped or torch.equal(x[place], as_tensor(crop))
        assert 0.07 < high * wide / (image.width * image.height) <= 1
        mirrored += flipped
    assert 5 < mirrored < 19
    assert torch.equal(load(root, flip=False, area=[1.0, 1.0]).train.y, train.y)


def test_labels_names_and_order_are_those_of_an_image_folder(root: Path) -> None:
    loaded = load(root)
    folder = {"name": "image_folder", "root": str(root), "channels": 3, "image_size": 16}
    other = build(DATASETS, {**folder, "train_size": None, "test_size": None}, where="dataset").load()
    assert torch.equal(loaded.train.y, other.train.y) and torch.equal(loaded.test.y, other.test.y)
    assert (loaded.classes, loaded.shape) == (other.classes, (3, 16, 16)) == (("n01", "n02", "n03"), (3, 16, 16))
    assert (loaded.name, load(root, name="streamed_folder").name) == ("imagenet_sample", "streamed_folder")
    part = load(root, train_size=6, test_size=3)
    assert part.train.y.bincount().tolist() == [2, 2, 2] and part.test.y.bincount().tolist() == [1, 1, 1]
    assert files(part.train) == files(loaded.train)[:6]


def test_a_thousand_classes_are_called_imagenet_and_its_test_images_not_trained_on(
    tmp_path: Path, compose: Any
) -> None:
    from epsball.experiment.prepare import prepare_experiment

    picture = tmp_path / "picture.jpeg"
    Image.new("RGB", (20, 20)).save(picture)
    for folder in ("train", "val"):
        for number in range(1000):
            (tmp_path / folder / f"n{number:08}").mkdir(parents=True)
            (tmp_path / folder / f"n{number:08}" / "0.JPEG").symlink_to(picture)
    loaded = load(tmp_path)
    assert (loaded.name, len(loaded.classes), len(loaded.train)) == ("imagenet", 1000, 1000)
    assert load(tmp_path, train_folder="val").name == "imagenet"  # its test images are ImageNet's
    own = line(tmp_path, "dataset.train_folder=val")[2:]
    with pytest.raises(ConfigError, match="dataset has the test images to train on, too: dataset=imagenet has others"):
        prepare_experiment(compose(*own))


def test_parts_of_a_split(root: Path) -> None:
    test = load(root).test
    x = all_images(test, 9)
    index = torch.tensor([7, 2, 2])
    taken, labels = test.take(index)
    assert torch.equal(taken, x[index]) and torch.equal(labels, test.y[index])
    only = test.only(index)
    assert len(only) == 3 and torch.equal(all_images(only, 2), x[index]) and torch.equal(only.y, test.y[index])
    assert len(test.first(4)) == 4 and torch.equal(all_images(test.first(4), 3), x[:4])
    assert len(test.first(None)) == len(test.first(100)) == 9
    assert test.take(index[:0])[0].shape == test.only(index[:0]).take(index[:0])[0].shape == (0, 3, 16, 16)
    assert [len(y) for _, y in test.batches(4)] == [4, 4, 1]
    assert list(test.only(index[:0]).batches(4)) == []  # as of images in memory
    assert test.to("meta").device.type == "meta" and test.device.type == test.index_device.type == "cpu"


def test_a_split_holds_no_images(root: Path) -> None:
    """What is in memory is as large for images of 299 pixels as for those of 16."""
    for size in (16, 299):
        train = load(root, image_size=size).train
        assert isinstance(train, StreamedSplit)
        held = [value for value in vars(train).values() if isinstance(value, Tensor)]
        assert sum(value.nbytes for value in held) == 8 * len(train)  # labels
        assert all(isinstance(file, str) for file in train.files)
        assert next(iter(train.first(1).batches(1)))[0].shape == (1, 3, size, size)
        assert vars(train).keys() == {"files", "y", "workers"} and not any(map(torch.is_tensor, vars(train.workers)))


def test_a_core_that_the_process_may_use_has_a_worker(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "cores", lambda: 3)
    train = load(root, workers=None).train
    assert isinstance(train, StreamedSplit) and train.workers.number == 3


# --- workers --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def by_workers(root: Path) -> dict[int, Data]:
    return {number: load(root, workers=number) for number in (0, 1, 2)}


def test_results_are_the_same_for_any_number_of_workers(by_workers: dict[int, Data]) -> None:
    before = torch.get_rng_state()
    reads = {number: list(data.train.read(STEPS, 5, 10)) for number, data in by_workers.items()}
    tests = {number: all_images(data.test, 4) for number, data in by_workers.items()}
    assert identical(reads[0], reads[1]) and identical(reads[0], reads[2])
    assert torch.equal(tests[0], tests[1]) and torch.equal(tests[0], tests[2])
    assert torch.equal(torch.get_rng_state(), before)  # dropout's numbers do not depend on when workers begin
    data = by_workers[2]
    assert identical(reads[0], list(data.train.read(STEPS, 5, 10)))  # by the same processes
    assert identical(reads[0][1:], list(data.train.read(STEPS[1:], 5, 11)))
    others = list(data.train.read(STEPS, 6, 10)), list(data.train.read(STEPS, 5, 11))
    assert not any(torch.equal(reads[0][1][1], other[1][1]) for other in others)  # another seed, another step


def test_a_test_set_is_read_while_training_reads_on(by_workers: dict[int, Data]) -> None:
    train, test = by_workers[2].train, by_workers[2].test
    whole = list(train.read(STEPS, 5, 0))
    x = all_images(test, 9)
    steps = train.read(STEPS, 5, 0)
    for expected, found in zip(whole, steps, strict=True):
        assert identical(list(expected), list(found))
        assert torch.equal(next(iter(test.batches(4)))[0], x[:4])  # and left in the middle
    assert torch.equal(all_images(test, 4), x)


def small_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=4), nn.BatchNorm2d(4), nn.Dropout(0.3), nn.Flatten(), nn.Linear(64, 3)
    )


def test_a_training_that_goes_on_inside_an_epoch_ends_with_the_same_bits(by_workers: dict[int, Data]) -> None:
    """With everything random: crops, augmentation, attacks, dropout; first by two workers, then by none."""
    weights, curve, _ = fitted(trainer(), 3, small_network(), by_workers[2])
    stopped = Recorder(interrupt_at=6)  # of four steps an epoch
    with pytest.raises(Interrupted):
        fitted(trainer(), 3, small_network(), by_workers[2], stopped)
    again, curve_again, _ = fitted(trainer(), 3, small_network(), by_workers[0], Recorder(stopped.last))
    assert identical(weights, again) and identical(curve, curve_again)
    other, _, _ = fitted(trainer(), 4, small_network(), by_workers[0])
    assert not identical(weights, other)


def test_lost_workers_are_one_line(root: Path) -> None:
    """Of the first jobs, which were ahead, nothing is lost."""
    import multiprocessing

    train, before = load(root, workers=1).train, set(multiprocessing.active_children())
    steps = train.read([torch.arange(16)] * 50, 0, 0)
    next(steps)
    (worker,) = set(multiprocessing.active_children()) - before
    worker.kill()
    with pytest.raises(WorkersLost, match=r"^a process that decodes images has ended: [^\n]+$"):
        list(steps)
    assert len(list(train.read([torch.arange(16)] * 2, 0, 0))) == 2  # by a new one


def test_what_was_trained_is_saved_when_a_signal_ends_the_workers_first(root: Path) -> None:
    def lost() -> Iterator[tuple[Tensor, ...]]:
        yield (torch.arange(2),)
        raise WorkersLost("lost")

    data, recorder = load(root), Recorder()
    state = TrainingState.begin(small_network(), plain(), [], data, 0)
    steps = saved_if_lost(lost(), state, recorder.control)
    next(steps)
    recorder.control.stop.signum = signal.SIGTERM
    with pytest.raises(Interrupted):
        next(steps)
    assert len(recorder.saved) == 1
    with pytest.raises(WorkersLost):
        list(saved_if_lost(lost(), state, Recorder().control))


# --- checks ---------------------------------------------------------------------------------------------------------


def test_checksums_follow_files_sizes_and_crops(root: Path, tmp_path: Path) -> None:
    first = load(root)
    assert first.checksum == load(root, workers=2, crop=0.5, test_size=3).checksum
    assert first.test_checksum == load(root, workers=2, area=[0.5, 1.0], flip=False, train_size=3).test_checksum
    changed = [{"train_size": 23}, {"flip": False}, {"area": [0.5, 1.0]}, {"aspect": [1.0, 1.0]}, {"image_size": 15}]
    assert len({first.checksum, *(load(root, **change).checksum for change in changed)}) == 6
    assert first.test_checksum != load(root, crop=0.5).test_checksum
    write_photographs(tmp_path / "train", each=8)
    write_photographs(tmp_path / "val", each=3)
    assert load(tmp_path).checksum == first.checksum  # elsewhere
    with (tmp_path / "train" / "n01" / "n01_1.JPEG").open("ab") as file:
        file.write(b"0")
    assert load(tmp_path).checksum != first.checksum and load(tmp_path).test_checksum == first.test_checksum


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_image_is_one_line_that_names_it(tmp_path: Path, workers: int) -> None:
    write_photographs(tmp_path / "train", each=3)
    write_photographs(tmp_path / "val", each=1)
    damaged = tmp_path / "train" / "n02" / "n02_1.JPEG"
    damaged.write_bytes(damaged.read_bytes()[:500])
    data = load(tmp_path, workers=workers)
    assert len(all_images(data.test, 2)) == 3
    with pytest.raises(ConfigError, match=r"^dataset.root: .*/n02_1.JPEG is not a readable image: [^\n]+$"):
        fitted(plain(epochs=1.0), 0, small_network(), data)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"train_folder": "trian"}, "dataset.root: no .*/trian; an image folder is"),
        ({"test_folder": "test"}, "dataset.root: no .*/test; an image folder is"),
        ({"train_size": 25}, "dataset.train_size is 25, but there are only 24 such images: null takes all"),
        ({"image_size": 0}, "dataset.image_size should be a number of pixels, is 0"),
        ({"crop": 1.5}, r"dataset.crop should be in \(0, 1\], is 1.5"),
        ({"area": [0.5, 0.1]}, r"dataset.area should be two shares in \(0, 1\], rising, is \[0.5, 0.1\]"),
        ({"aspect": [0.0, 1.0]}, r"dataset.aspect should be two positive ratios, rising, is \[0.0, 1.0\]"),
        ({"workers": -1}, "dataset.workers should be at least 0 or null, is -1"),
    ],
)
def test_what_is_wrong_is_one_line(root: Path, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load(root, **fields)
    assert "\n" not in str(caught.value)


def test_the_test_images_of_a_folder_of_ones_own_lie_in_test_or_in_val(tmp_path: Path) -> None:
    """As those of an image folder, which the same documentation tells of."""
    write_photographs(tmp_path / "train", each=1)
    write_photographs(tmp_path / "val", each=1)
    assert len(load(tmp_path, test_folder=None).test) == 3
    write_photographs(tmp_path / "test", each=2)
    assert len(load(tmp_path, test_folder=None).test) == 6 and len(load(tmp_path, test_folder="val").test) == 3


def test_classes_that_differ_are_refused(tmp_path: Path) -> None:
    write_photographs(tmp_path / "train", each=1)
    write_photographs(tmp_path / "val", each=1, classes=("n01", "n02", "n04"))
    with pytest.raises(ConfigError, match="should have the same classes; only in one: n03, n04"):
        load(tmp_path)


# --- run.py ---------------------------------------------------------------------------------------------------------


def line(root: Path, *overrides: str) -> list[str]:
    """Return the command line of a small experiment."""
    return [
        *(sys.executable, str(ROOT / "run.py"), "dataset=imagenet", f"dataset.root={root}", "scale=smoke"),
        *("dataset.image_size=16", "dataset.train_size=24", "dataset.test_size=9", "device=cpu", "threads=1"),
        *("arch=madry_mnist", "arch.width=0.125", "arch.hidden=16", "models=alone", "attack=none", "suite=fgsm"),
        *("trainer=standard", "trainer.batch_size=8", "trainer.epochs=2", "dataset.workers=2", *overrides),
    ]


def test_a_run(root: Path, tmp_path: Path) -> None:
    done = subprocess.run(line(root, "hydra.run.dir=run"), cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    rows = pd.read_csv(tmp_path / "run" / "results.csv")
    assert rows["dataset"].unique().tolist() == ["imagenet_sample"] and rows["n"].tolist() == [9, 9]
    assert rows["attack"].tolist() == ["clean", "fgsm"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["+model@models.F=random_forest", "models=none"],
            "is streamed, but RandomForest fits itself to all images",
        ),
        (["trainer=static_adv", "models=companions"], "objective.crafted_on should be augmented: "),
        (
            ["trainer=diversity", "arch=ensemble", "arch.copies=2"],
            "trainer.objective.data.crafted_on should be augmented: ",
        ),
        (["measurement.export=true"], "measurement.export should be false: a streamed data set's examples"),
    ],
)
def test_what_needs_all_images_in_memory_is_refused(
    compose: Any, root: Path, overrides: list[str], message: str
) -> None:
    from epsball.experiment.prepare import prepare_experiment

    groups = tuple(override.partition("=")[0] for override in overrides)
    own = [override for override in line(root)[2:] if not override.startswith(groups)]
    with pytest.raises(ConfigError, match=message) as caught:
        prepare_experiment(compose(*own, *overrides))
    assert "\n" not in str(caught.value)


def test_workers_that_end_while_they_begin_are_lost_without_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a signal to the whole job comes just then: torch's iterator, half made, cannot be deleted."""

    begun, begin = list[BaseProcess](), BaseProcess.start

    def second_ends(process: BaseProcess) -> None:
        begun.append(process)
        if len(begun) == 2:
            raise EOFError
        begin(process)

    monkeypatch.setattr(BaseProcess, "start", second_ends)
    heard: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", heard.append)
    write_photographs(tmp_path / "train", each=1)
    write_photographs(tmp_path / "val", each=1)
    with pytest.raises(WorkersLost, match="a process that decodes images has ended"):
        next(iter(load(tmp_path, workers=2).test.batches(1)))
    gc.collect()
    assert len(begun) == 2 and heard == [] and sys.unraisablehook == heard.append


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="processes are looked up in /proc")
def test_a_signal_to_the_whole_job_saves_the_training_and_leaves_no_process(root: Path, tmp_path: Path) -> None:
    """As `timeout` and schedulers send it: to workers too."""
    with training_under_way(root, tmp_path) as run:
        os.killpg(run.pid, signal.SIGTERM)
        _, errors = run.communicate(timeout=300)
        assert (run.returncode, "Traceback" in errors) == (143, False), errors
        wait_for(lambda: not session_of(run.pid))
    assert list(tmp_path.glob("outputs/models/*/last.pt"))


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="processes are looked up in /proc")
def test_a_killed_run_leaves_no_process(root: Path, tmp_path: Path) -> None:
    """As where memory ends; a worker process of `workers` ends so with every signal."""
    with training_under_way(root, tmp_path) as run:
        run.kill()
        run.wait()
        wait_for(lambda: not session_of(run.pid))
        run.communicate()


@contextlib.contextmanager
def training_under_way(root: Path, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Begin a run in a session of its own, which has saved a state when the block begins."""
    command, pipe = line(root, "trainer.epochs=5000", "checkpoint_seconds=0.1"), subprocess.PIPE
    run = subprocess.Popen(command, cwd=folder, stdout=pipe, stderr=pipe, text=True, start_new_session=True)
    try:
        wait_for(lambda: bool(list(folder.glob("outputs/models/*/last.pt"))) or run.poll() is not None)
        assert run.poll() is None, run.communicate()[1]
        assert len(session_of(run.pid)) >= 4  # the run, the server, two workers
        yield run
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(run.pid, signal.SIGKILL)


def wait_for(condition: Callable[[], bool]) -> None:
    for _ in range(30000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("waited five minutes")


def session_of(leader: int) -> list[int]:
    """Return the processes of a session that are alive."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, _, session = stat.read_text().rpartition(")")[2].split()[:4]
            if int(session) == leader and state != "Z":
                found.append(int(stat.parent.name))
    return found


@pytest.mark.skipif(not SAMPLE.is_dir(), reason="data/imagenet_sample is not here: 125 ImageNet photographs")
def test_the_sample_of_imagenet(compose: Any) -> None:
    spec = compose("dataset=imagenet_sample")["dataset"] | {"root": str(SAMPLE), "workers": 0}
    data: Data = build(DATASETS, spec, where="dataset").load()
    assert (data.name, len(data.train), len(data.test), data.shape) == ("imagenet_sample", 125, 125, (3, 299, 299))
    assert data.test.y.unique().tolist() == list(range(125))
    for (x, y), file in zip(islice(data.test.batches(1), 3), files(data.test), strict=False):
        image = Image.open(file).convert("RGB")
        assert min(image.size) == 342 and Path(file).parent.name == data.classes[int(y)]
        wide, high = (round(0.875 * edge) for edge in image.size)
        left, top = round((image.width - wide) / 2), round((image.height - high) / 2)
        centre = image.crop((left, top, left + wide, top + high))
        assert torch.equal(x[0], as_tensor(centre.resize((299, 299), Image.Resampling.BILINEAR)))
    (_, pixels), *_ = replace(data.train).read([torch.arange(2)], 0, 0)
    assert pixels.shape == (2, 3, 299, 299)
