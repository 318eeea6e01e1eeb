"""Datasets: exact sizes, checks that name the file, caching; splits and augmentation value for value."""

import gzip
import hashlib
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image
from torch.nn import functional as F

from epsball.build import ConfigError, build
from epsball.data import readers
from epsball.data.datasets import (
    CIFAR10,
    DATASETS,
    MNIST,
    Digits,
    FashionMNIST,
    ImageFolder,
    Npz,
    assemble,
    checksum,
    load_cifar_folder,
)
from epsball.data.images import Augment, Split, random_crop
from epsball.data.readers import decode_image, enlarge_digits, idx_file, read_digits, read_idx, stratified
from epsball.training.spec import BuildCache, load_data

REAL = Path(os.environ.get("EPSBALL_DATA", ROOT / "data"))
OFF = Augment(shift=0, crop=1.0, flip=False)


@pytest.fixture(scope="module")
def digits():
    return Digits(None, None).load()


# --- configs -------------------------------------------------------------------------------------------------------


def test_every_dataset_has_a_config_with_all_its_fields(compose):
    files = sorted((ROOT / "conf/dataset").glob("*.yaml"))
    assert set(DATASETS) <= {f.stem for f in files}
    for file in (f for f in files if f.stem in DATASETS):
        assert file.read_text().startswith("# ")
        spec = compose(f"dataset={file.stem}")["dataset"]
        assert spec["name"] == file.stem
        build(DATASETS, spec, where="dataset")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"train_size": 0}, "dataset.train_size should be a number of images or null, is 0"),
        ({"test_size": -1}, "dataset.test_size"),
        ({"train_skip": 60000}, "dataset.train_skip should be in"),
    ],
)
def test_fields_out_of_range(change, message):
    spec = {"name": "mnist", "root": "x", "download": False, "train_skip": 0, "train_size": 1, "test_size": 1}
    with pytest.raises(ConfigError, match=message):
        build(DATASETS, spec | change, where="dataset")


# --- splits --------------------------------------------------------------------------------------------------------


def test_take_and_batches_give_unit_floats():
    x = torch.arange(5 * 3 * 2 * 2, dtype=torch.uint8).reshape(5, 3, 2, 2) * 4
    split = Split(x, torch.arange(5))
    images, labels = split.take(torch.tensor([3, 0]))
    assert images.dtype == torch.float32 and torch.equal(images, x[[3, 0]].float() / 255)
    assert labels.tolist() == [3, 0]
    batches = list(split.batches(2))
    assert [len(y) for _, y in batches] == [2, 2, 1] and len(split) == 5
    assert torch.equal(torch.cat([b for b, _ in batches]), x.float() / 255)
    assert torch.equal(torch.cat([y for _, y in batches]), split.y)
    assert torch.equal(split.x, x)  # still the bytes
    assert split.to("meta").x.device.type == "meta"


def test_digits(digits):
    assert (len(digits.train), len(digits.test), digits.shape) == (1437, 360, (1, 28, 28))
    assert digits.train.x.dtype == torch.uint8 and digits.train.y.dtype == torch.int64
    assert int(digits.train.x.min()) == 0 and int(digits.train.x.max()) == 255
    assert digits.classes == tuple("0123456789") and digits.name == "digits"
    counts = torch.stack([digits.train.y.bincount(), digits.test.y.bincount()])
    shares = counts / counts.sum(1, keepdim=True)
    assert (shares[0] - shares[1]).abs().max() < 0.003  # stratified


def test_digits_split_is_disjoint_and_complete(digits):
    from sklearn.datasets import load_digits

    rows = [hashlib.sha256(x.numpy().tobytes()).hexdigest() for x in torch.cat([digits.train.x, digits.test.x])]
    small = load_digits().images
    whole = [hashlib.sha256(x.tobytes()).hexdigest() for x in enlarge_digits(small.astype(np.int64))]
    assert sorted(rows) == sorted(whole)
    bilinear = F.interpolate(torch.tensor(small)[:, None] * 255 / 16, (28, 28), mode="bilinear")
    difference = bilinear[:, 0] - torch.from_numpy(enlarge_digits(small.astype(np.int64)))
    assert difference.abs().max() <= 0.5 + 1e-6


def test_digits_are_scikit_learns_and_read_without_it():
    from sklearn.datasets import load_digits

    images, labels = read_digits()
    assert np.array_equal(images, load_digits().images) and np.array_equal(labels, load_digits().target)
    told = "import sys; from epsball.data.datasets import Digits; Digits(None, None).load(); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True).stdout.split()
    assert not {"sklearn", "scipy", "pandas", "torchvision", "PIL"} & set(loaded)


