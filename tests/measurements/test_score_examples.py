"""Adversarial images of a file: what is read and refused, the errors worked out by hand, and statements about them."""

import json
import logging
import math
import pickle
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import TINY
from linear import CountingModel, linear, seeded
from squares import EPS, WEIGHTS, assert_same, cells, errors, example, images, losses, make_setup, whole

from epsball.build import ConfigError
from epsball.cli.main import main as run_main
from epsball.data.datasets import checksum
from epsball.data.examples import Examples, challenge_bytes, read_examples
from epsball.data.images import Data, Split, to_unit
from epsball.experiment.prepare import prepare_experiment
from epsball.measurements.measurement import Measurement, Rows, Setup
from epsball.measurements.score_examples import ScoreExamples
from epsball.results.paired import packed_bits, unpacked_bits

Config = dict[str, Any]
Array = np.ndarray[Any, np.dtype[Any]]
Measure = Callable[[Measurement, Setup], Rows]


def data_of(test: Split, origin: str = "made up") -> Data:
    return Data("made", test, test, tuple("abc"), origin, checksum(test), checksum(test))


def random_split(count: int, *shape: int) -> Split:
    x = torch.randint(0, 256, (count, *shape), generator=seeded(3), dtype=torch.uint8)
    return Split(x, torch.arange(count) % 3)


GREY, COLOUR = data_of(random_split(6, 1, 4, 5)), data_of(random_split(6, 3, 4, 5))


def saved(folder: Path, array: Array, name: str = "attack.npy") -> str:
    np.save(folder / name, array, allow_pickle=False)
    return str(folder / name)


def flat(data: Data, dtype: Any = np.float32) -> Array:
    """The test images as the MNIST challenge has them."""
    return to_unit(data.test.x).numpy().reshape(len(data.test), -1).astype(dtype)


def nhwc(data: Data, dtype: Any = np.float32) -> Array:
    """The test images as the CIFAR-10 challenge has them."""
    return data.test.x.numpy().transpose(0, 2, 3, 1).astype(dtype)


def refused(file: str, data: Data, pixel_max: int = 1, eps: float = 0.1) -> str:
    with pytest.raises(ValueError) as caught:
        read_examples(file, pixel_max, eps, data)
    message = str(caught.value)
    assert "\n" not in message and file in message
    return message.replace(file, "FILE")


# ---- what is read


@pytest.mark.parametrize("layout", [(20,), (4, 5), (4, 5, 1), (1, 4, 5)])
def test_grey_images_of_any_layout_are_the_same_images(layout: tuple[int, ...], tmp_path: Path) -> None:
    found = read_examples(saved(tmp_path, flat(GREY).reshape(6, *layout)), 1, 0.0, GREY)
    assert torch.equal(found.x, to_unit(GREY.test.x)) and (found.largest, found.in_file) == (0.0, 6)
    assert found.digest == read_examples(saved(tmp_path, flat(GREY)), 1, 0.0, GREY).digest


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "uint8", "int64", ">f4", ">i2"])
@pytest.mark.parametrize("first", [True, False])
def test_colour_images_of_any_layout_and_type_are_the_same_images(first: bool, dtype: str, tmp_path: Path) -> None:
    array = nhwc(COLOUR, dtype)
    found = read_examples(saved(tmp_path, array.transpose(0, 3, 1, 2) if first else array), 255, 0.0, COLOUR)
    assert torch.equal(found.x, to_unit(COLOUR.test.x)) and found.x.is_contiguous()


def test_a_layout_that_could_be_either_is_the_challenges(tmp_path: Path) -> None:
    data = data_of(random_split(5, 3, 3, 3))
    found = read_examples(saved(tmp_path, nhwc(data)), 255, 0.0, data)
    assert torch.equal(found.x, to_unit(data.test.x)) and not torch.equal(found.x, found.x.permute(0, 3, 1, 2))


