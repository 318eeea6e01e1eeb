"""A user's own files, right and wrong, which tests name from the folder that they lie in."""

from pathlib import Path

import numpy as np
from PIL import Image

GLOBAL = "# @package _global_\n"
TABLE = (
    'tables: {t: {title: T, unit: percent, best: none, rows: {A: target}, columns: {e: "error({row})"}, paper: %s}}\n'
)
PAPERS = {
    "mine": GLOBAL + "experiment: mine\n",
    "no_package": "experiment: mine\nseed: 3\n",
    "empty": "",
    "a_list": "- experiment\n- seed\n",
    "no_yaml": GLOBAL + "experiment: {x: [\n",
    "duplicate": GLOBAL + "experiment: x\nexperiment: y\n",
    "tabs": GLOBAL + "experiment: x\n\tseed: 3\n",
    "misspelt": GLOBAL + "experimnt: x\n",
    "override_first": GLOBAL + "defaults:\n  - override /dataset: mnist\n  - /model@models.B: mnist_b\n",
    "no_group": GLOBAL + "defaults:\n  - /modle@models.B: mnist_b\n",
    "no_option": GLOBAL + "defaults:\n  - /model@models.B: mnist_bb\n",
    "comma": GLOBAL + TABLE % '{A: ["1,2"]}',
    "too_many": GLOBAL + TABLE % "{A: [1, 2]}",
    "beyond": GLOBAL + TABLE % "{A: [103]}",
    "numbered": GLOBAL + "suite: {3: {name: noise, eps: 0.1}}\n",
    "dashed": GLOBAL + "suite: {a-b: {name: noise, eps: 0.1, distribution: sign}}\n",
    "adds_fgsm": GLOBAL + "defaults:\n  - /attack@suite.fgsm: fgsm\n  - override /suite: none\n",
    "adds_to_default": GLOBAL + "defaults:\n  - /attack@suite.fgsm: fgsm\n",
    "claims_listed": GLOBAL + "claims:\n  - error(target) < 0.5\n",
    "optimizer_listed": GLOBAL + "trainer: {optimizer: [adam]}\n",
    "model_listed": GLOBAL + "defaults:\n  - /model@models.B: mnist_b\nmodels: {B: [mnist_b]}\n",
    "parts_grouped": GLOBAL + "parts: {demo: true}\n",
    "null_row": GLOBAL + TABLE.replace("A: target", "null: target") % "null",
    "null_key": GLOBAL + "null: 3\n",
    "unclosed": GLOBAL + "seed: ${seed\n",
    "overrides_alone": "defaults:\n  - override /models: none\n",
    "other_package": "# @package global\ndefaults:\n  - override /models: none\n",
    "no_slash": GLOBAL + "defaults:\n  - model@models.B: mnist_b\n",
    "no_base": GLOBAL + "defaults:\n  - bass\n",
    "equals_sign": GLOBAL + "defaults:\n  - /model@models.B=mnist_b\n",
    "split_check": GLOBAL + "claims: {c: {says: x, paper: y, checks: [error(target | target, fgsm) < 0.5]}}\n",
}


def write_own_files(folder: Path) -> None:
    """Write conf/paper/*.yaml, data sets of 12 x 12 arrays and of 16 x 16 images, and damaged ones, below `folder`."""
    (folder / "conf" / "paper").mkdir(parents=True)
    for name, text in PAPERS.items():
        (folder / "conf" / "paper" / f"{name}.yaml").write_text(text)
    (folder / "conf" / "arch").mkdir()
    (folder / "conf" / "arch" / "listed.yaml").write_text("defaults: [mnist_a, _self_]\nactivation: [relu]\n")
    (folder / "conf" / "arch" / "itself.yaml").write_text("defaults: [itself, _self_]\n")
    (folder / "conf_of_known_names" / "attack").mkdir(parents=True)
    (folder / "conf_of_known_names" / "attack" / "fgsm.yaml").write_text("defaults: [fgsm, _self_]\neps: 0.05\n")
    x, y = np.arange(60 * 144).reshape(60, 12, 12).astype(np.uint8), np.arange(60) % 3
    arrays = {
        **{"npz": (x, y), "one_class": (x, y * 0), "gaps": (x, np.where(y == 1, 10**6, 0)), "negative": (x, y - 1)},
        **{
            "none": (x[:0], y[:0]),
            "floats": (x / 255, y),
            "short": (x, y[:5]),
            "rgba": (np.zeros((60, 12, 12, 4), np.uint8), y),
        },
    }
    for name, (images, labels) in arrays.items():
        (folder / name).mkdir()
        for part in ("train", "test"):
            np.savez(folder / name / f"{part}.npz", x=images, y=labels)
    (folder / "text").mkdir()
    (folder / "text" / "train.npz").write_text("no arrays")
    (folder / "not_a_folder").write_text("")
    write_images(folder / "images", {"cat": 12, "dog": 12})
    write_images(folder / "one_folder", {"cat": 3})
    write_images(folder / "dangling", {"cat": 3, "dog": 3})
    (folder / "dangling" / "train" / "cat" / "gone.png").symlink_to(folder / "nowhere.png")
    write_images(folder / "damaged", {"cat": 3, "dog": 3})
    (folder / "damaged" / "train" / "cat" / "0.png").write_text("no image")


def write_npz(folder: Path, **images: np.ndarray) -> None:
    """Write train.npz and test.npz of 12 images of 8 x 8 in three classes: random ones, but for those given."""
    folder.mkdir(parents=True)
    for name, x in (random_images() | images).items():
        np.savez(folder / f"{name}.npz", x=x, y=np.arange(12) % 3)


def random_images() -> dict[str, np.ndarray]:
    """Return 12 training and 12 test images, the same ones every time."""
    generator = np.random.default_rng(0)
    return {name: generator.integers(0, 256, (12, 8, 8), dtype=np.uint8) for name in ("train", "test")}


def changed(x: np.ndarray) -> np.ndarray:
    """Return images of which one differs in one bit."""
    other = x.copy()
    other[0, 0, 0] ^= 1
    return other


def write_images(root: Path, classes: dict[str, int]) -> None:
    """Write so many images of 16 x 16 of each class, for training and for test."""
    for part in ("train", "test"):
        for shade, (name, number) in enumerate(classes.items()):
            (root / part / name).mkdir(parents=True)
            for i in range(number):
                pixels = np.full((16, 16, 3), 100 * shade + i, np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{i}.png")