@pytest.mark.parametrize("content", [None, b"no gzip", gzip.compress(b"1,2\n3\n")], ids=["absent", "damaged", "ragged"])
def test_digits_that_cannot_be_read_are_one_line(tmp_path, monkeypatch, content):
    folder = tmp_path / "sklearn" / "datasets" / "data"
    folder.mkdir(parents=True)
    (tmp_path / "sklearn" / "__init__.py").touch()
    if content is not None:
        (folder / "digits.csv.gz").write_bytes(content)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "sklearn", raising=False)
    with pytest.raises(ConfigError, match=r"digits of scikit-learn, .*digits\.csv\.gz, cannot be read: ") as caught:
        Digits(None, None).load()
    assert "\n" not in str(caught.value)


def test_checksums_follow_content_and_size(digits):
    assert Digits(None, None).load().checksum == digits.checksum != digits.test_checksum
    smaller = Digits(100, None).load()
    assert smaller.checksum != digits.checksum and smaller.test_checksum == digits.test_checksum
    assert torch.equal(smaller.train.x, digits.train.x[:100])
    x, y = digits.train.x.clone(), digits.train.y.clone()
    assert checksum(Split(x, y)) == digits.checksum
    x[5, 0, 3, 3] ^= 1
    assert checksum(Split(x, y)) != digits.checksum
    x[5, 0, 3, 3] ^= 1
    y[0] += 1
    assert checksum(Split(x, y)) != digits.checksum


def test_more_images_than_there_are():
    with pytest.raises(ConfigError, match=r"dataset.train_size is 5000, but there are only 1437"):
        Digits(5000, None).load()