@pytest.mark.parametrize("channels", [1, 3])
def test_every_float32_that_is_written_is_read_again_bit_for_bit(channels: int, tmp_path: Path) -> None:
    """In [0, 255] float32 could not hold one in 250 of them."""
    test = random_split(40, channels, 32, 32)
    x = (to_unit(test.x) + 0.1 * (2 * torch.rand(test.x.shape, generator=seeded()) - 1)).clamp(0, 1)
    (tmp_path / "attack.npy").write_bytes(challenge_bytes(x))
    found = read_examples(str(tmp_path / "attack.npy"), 1 if channels == 1 else 255, 0.1, data_of(test))
    assert torch.equal(found.x, x) and found.largest == float((x - to_unit(test.x)).abs().max())
    array = np.load(tmp_path / "attack.npy")
    assert array.shape == ((40, 1024) if channels == 1 else (40, 32, 32, 3)) and array.max() <= (1, 255)[channels > 1]
    if channels > 1:
        rounded = torch.from_numpy(
            (array.astype(np.float32) / np.float64(255)).astype(np.float32).transpose(0, 3, 1, 2)
        )
        assert not torch.equal(rounded, x) and float((rounded - x).abs().max()) <= 2**-24


def test_the_first_images_of_a_longer_file_are_read(tmp_path: Path) -> None:
    few = data_of(Split(GREY.test.x[:4], GREY.test.y[:4]))
    array = flat(GREY)
    array[4:] = math.nan  # what is left out is not looked at
    found = read_examples(saved(tmp_path, array), 1, 0.0, few)
    assert torch.equal(found.x, to_unit(few.test.x)) and found.in_file == 6


def test_the_digest_is_of_the_images(tmp_path: Path) -> None:
    array = flat(GREY)
    digests = [read_examples(saved(tmp_path, one, "a.npy"), 1, 0.1, GREY).digest for one in (array, array * 0.99)]
    assert len(set(digests)) == 2 and all(len(digest) == 12 for digest in digests)
    assert read_examples(saved(tmp_path, array, "b.npy"), 1, 0.1, GREY).digest == digests[0]


def test_errors_under_two_files_of_one_name_are_of_other_examples(tmp_path: Path) -> None:
    """Two parts of a run cannot be asked about both; the attacks of a config have no part in it."""
    array = flat(GREY)
    (tmp_path / "more").mkdir()
    first, other = (
        ScoreExamples(saved(folder, one, "a.npy"), 0.1, 1).read(GREY).made_of("a", 0.1, [])
        for folder, one in ((tmp_path, array), (tmp_path / "more", array * 0.99))
    )
    assert first != other


# ---- the ball and the range


@pytest.mark.parametrize(("data", "pixel_max"), [(GREY, 1), (COLOUR, 255)])
def test_the_ball_is_the_challenges(data: Data, pixel_max: int, tmp_path: Path) -> None:
    """Their tolerance is 0.0001 in the file's units; ours at least 1e-6 of the range."""
    array = (flat(data) if pixel_max == 1 else nhwc(data)).astype(np.float64)
    reach, tolerance = 0.1 * pixel_max, max(1e-4, 1e-6 * pixel_max)
    down = np.where(array >= pixel_max / 2, -1, 1)
    found = read_examples(saved(tmp_path, array + down * (reach + 0.9 * tolerance)), pixel_max, 0.1, data)
    assert found.largest == pytest.approx(0.1 + 0.9 * tolerance / pixel_max, abs=1e-7)
    far = array + down * reach
    far[4].flat[7] += down[4].flat[7] * 1.5 * tolerance
    message = refused(saved(tmp_path, far), data, pixel_max)
    distance = 0.1 + 1.5 * tolerance / pixel_max
    assert message == (f"image 4 of FILE lies {distance:.6f} from its test image, eps is 0.100000 (1 of 6 lie outside)")


def test_images_in_another_order_are_refused(tmp_path: Path) -> None:
    message = refused(saved(tmp_path, flat(GREY)[::-1]), GREY)
    assert message.startswith("image 0 of FILE lies 0.") and message.endswith("(6 of 6 lie outside)")


