"""The cache of an image folder follows the files that it was made of."""

import os
from pathlib import Path

import numpy as np
from PIL import Image

from epsball.data.readers import list_folder, read_cached


def write_image(path: Path, grey: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), (grey, grey, grey)).save(path)


def greys(folder: Path) -> list[int]:
    """Return the grey of each image in the folder, in the order of their names, through its cache."""
    _, files = list_folder(folder)
    x, _ = read_cached(folder.parent / "cache.npz", files, None)
    return [int(x[i].mean()) for i in np.argsort([file.path for file in files])]


def test_a_file_of_equal_size_that_is_replaced_is_read_anew(tmp_path: Path) -> None:
    first, second = tmp_path / "train" / "a" / "0.bmp", tmp_path / "train" / "b" / "1.bmp"
    write_image(first, 10)
    write_image(second, 20)
    assert greys(tmp_path / "train") == [10, 20]
    size, modified = first.stat().st_size, first.stat().st_mtime_ns
    write_image(first, 30)
    assert first.stat().st_size == size
    os.utime(first, ns=(modified, modified + 1_000_000))  # a millisecond later
    assert greys(tmp_path / "train") == [30, 20]


def test_the_cache_is_read_while_the_files_stay(tmp_path: Path) -> None:
    """Shown by a file whose bytes change under the same size and time: the cache does not look at them."""
    image = tmp_path / "train" / "a" / "0.bmp"
    write_image(image, 10)
    assert greys(tmp_path / "train") == [10]
    modified = image.stat().st_mtime_ns
    write_image(image, 30)
    os.utime(image, ns=(modified, modified))
    assert greys(tmp_path / "train") == [10]