def test_every_prefix_of_the_stratified_order_is_balanced():
    labels = np.repeat([0, 1, 2], [60, 30, 10])
    order = stratified(labels)
    assert sorted(order) == list(range(100)) and np.array_equal(order, stratified(labels))
    for n in (10, 20, 50, 90):
        assert np.bincount(labels[order[:n]], minlength=3).tolist() == [n * 6 // 10, n * 3 // 10, n // 10]


# --- augmentation --------------------------------------------------------------------------------------------------


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_off_is_the_same_object_and_draws_nothing():
    x, generator = torch.rand(2, 1, 4, 4), seeded()
    before = torch.get_rng_state()
    assert OFF(x, generator) is x and OFF(x) is x
    assert torch.equal(generator.get_state(), seeded().get_state())
    assert torch.equal(torch.get_rng_state(), before)


def test_shift_is_exactly_one_of_all_translations_and_reaches_each():
    x, shift = torch.rand(400, 3, 6, 5, generator=seeded(1)), 2
    shifted = replace(OFF, shift=shift)(x, seeded())
    padded = F.pad(x, (shift,) * 4)
    windows = [padded[:, :, r : r + 6, c : c + 5] for r in range(5) for c in range(5)]
    hits = torch.stack([(w == shifted).all(dim=(1, 2, 3)) for w in windows])
    assert hits.sum(0).eq(1).all()
    assert hits.any(1).all()


def test_flip_mirrors_half_of_the_images():
    x = torch.rand(2000, 1, 2, 3, generator=seeded(1))
    flipped = replace(OFF, flip=True)(x, seeded())
    mirrored = (flipped == x.flip(-1)).all(dim=(1, 2, 3))
    assert ((flipped == x).all(dim=(1, 2, 3)) ^ mirrored).all()
    assert 0.45 < mirrored.float().mean() < 0.55


def test_crop_of_the_whole_image_is_the_identity():
    x = torch.rand(4, 3, 8, 8)
    torch.testing.assert_close(random_crop(x, 1.0, None), x)


def test_a_crop_has_its_side_and_its_place_along_both_axes():
    ramp, sides = torch.linspace(0, 1, 32).expand(200, 1, 32, 32), []  # value = place
    for x, axis in ((ramp, 3), (ramp.transpose(2, 3), 2)):
        cropped = replace(OFF, crop=0.5)(x, seeded()).movedim(axis, -1)
        assert cropped.shape == ramp.shape and cropped.min() >= 0 and cropped.max() <= 1
        torch.testing.assert_close(cropped, cropped[:, :, :1].expand_as(cropped))  # lines stay alike
        line = cropped[:, 0, 0]
        side, centre = (line[:, 24] - line[:, 8]) * 31 / 16, (line[:, 15] + line[:, 16]) / 2
        assert 0.49 < side.min() < 0.55 and 0.95 < side.max() < 1.01
        assert centre.min() < 0.35 and centre.max() > 0.65  # not the middle of each
        assert ((centre - 0.5).abs() <= (1 - side) / 2 + 0.02).all()
        sides.append(side)
    torch.testing.assert_close(*sides, rtol=0, atol=1e-4)  # a square


@pytest.mark.parametrize(
    "change", [{"shift": 4}, {"crop": 0.6}, {"flip": True}, {"shift": 2, "crop": 0.8, "flip": True}]
)
def test_draws_are_per_example_reproducible_and_in_range(change):
    augment = replace(OFF, **change)
    x = torch.rand(1, 3, 16, 16, generator=seeded(1)).expand(32, -1, -1, -1)
    once = augment(x, seeded())
    assert torch.equal(once, augment(x, seeded())) and not torch.equal(once, augment(x, seeded(7)))
    assert len(once.flatten(1).unique(dim=0)) > 1
    assert once.dtype == x.dtype and once.min() >= 0 and once.max() <= 1


@pytest.mark.parametrize("change", [{"shift": -1}, {"crop": 0.0}, {"crop": 1.5}])
def test_augment_checks_its_ranges(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        replace(OFF, **change)


# --- MNIST ---------------------------------------------------------------------------------------------------------


def idx(shape, content=None):
    header = struct.pack(f">{1 + len(shape)}I", 0x800 + len(shape), *shape)
    return header + (bytes(int(np.prod(shape))) if content is None else content)


def write_mnist(root, folder="MNIST"):
    """Files of the true format and count, all zeros."""
    raw = root / folder / "raw"
    raw.mkdir(parents=True)
    for part, count in (("train", 60000), ("t10k", 10000)):
        (raw / f"{part}-images-idx3-ubyte").write_bytes(idx((count, 28, 28)))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(idx((count,)))
    return raw


def mnist(root, kind=MNIST, download=False, skip=0, train_size=None, test_size=None):
    return kind(str(root), download, skip, train_size, test_size).load()


def test_mnist_skip_and_size(tmp_path):
    raw = write_mnist(tmp_path)
    labels = np.arange(60000) % 10
    (raw / "train-labels-idx1-ubyte").write_bytes(idx((60000,), labels.astype(np.uint8).tobytes()))
    loaded = mnist(tmp_path, skip=5003, train_size=12, test_size=7)
    assert loaded.train.y.tolist() == labels[5003:5015].tolist() and len(loaded.test) == 7
    assert loaded.shape == (1, 28, 28) and str(raw) in loaded.origin
    with pytest.raises(ConfigError, match=r"dataset.train_size is 60000, but there are only 55000"):
        mnist(tmp_path, skip=5000, train_size=60000)


def test_fashion_mnist_packed(tmp_path):
    raw = write_mnist(tmp_path, "FashionMNIST")
    for file in list(raw.iterdir()):
        raw.joinpath(f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes(), 1))
        file.unlink()
    loaded = mnist(tmp_path, FashionMNIST)
    assert len(loaded.train) == 60000 and loaded.classes[9] == "Ankle boot" and loaded.name == "fashion_mnist"
    packed = raw / "t10k-images-idx3-ubyte.gz"
    packed.write_bytes(packed.read_bytes()[:-100])
    with pytest.raises(ConfigError, match=r"t10k-images-idx3-ubyte.gz cannot be read"):
        mnist(tmp_path, FashionMNIST)


@pytest.mark.parametrize(
    "file, content, message",
    [
        ("train-images-idx3-ubyte", idx((10, 28, 28)), "holds 10 x 28 x 28, should be 60000 x 28 x 28"),
        ("t10k-images-idx3-ubyte", idx((10000, 32, 32)), "holds 10000 x 32 x 32, should be 10000 x 28 x 28"),
        ("t10k-images-idx3-ubyte", idx((10000, 28, 28))[:-5], "is truncated: 7840011 of 7840016"),
        ("t10k-images-idx3-ubyte", idx((10000, 28, 28)) + b"0", "is too long"),
        ("t10k-images-idx3-ubyte", idx((10000, 28, 28))[:7], "is truncated"),
        ("t10k-images-idx3-ubyte", b"", "is not an IDX file"),
        ("t10k-images-idx3-ubyte", b"<html>not found</html>", "is not an IDX file"),
        ("t10k-labels-idx1-ubyte", idx((10000,), b"\x0a" * 10000), "has the label 10, labels are 0 to 9"),
    ],
)
def test_damaged_mnist(tmp_path, file, content, message):
    raw = write_mnist(tmp_path)
    (raw / file).write_bytes(content)
    with pytest.raises(ConfigError, match=f"{file} {message}"):
        mnist(tmp_path)


def test_missing_mnist_says_where_and_how(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"dataset.download=true, or point dataset.root") as caught:
        mnist("here")
    assert f"no MNIST under {tmp_path / 'here/MNIST/raw'}" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("dataset", ["MNIST", "FashionMNIST", "CIFAR10"])
@pytest.mark.parametrize("error", [URLError("no network"), RuntimeError("Error downloading:\nTried a\nTried b")])
def test_a_failed_download_is_one_line(tmp_path, monkeypatch, dataset, error):
    import torchvision

    def fail(self):
        raise error

    monkeypatch.setattr(getattr(torchvision.datasets, dataset), "download", fail)
    settings = {
        "MNIST": MNIST(str(tmp_path), True, 0, None, None),
        "FashionMNIST": FashionMNIST(str(tmp_path), True, 0, None, None),
        "CIFAR10": CIFAR10(str(tmp_path), True, None, None),
    }[dataset]
    with pytest.raises(ConfigError, match=f"dataset.download: {dataset} could not be downloaded") as caught:
        settings.load()
    assert "\n" not in str(caught.value)


def test_a_download_is_read(tmp_path, monkeypatch):
    import torchvision

    monkeypatch.setattr(torchvision.datasets.MNIST, "download", lambda self: write_mnist(tmp_path))
    assert len(mnist(tmp_path, download=True).train) == 60000
    monkeypatch.delattr(torchvision.datasets.MNIST, "download")
    assert len(mnist(tmp_path, download=True).test) == 10000  # there already: not asked again


def test_what_another_process_unpacks_is_waited_for_not_called_damaged(tmp_path, monkeypatch):
    """Its folder is there as soon as it begins."""
    import torchvision

    (tmp_path / "cifar-10-batches-py").mkdir()
    asked = []

    def download(self):
        asked.append(self.train)
        raise RuntimeError("as far as this")

    monkeypatch.setattr(torchvision.datasets.CIFAR10, "download", download)
    with pytest.raises(ConfigError, match=r"CIFAR10 could not be downloaded to .*: as far as this"):
        CIFAR10(str(tmp_path), True, None, None).load()
    assert asked == [True]
    with pytest.raises(ConfigError, match=r"incomplete or damaged; delete this folder and set dataset\.download=true"):
        CIFAR10(str(tmp_path), False, None, None).load()
    assert asked == [True]


def test_a_broken_torchvision_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(ConfigError, match="torchvision builds do not match") as caught:
        mnist(tmp_path, download=True)
    assert "\n" not in str(caught.value)
    write_mnist(tmp_path)
    assert len(mnist(tmp_path, test_size=3).test) == 3  # reading does without it


@pytest.mark.skipif(not (REAL / "MNIST/raw").is_dir(), reason="no MNIST in data/ or $EPSBALL_DATA")
def test_real_mnist():
    raw = REAL / "MNIST/raw"
    content = read_idx(idx_file(raw, "train-images-idx3-ubyte"), (60000, 28, 28)).tobytes()
    sums = hashlib.md5(idx((60000, 28, 28), content)).hexdigest()
    assert sums == "6bbc9ace898e44ae57da46a324031adb"
    loaded = mnist(REAL)
    assert (len(loaded.train), len(loaded.test), loaded.shape) == (60000, 10000, (1, 28, 28))
    assert loaded.train.y[:5].tolist() == [5, 0, 4, 1, 9]
    assert loaded.train.y.bincount()[:3].tolist() == [5923, 6742, 5958]
    assert loaded.classes == tuple("0123456789")
    madry = mnist(REAL, skip=5000, train_size=55000, test_size=10)
    assert torch.equal(madry.train.x, loaded.train.x[5000:])


# --- image folders -------------------------------------------------------------------------------------------------


def write_images(folder, classes=("ant", "bee"), each=3, size=(8, 8), mode="RGB", suffix="png"):
    """`folder/<class>/<i>.<suffix>`, each image one flat colour: 10 * class number + i."""
    for label, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for i in range(each):
            value = 10 * label + i
            Image.new(mode, size, value if mode == "L" else (value,) * 3).save(folder / name / f"{i}.{suffix}")


def image_folder(root, channels=3, image_size=None, train_size=None, test_size=None):
    return ImageFolder(str(root), channels, image_size, train_size, test_size).load()


@pytest.mark.parametrize("test_name", ["test", "val"])
def test_image_folder(tmp_path, test_name):
    write_images(tmp_path / "train", each=6)
    write_images(tmp_path / test_name, suffix="BMP")
    loaded = image_folder(tmp_path)
    assert (loaded.shape, loaded.classes, len(loaded.train), len(loaded.test)) == ((3, 8, 8), ("ant", "bee"), 12, 6)
    values = loaded.train.x[:, 0, 0, 0].long()
    assert torch.equal(values // 10, loaded.train.y) and len(values.unique()) == 12
    assert (loaded.train.x == loaded.train.x[:, :1, :1, :1]).all()
    part = image_folder(tmp_path, train_size=4, test_size=2)
    assert part.train.y.bincount().tolist() == [2, 2] and part.test.y.bincount().tolist() == [1, 1]
    assert torch.equal(part.train.x, loaded.train.x[:4])
    assert not list(tmp_path.rglob(".epsball*"))  # a user's own folder is left alone


def test_hidden_files_and_folders_are_no_images(tmp_path):
    write_images(tmp_path / "train")
    write_images(tmp_path / "test")
    (tmp_path / "train/.cache").mkdir()
    (tmp_path / "train/ant/._0.png").write_bytes(b"what macOS leaves beside 0.png")
    loaded = image_folder(tmp_path)
    assert loaded.classes == ("ant", "bee") and len(loaded.train) == 6


def test_a_file_of_an_image_folder_that_is_not_read_is_named(tmp_path, caplog):
    """Half of somebody's images, in a format or a folder that is not read, would be missed by nobody."""
    write_images(tmp_path / "train")
    write_images(tmp_path / "train/bee/more", classes=("old",))
    write_images(tmp_path / "test")
    (tmp_path / "train/bee/0.webp").write_bytes(b"")
    (tmp_path / "train/.DS_Store").write_bytes(b"")
    assert len(image_folder(tmp_path).train) == 6
    (told,) = caplog.messages
    assert told.startswith(f"dataset.root: not read is {tmp_path}/train/bee/0.webp and 1 more; an image folder is")


@pytest.mark.parametrize("channels", [1, 3])
def test_a_transparent_palette_is_read_as_its_colours(tmp_path, channels):
    write_images(tmp_path / "train")
    write_images(tmp_path / "test")
    colours = Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3))
    palette = colours.quantize(16)
    palette.save(tmp_path / "train/ant/0.png", transparency=bytes(range(16)))
    loaded = image_folder(tmp_path, channels=channels)
    expected = torch.from_numpy(np.array(palette.convert("L" if channels == 1 else "RGB"))).reshape(8, 8, channels)
    assert (loaded.train.x == expected.permute(2, 0, 1)).flatten(1).all(1).sum() == 1