def test_what_may_be_the_reason_is_said(tmp_path: Path) -> None:
    half = np.where(flat(GREY) > 0.5, flat(GREY) - 0.1003, flat(GREY) + 0.1003).astype(np.float16)
    assert "; float16 rounds pixels by up to 0.00024: save float32" in refused(saved(tmp_path, half), GREY)
    jpeg = replace(COLOUR, name="cifar10_jpeg")
    moved = saved(tmp_path, 255 - nhwc(COLOUR))
    message = refused(moved, jpeg, 255)
    assert "; the images here are CIFAR-10 (JPEG), of other pixels and in another order than CIFAR-10's own" in message
    assert "JPEG" not in refused(moved, COLOUR, 255)


def test_what_the_tolerance_lets_out_of_the_range_is_clamped(tmp_path: Path) -> None:
    data = data_of(Split(torch.tensor([[[[0, 255]]]], dtype=torch.uint8), torch.tensor([0])))
    found = read_examples(saved(tmp_path, np.array([[-5e-5, 1 + 5e-5]])), 1, 0.0, data)
    assert found.x.flatten().tolist() == [0.0, 1.0]
    assert refused(saved(tmp_path, np.array([[-2e-4, 1.0]])), data) == (
        "FILE has pixels from -0.0002 to 1, should have them in [0, 1]"
    )


def test_a_file_of_the_other_scale_is_told_which_would_be_right(tmp_path: Path) -> None:
    low, high = int(GREY.test.x.min()), int(GREY.test.x.max())
    bytes_ = saved(tmp_path, GREY.test.x.numpy(), "bytes.npy")
    assert refused(bytes_, GREY) == f"FILE has pixels from {low} to {high}: pixel_max should be 255, is 1"
    assert torch.equal(read_examples(bytes_, 255, 0.0, GREY).x, to_unit(GREY.test.x))
    unit = saved(tmp_path, to_unit(COLOUR.test.x).numpy(), "unit.npy")
    assert refused(unit, COLOUR, 255).endswith(": pixel_max should be 1, is 255")
    assert torch.equal(read_examples(unit, 1, 0.0, COLOUR).x, to_unit(COLOUR.test.x))
    for pixel_max in (1, 255):
        centred = saved(tmp_path, 2 * flat(GREY) - 1)
        assert refused(centred, GREY, pixel_max).endswith(f", should have them in [0, {pixel_max}]")


# ---- bad files, one line each


def bad_number(value: float) -> Callable[[Path], str]:
    def write(folder: Path) -> str:
        array = flat(GREY)
        array[3, 2] = value
        return saved(folder, array)

    return write


def written(content: bytes) -> Callable[[Path], str]:
    def write(folder: Path) -> str:
        (folder / "attack.npy").write_bytes(content)
        return str(folder / "attack.npy")

    return write


def promising(folder: Path) -> str:
    """A header that promises 480 TB."""
    with (folder / "attack.npy").open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (6 * 10**12, 20)}
        np.lib.format.write_array_header_1_0(file, header)
        file.write(bytes(480))
    return str(folder / "attack.npy")


def npz(folder: Path) -> str:
    np.savez(folder / "attack.npz", x=flat(GREY), y=np.arange(6))
    return str(folder / "attack.npz")


def objects(folder: Path) -> str:
    np.save(folder / "attack.npy", np.array([[Planted()]], dtype=object), allow_pickle=True)
    return str(folder / "attack.npy")


class Planted:
    """What unpickling this would do."""

    def __reduce__(self) -> tuple[Any, ...]:
        return sys.exit, ("unpickled",)