def test_image_folder_resizes_crops_and_converts(tmp_path):
    write_images(tmp_path / "train", size=(12, 8))
    write_images(tmp_path / "test", size=(9, 20), mode="L")
    picture = np.zeros((8, 12, 3), np.uint8)
    picture[:, 2:10] = 200  # only the centre survives the crop
    Image.fromarray(picture).save(tmp_path / "train/ant/0.png")
    loaded = image_folder(tmp_path, channels=1, image_size=8)
    assert loaded.shape == (1, 8, 8)
    assert (loaded.train.x == 200).flatten(1).all(1).sum() == 1
    with pytest.raises(ConfigError, match=r"different shapes .*\(3, 8, 12\) for training"):
        write_images(tmp_path / "train/ant/x", size=(1, 1))  # subfolders of a class are not read
        Image.fromarray(picture).save(tmp_path / "train/ant/0.png")
        image_folder(tmp_path)


def break_images(root, how):
    if how == "no train":
        (root / "train").rename(root / "trian")
    elif how == "no classes":
        (root / "train").rename(root / "x")
        (root / "train").mkdir()
    elif how == "empty class":
        (root / "train/cat").mkdir()
    elif how == "other classes":
        (root / "test/bee").rename(root / "test/wasp")
    elif how == "truncated":
        file = root / "train/bee/1.png"
        file.write_bytes(file.read_bytes()[:40])
    elif how == "text":
        (root / "train/bee/1.png").write_text("no image")
    elif how == "size":
        Image.new("RGB", (8, 9)).save(root / "train/bee/1.png")
    elif how == "16 bit":
        Image.fromarray(np.full((8, 8), 30000, np.uint16)).save(root / "train/bee/1.png")