WHOLE = challenge_bytes(to_unit(GREY.test.x))
NO_NPY = "FILE cannot be read as a .npy of numbers ("
KINDS = "should have float16, float32, float64 or integers"
SHAPES = "should have (N, 20), (N, 4, 5), (N, 4, 5, 1) or (N, 1, 4, 5)"
BAD: dict[str, tuple[Callable[[Path], str], str]] = {
    "missing": (lambda folder: str(folder / "attack.npy"), "there is no file FILE"),
    "a folder": (lambda folder: str(folder), "there is no file FILE"),
    "empty": (written(b""), NO_NPY),
    "text": (written(b"0.1, 0.2\n"), NO_NPY),
    "truncated": (written(WHOLE[:-9]), NO_NPY),
    "truncated header": (written(WHOLE[:50]), NO_NPY),
    "damaged header": (written(WHOLE[:10] + b"\xff((" + WHOLE[13:]), NO_NPY),
    "promising more than it holds": (promising, NO_NPY),
    "npz": (npz, NO_NPY),
    "pickle": (written(pickle.dumps(Planted())), NO_NPY),
    "objects": (objects, NO_NPY),
    "texts": (lambda f: saved(f, np.full((6, 20), "0.1")), f"FILE has values of type <U3, {KINDS}"),
    "complex": (lambda f: saved(f, flat(GREY, complex)), f"FILE has values of type complex128, {KINDS}"),
    "booleans": (lambda f: saved(f, flat(GREY) > 0.5), f"FILE has values of type bool, {KINDS}"),
    "NaN": (bad_number(math.nan), "image 3 of FILE has pixels that are no finite numbers"),
    "infinity": (bad_number(-math.inf), "image 3 of FILE has pixels that are no finite numbers"),
    "fewer": (
        lambda f: saved(f, flat(GREY)[:5]),
        "FILE has 5 images, the run 6 test images: give one for each, or set dataset.test_size=5",
    ),
    "one number": (lambda f: saved(f, np.array(0.5)), f"FILE has the shape (), {SHAPES}"),
    "other pixels": (lambda f: saved(f, flat(GREY)[:, 1:]), f"FILE has the shape (6, 19), {SHAPES}"),
    "other way round": (lambda f: saved(f, flat(GREY).reshape(6, 5, 4)), f"FILE has the shape (6, 5, 4), {SHAPES}"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_gets_one_line(name: str, tmp_path: Path) -> None:
    write, expected = BAD[name]
    assert refused(write(tmp_path), GREY).startswith(expected)


def test_the_shapes_of_colour_images(tmp_path: Path) -> None:
    message = refused(saved(tmp_path, nhwc(COLOUR).reshape(6, -1)), COLOUR, 255)
    assert message == "FILE has the shape (6, 60), should have (N, 4, 5, 3) or (N, 3, 4, 5)"


# ---- the measurement, on models whose errors are worked out by hand


def measurement_of(x: torch.Tensor, file: str = "attack.npy") -> ScoreExamples:
    largest = float((x - whole(images())[0]).abs().max())
    return ScoreExamples(file, EPS, None, Examples(x, largest, len(x), "e" * 12))


def test_the_rows_have_the_errors_worked_by_hand(measured: Measure, tmp_path: Path) -> None:
    setup = make_setup(tmp_path)
    x, y = whole(setup.test)
    x_adv = example("A", x, y)
    rows = measured(measurement_of(x_adv), setup)["results"]
    assert cells(rows) == [("clean", "A", "A"), ("clean", "B", "B"), ("attack", "file", "A"), ("attack", "file", "B")]
    for row, clean in zip(rows[2:], rows[:2], strict=True):
        wrong = errors(row["target"], x_adv, y)
        assert row["error_top1"] == float(wrong.double().mean()) != clean["error_top1"]
        assert row["mistakes_top1"] == packed_bits(wrong.numpy())
        assert row["loss_mean"] == pytest.approx(float(losses(row["target"], x_adv, y).mean()), rel=1e-5)
        assert row["clean_error_top1"] == clean["error_top1"] and (row["n"], row["eps"]) == (50, EPS)
        assert row["max_perturbation"] == pytest.approx(EPS, abs=1e-6) and math.isnan(row["error_top5"])
        assert not any(name.startswith("transfer") for name in row)
        assert (row["source_model"], row["target_model"]) == ("e" * 12, setup.keys[row["target"]])


def test_a_row_is_kept_by_the_images_and_the_target_not_by_the_path(measured: Measure, tmp_path: Path) -> None:
    models = {name: CountingModel(linear(weight)).eval() for name, weight in WEIGHTS.items()}
    setup = make_setup(tmp_path, models=models)
    mine = measurement_of(example("A", *whole(setup.test)))
    first = measured(mine, setup)["results"]
    for model in models.values():
        model.images = 0
    again = measured(replace(mine, file="elsewhere/other.npy"), setup)["results"]
    assert {row["attack"] for row in again} == {"clean", "other"} and not any(m.images for m in models.values())
    assert_same(again, first, but=["attack"])
    assert mine.examples is not None
    for other in (
        replace(mine, examples=replace(mine.examples, digest="f" * 12)),
        replace(mine, eps=0.3),  # which rows carry: one file of rows may have both
    ):
        assert other.workload(setup).models == {"A", "B"}
    assert mine.workload(replace(setup, test_checksum="60 squares")).models == {"A", "B"}


def test_what_no_name_may_have_is_an_underscore() -> None:
    names = {"a/my-attack.npy": "my_attack", "A-fgsm-eps0.3-1a.npy": "A_fgsm_eps0_3_1a", "2pgd.npy": "_2pgd"}
    assert {file: ScoreExamples(file, EPS, None).attack for file in names} == names


def test_the_scale_is_the_challenges_where_none_is_given(tmp_path: Path) -> None:
    for data, array in ((GREY, flat(GREY)), (COLOUR, nhwc(COLOUR))):
        found = ScoreExamples(saved(tmp_path, array), 0.0, None).read(data)
        assert found.examples is not None and torch.equal(found.examples.x, to_unit(data.test.x))
    with pytest.raises(ValueError, match=r"^file: .*pixel_max should be 255, is 1$"):
        ScoreExamples(saved(tmp_path, nhwc(COLOUR)), 0.0, 1).read(COLOUR)


# ---- in a config


@pytest.fixture
def attack(tiny: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Array:
    """What lies in attack.npy: the test images, grey by 0.2."""
    monkeypatch.chdir(tmp_path)
    array = 0.8 * flat(prepare_experiment(tiny()).data) + np.float32(0.1)
    np.save("attack.npy", array)
    return array


SCORED = ("measurement=score_examples", "measurement.file=attack.npy")


def test_a_config_reads_its_file_before_anything_is_trained(tiny: Callable[..., Config], attack: Array) -> None:
    experiment = prepare_experiment(tiny(*SCORED))
    (measurement,) = experiment.measurements.values()
    assert isinstance(measurement, ScoreExamples) and measurement.examples is not None
    assert np.array_equal(measurement.examples.x.flatten(1).numpy(), attack)
    assert [tuple(cell) for cell in measurement.error_cells(experiment)] == [("file", "target", "attack", 0.3)]


def test_what_is_wrong_is_said_where_the_config_names_it(tiny: Callable[..., Config], attack: Array) -> None:
    def message(*words: str) -> str:
        with pytest.raises(ConfigError) as caught:
            prepare_experiment(tiny(*words))
        return str(caught.value)

    assert message("measurement=score_examples").startswith("measurement.file should name a .npy")
    assert message(SCORED[0], "measurement.file=no.npy") == "measurement.file: there is no file no.npy"
    assert message(*SCORED, "measurement.eps=0.01").startswith("measurement.file: image 0 of attack.npy lies 0.1")
    beside = ("+measurement@measurements.mine=score_examples", "measurements.mine.file=no.npy")
    assert message(*beside) == "measurements.mine.file: there is no file no.npy"
    Path("attack.npy").rename("clean.npy")
    assert message(SCORED[0], "measurement.file=clean.npy").startswith("measurement.file: clean.npy is called like")
    assert message(*SCORED, "measurement.eps=2").startswith("measurement.eps should be in [0, 1]")
    config = tiny(SCORED[0], "measurement.file=attack.npy")
    config["models"] = {"file": config["models"]["target"]}
    with pytest.raises(ConfigError, match="call the model file something else"):
        prepare_experiment(config)


def claim(check: str) -> str:
    return f"+claims.one={{says: x, paper: y, checks: ['{check}']}}"


def test_statements_may_ask_about_the_file(
    tiny: Callable[..., Config], attack: Array, caplog: pytest.LogCaptureFixture
) -> None:
    prepare_experiment(tiny(*SCORED, claim("error(target | file, attack) > error(target)")))
    assert not caplog.messages
    for wrong in ("error(target | fill, attack) > 0", "error(file) > 0"):
        with pytest.raises(ConfigError, match=r"claims\.one asks about 'fil[el]'"):
            prepare_experiment(tiny(*SCORED, claim(wrong)))
    with pytest.raises(ConfigError, match=r"claims\.one asks about 'file'"):
        prepare_experiment(tiny(claim("error(target | file, fgsm) > 0")))


@pytest.fixture
def keep_logging() -> Iterator[None]:
    """What main() sets for its process is put back."""
    root, handlers = logging.getLogger(), {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
    level, loggers = root.level, list(root.handlers)
    yield
    root.handlers[:] = loggers
    root.setLevel(level)
    for signum, handler in handlers.items():
        signal.signal(signum, handler)


def run_line(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "")
    monkeypatch.setattr(sys, "argv", ["run.py", *TINY, *words, "outputs=outputs"])
    return run_main()


@pytest.mark.usefixtures("attack", "keep_logging")
def test_what_was_exported_is_scored_with_the_very_same_mistakes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From one command line to another, on the model it was crafted on and on one of another seed."""
    assert run_line(monkeypatch, "measurement.export=true", "hydra.run.dir=crafted") == 0
    (file,) = Path("outputs/examples").iterdir()
    asked = claim("error(target | file, again) >= 0")
    Path("again.npy").write_bytes(file.read_bytes())
    words = (SCORED[0], "measurement.file=again.npy")
    assert run_line(monkeypatch, *words, asked, "hydra.run.dir=scored") == 0
    out = capsys.readouterr().out
    assert "from file" in out and "*" not in out.rpartition("from file")[2].partition("error in per cent")[0]

    def read(folder: str) -> tuple[pd.Series, pd.Series]:
        rows, bits = (pd.read_csv(Path(folder) / name) for name in ("results.csv", "mistakes.csv"))
        row = rows[rows["attack"] != "clean"].iloc[0]
        return row, bits.set_index("identity").loc[row["identity"]]

    (crafted, own), (scored, again) = read("crafted"), read("scored")
    for number in ("error_top1", "error_top5", "loss_mean", "loss_sd", "max_perturbation", "n", "clean_error_top1"):
        assert crafted[number] == scored[number], number
    assert (own == again).all() and unpacked_bits(own["mistakes_top1"], 40).any()
    assert (scored["source"], scored["attack"], scored["measurement"]) == ("file", "again", "score_examples")
    assert math.isnan(scored["transfer_rate_top1"]) and scored["source_model"] != crafted["source_model"]
    assert json.loads(Path("scored/run.json").read_text())["cells"][1][1:] == [
        *("score_examples", "file", "target", "again", 0.3)
    ]
    assert run_line(monkeypatch, *words, "seed=1", "hydra.run.dir=other") == 0
    other, _ = read("other")
    assert other["source_model"] == scored["source_model"] and other["target_model"] != scored["target_model"]
    Path("again.npy").write_bytes(file.read_bytes()[:-1])
    capsys.readouterr()
    assert run_line(monkeypatch, *words, "hydra.run.dir=bad") == 2
    err = capsys.readouterr().err
    assert err.startswith("error: measurement.file: again.npy cannot be read as a .npy") and err.count("\n") == 1
    assert not list(Path("bad").rglob("*"))


@pytest.mark.usefixtures("attack", "keep_logging")
def test_more_images_than_the_run_has_are_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert run_line(monkeypatch, *SCORED, "dataset.test_size=10", "hydra.run.dir=few") == 0
    assert "attack.npy has 40 images: the first 10 are scored" in Path("few/run.log").read_text()


def test_the_one_array_of_an_npz_is_taken(tmp_path: Path) -> None:
    file = str(tmp_path / "attack.npz")
    expected = read_examples(saved(tmp_path, flat(GREY)), 1, 0.1, GREY)
    for arrays in ({"anything": flat(GREY)}, {"x_adv": flat(GREY), "y": np.arange(6)}):
        np.savez(file, **arrays)
        assert torch.equal(read_examples(file, 1, 0.1, GREY).x, expected.x)
    np.savez(file, x=flat(GREY), y=np.arange(6))
    with pytest.raises(ValueError, match=r"attack\.npz .*an \.npz of x, y: one alone, or one called x_adv, is taken\)"):
        read_examples(file, 1, 0.1, GREY)