@pytest.mark.parametrize(
    "how, message",
    [
        ("no train", "dataset.root: no .*/train; an image folder is dataset.root/train/<class>"),
        ("no classes", "/train has no classes; an image folder is"),
        ("empty class", "/train/cat has no images"),
        ("other classes", "same classes; only in one: bee, wasp"),
        ("truncated", "/train/bee/1.png is not a readable image"),
        ("text", "/train/bee/1.png is not a readable image"),
        ("size", r"\.png is \(\d, 8\), .*set dataset.image_size"),
        ("16 bit", "/train/bee/1.png is not a readable image: mode I;16 is not 8 bits"),
    ],
)
def test_broken_image_folders(tmp_path, how, message):
    write_images(tmp_path / "train")
    write_images(tmp_path / "test")
    break_images(tmp_path, how)
    with pytest.raises(ConfigError, match=message) as caught:
        image_folder(tmp_path)
    assert "\n" not in str(caught.value)


# --- CIFAR-10 ------------------------------------------------------------------------------------------------------

CIFAR_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@dataclass(frozen=True)
class Sizes:
    train_size: int | None = None
    test_size: int | None = None


def cifar(folder, **sizes):
    return load_cifar_folder(Sizes(**sizes), folder, counts=(40, 20))


@pytest.fixture
def small_cifar(tmp_path):
    for part, each in (("train", 4), ("test", 2)):
        write_images(tmp_path / "cifar10" / part, CIFAR_CLASSES, each, (32, 32), suffix="jpg")
    return tmp_path / "cifar10"


def test_cifar_folder(small_cifar):
    loaded = cifar(small_cifar)
    assert loaded.origin == f"CIFAR-10 (JPEG), image folder {small_cifar}" and loaded.classes == CIFAR_CLASSES
    assert loaded.name == "cifar10_jpeg"  # in the rows: no published number is compared with these images'
    assert (loaded.shape, len(loaded.train), len(loaded.test)) == ((3, 32, 32), 40, 20)
    part = cifar(small_cifar, train_size=20, test_size=10)
    assert part.train.y.bincount().tolist() == [2] * 10 and part.test.y.bincount().tolist() == [1] * 10
    assert torch.equal(part.train.x, loaded.train.x[:20])
    with pytest.raises(ConfigError, match=r"dataset.test_size is 21, but there are only 20"):
        cifar(small_cifar, test_size=21)


def test_cifar_cache_is_used_grows_and_follows_the_folder(small_cifar, monkeypatch):
    decoded = []
    decode = decode_image
    monkeypatch.setattr(readers, "decode_image", lambda path, *rest: decoded.append(path) or decode(path, *rest))

    def reads(**sizes):
        decoded.clear()
        loaded = cifar(small_cifar, **sizes)
        return len(decoded), loaded

    assert reads(train_size=10, test_size=10)[0] == 20
    assert reads(train_size=10, test_size=5)[0] == 0
    count, whole = reads()
    assert count == 60
    count, again = reads()
    assert count == 0 and again.checksum == whole.checksum and again.test_checksum == whole.test_checksum
    Image.new("RGB", (32, 32), (255, 0, 0)).save(small_cifar / "train/bird/2.jpg")
    count, changed = reads()
    assert count == 40 and changed.checksum != whole.checksum and changed.test_checksum == whole.test_checksum
    cache = small_cifar / ".epsball-cache-train.npz"
    cache.write_bytes(cache.read_bytes()[:1000])
    count, repaired = reads()
    assert count == 40 and repaired.checksum == changed.checksum and reads()[0] == 0
    assert not list(small_cifar.glob("*.part"))


def test_an_unwritable_cifar_folder_is_read_without_a_cache(small_cifar, monkeypatch):
    def refuse(*_args, **_kwargs):
        raise PermissionError("read-only")

    monkeypatch.setattr(readers, "write_whole", refuse)
    assert len(cifar(small_cifar).train) == 40
    assert not list(small_cifar.glob(".epsball*"))


def test_incomplete_and_missing_cifar(small_cifar, tmp_path):
    (small_cifar / "train/bird/2.jpg").unlink()
    with pytest.raises(ConfigError, match=r"has 39 \+ 20 images in 10 classes, CIFAR-10 is 40 \+ 20"):
        cifar(small_cifar)
    with pytest.raises(ConfigError, match="CIFAR-10 is 50000"):
        CIFAR10(str(tmp_path), False, None, None).load()
    with pytest.raises(ConfigError, match=r"no CIFAR-10 under .*cifar-10-batches-py or .*cifar10; get it with"):
        CIFAR10(str(tmp_path / "none"), False, None, None).load()


def write_batch(file, keys):
    import pickle

    file.write_bytes(pickle.dumps(keys))
    return [file.name, hashlib.md5(file.read_bytes()).hexdigest()]


def test_cifar_batches_come_before_the_folder(small_cifar, tmp_path, monkeypatch):
    from torchvision.datasets import CIFAR10 as Torchvision

    batches = tmp_path / "cifar-10-batches-py"
    batches.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (10, 3072), np.uint8)
    train = write_batch(batches / "data_batch_1", {"data": pixels, "labels": list(range(10))})
    test = write_batch(batches / "test_batch", {"data": pixels[:4], "labels": [3, 2, 1, 0]})
    meta = write_batch(batches / "batches.meta", {"label_names": list(CIFAR_CLASSES)})
    monkeypatch.setattr(Torchvision, "train_list", [train])
    monkeypatch.setattr(Torchvision, "test_list", [test])
    monkeypatch.setattr(Torchvision, "meta", {"filename": meta[0], "key": "label_names", "md5": meta[1]})
    loaded = CIFAR10(str(tmp_path), False, None, 3).load()
    assert loaded.origin == f"CIFAR-10, {batches}" and loaded.classes == CIFAR_CLASSES
    assert np.array_equal(loaded.train.x.numpy(), pixels.reshape(10, 3, 32, 32)) and loaded.test.y.tolist() == [3, 2, 1]
    (batches / "test_batch").write_bytes(b"changed")
    with pytest.raises(ConfigError, match=r"cifar-10-batches-py is incomplete or damaged; delete this folder and set"):
        CIFAR10(str(tmp_path), False, None, None).load()


# --- a data set of one's own ---------------------------------------------------------------------------------------

PIXELS, LABELS = np.zeros((6, 1, 4, 5), np.uint8), np.arange(6) % 3


@pytest.mark.parametrize(
    "arrays, message",
    [
        ((PIXELS / 255, LABELS), r"images should be uint8 \(N, C, H, W\), one at least, are float64 \(6, 1, 4, 5\)"),
        ((PIXELS.astype(np.int16), LABELS), r"images should be uint8 .*, are int16 \(6, 1, 4, 5\)"),
        ((PIXELS[:, 0], LABELS), r"images should be uint8 .*, are uint8 \(6, 4, 5\)"),
        ((PIXELS[:0], LABELS[:0]), r"images should be uint8 .*, are uint8 \(0, 1, 4, 5\)"),
        ((PIXELS, LABELS + 0.5), r"labels should be 6 integers, one for each image, are float64 \(6,\)"),
        ((PIXELS, LABELS[:5]), r"labels should be 6 integers, one for each image, are int64 \(5,\)"),
        ((PIXELS, LABELS[:, None]), r"labels should be 6 integers, one for each image, are int64 \(6, 1\)"),
        ((PIXELS, LABELS + 1), "labels should be 0 to 2, the classes, are 1 to 3"),
        ((PIXELS, LABELS - 1), "labels should be 0 to 2, the classes, are -1 to 1"),
    ],
)
def test_arrays_that_are_no_images_with_labels_are_refused(arrays, message):
    right, settings = (PIXELS, LABELS), Digits(None, None)
    assert assemble(settings, "mine", "mine", ("a", "b", "c"), right, right).shape == (1, 4, 5)
    for part, train, test in (("training", arrays, right), ("test", right, arrays)):
        with pytest.raises(ConfigError, match=f"^mine: its {part} {message}"):
            assemble(settings, "mine", "mine", ("a", "b", "c"), train, test)


# --- npz -----------------------------------------------------------------------------------------------------------


def write_npz(root, **changes):
    """train.npz and test.npz of 6 images 4x5x3; `changes` replace x or y in test.npz."""
    arrays = {"x": np.arange(6 * 60, dtype=np.uint16).reshape(6, 4, 5, 3).astype(np.uint8), "y": np.arange(6) % 3}
    np.savez(root / "train.npz", **arrays)
    np.savez(root / "test.npz", **{k: v for k, v in (arrays | changes).items() if v is not None})
    return arrays


def test_npz(tmp_path):
    arrays = write_npz(tmp_path)
    loaded = Npz(str(tmp_path), None, 2).load()
    assert (loaded.shape, loaded.classes, len(loaded.test)) == ((3, 4, 5), ("0", "1", "2"), 2)
    assert np.array_equal(loaded.train.x.numpy(), arrays["x"].transpose(0, 3, 1, 2))
    assert loaded.train.x.is_contiguous() and loaded.train.y.tolist() == [0, 1, 2, 0, 1, 2]


def test_first_images_that_lack_classes_of_the_file_are_told(tmp_path, caplog):
    write_npz(tmp_path, y=np.array([0, 0, 1, 1, 2, 2]))
    assert Npz(str(tmp_path), 3, 4).load().test.y.tolist() == [0, 0, 1, 1]
    there = f"the first 4 images of {tmp_path / 'test.npz'} are of 2 of its 3 classes"
    assert caplog.messages == [f"dataset.test_size: {there}: shuffle a file that is sorted by class"]
    caplog.clear()
    Npz(str(tmp_path), 3, 5).load()
    Npz(str(tmp_path), None, None).load()
    assert not caplog.messages


def test_npz_grey(tmp_path):
    for name in ("train", "test"):
        np.savez(tmp_path / f"{name}.npz", x=np.ones((2, 4, 5), np.uint8), y=np.array([0, 1], np.uint8))
    assert Npz(str(tmp_path), None, None).load().shape == (1, 4, 5)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"x": np.zeros((6, 4, 5, 3), np.float32)}, "test.npz: x is float32"),
        ({"x": np.zeros((6, 3, 4, 5), np.uint8)}, "should be uint8 NHWC or NHW"),
        ({"x": np.zeros((0, 4, 5, 3), np.uint8)}, "should be uint8 NHWC"),
        ({"x": np.zeros((6, 4, 4, 3), np.uint8)}, "different shapes"),
        ({"x": None}, "test.npz cannot be read"),
        ({"y": np.zeros(5, np.int64)}, r"test.npz: y is int64 \(5,\)"),
        ({"y": np.zeros(6)}, "test.npz: y is float64"),
        ({"y": np.array([0, 1, 2, 0, 1, -1])}, "test.npz has the label -1"),
        ({"y": np.array([0, 1, 2, 0, 1, 3])}, "test.npz has label 3, but the training labels end at 2"),
        ({"y": np.array([None] * 6)}, "test.npz cannot be read"),
    ],
)
def test_wrong_npz(tmp_path, changes, message):
    write_npz(tmp_path, **changes)
    with pytest.raises(ConfigError, match=message) as caught:
        Npz(str(tmp_path), None, None).load()
    assert "\n" not in str(caught.value)


def test_missing_and_damaged_npz(tmp_path):
    with pytest.raises(ConfigError, match=r"no .*/train.npz; dataset.root/train.npz and test.npz should each hold x"):
        Npz(str(tmp_path), None, None).load()
    write_npz(tmp_path)
    content = bytearray((tmp_path / "test.npz").read_bytes())
    for damaged in (content[:200], b"text", content[:150] + b"\xff" + content[151:400] + b"\xff" + content[401:]):
        (tmp_path / "test.npz").write_bytes(damaged)
        with pytest.raises(ConfigError, match=r"test.npz cannot be read"):
            Npz(str(tmp_path), None, None).load()


def test_the_order_of_files_is_that_of_their_names_whatever_the_disk_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(tmp_path, each=6)
    named, scandir = sorted(tmp_path.rglob("*.png")), os.scandir
    expected = [str(named[i]) for i in stratified(np.repeat([0, 1], 6))]
    for back in (False, True):

        def listed(path, back=back):
            return nullcontext(sorted(scandir(path), key=lambda entry: entry.name, reverse=back))

        monkeypatch.setattr(os, "scandir", listed)
        assert [file.path for file in readers.list_folder(tmp_path)[1]] == expected


def test_images_are_resized_by_bilinear_interpolation(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (16, 24, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "0.png")
    middle = Image.fromarray(pixels).resize((8, 8), Image.Resampling.BILINEAR, box=(4, 0, 20, 16))
    assert np.array_equal(decode_image(str(tmp_path / "0.png"), 3, 8), np.asarray(middle).transpose(2, 0, 1))


@pytest.mark.parametrize(("suffix", "name"), [("jpg", "cifar10_jpeg"), ("JPEG", "cifar10_jpeg"), ("png", "cifar10")])
def test_cifar10_of_png_files_is_cifar10(tmp_path: Path, suffix: str, name: str) -> None:
    for part, each in (("train", 4), ("test", 2)):
        write_images(tmp_path / part, CIFAR_CLASSES, each, (32, 32), suffix=suffix)
    assert cifar(tmp_path).name == name


def test_cifar10_of_another_size_is_refused(tmp_path: Path) -> None:
    for part, each in (("train", 4), ("test", 2)):
        write_images(tmp_path / part, CIFAR_CLASSES, each, (28, 28))
    with pytest.raises(ConfigError, match="the images should be 32x32"):
        cifar(tmp_path)


@pytest.mark.parametrize("name", ["mnist", "cifar10", "image_folder", "npz", "imagenet"])
def test_a_folder_that_cannot_be_looked_into_is_one_line(compose: Callable[..., Any], name: str) -> None:
    """As one without permission is, which root, who may run these tests, never meets."""
    folder = "x" * 300
    with pytest.raises(ConfigError, match=r"^dataset\.root: .*x{300}.* cannot be read: File name too long$"):
        load_data(compose(f"dataset={name}")["dataset"] | {"root": folder}, "dataset", BuildCache())
