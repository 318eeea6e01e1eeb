"""Rows that the user gives: read back as they were written, counted by identity, and refused by file and line."""

from collections.abc import Mapping, Sequence
from math import nan
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from cells import Row, clean, fgsm, seen

from epsball.build import ConfigError
from epsball.output.tables import write_results
from epsball.results.given import read_given
from epsball.results.intervals import with_intervals
from epsball.results.paired import packed_bits


def known(row: Row, identity: str, measurement: str = "transfer_matrix") -> Row:
    """A row as a run writes it."""
    models = {"source_model": f"model {row['source']}", "target_model": f"model {row['target']}"}
    return {**row, "measurement": measurement, **models, "identity": identity}


A = known(clean("A", 0.25), "aaa", "clean")
A_ON_B = known(fgsm("A", "B", 0.5, transfer_rate_top1=0.2, transfer_n=40, max_perturbation=0.3), "bbb")
LABEL = ("digits", "transfer_matrix", "B", "A", "fgsm", 0.3, 0)


def written(folder: Path, *rows: Row, name: str = "results.csv") -> str:
    """Write rows as a run does, with mistakes.csv beside them; the file."""
    folder.mkdir(exist_ok=True)
    write_results(with_intervals(pd.DataFrame(list(rows))), folder / name)
    return str(folder / name)


def refusal(*paths: str) -> str:
    """The one line that the user is told."""
    with pytest.raises(ConfigError) as caught:
        read_given(paths)
    message = str(caught.value)
    assert "\n" not in message and message.startswith("rows: ")
    return message


# ---- what is read


def test_rows_are_found_by_their_identity_with_their_numbers_alone(tmp_path: Path) -> None:
    """Labels and what a run works out for itself are left out: the run that asks has its own."""
    given = read_given([written(tmp_path, A, A_ON_B)])
    (found,) = given.find("bbb") or []
    numbers = {"error_top1": 0.5, "transfer_rate_top1": 0.2, "transfer_n": 40, "max_perturbation": 0.3}
    assert found == {"attack": "fgsm", "eps": 0.3, "n": 100, **numbers}
    assert given.find("aaa") == [{"attack": "clean", "eps": 0.0, "n": 100, "error_top1": 0.25}]
    assert given.find("ccc") is None and given.asked == {"aaa", "bbb", "ccc"}


def test_a_mean_of_shares_is_no_whole_number_of_images(tmp_path: Path) -> None:
    shares = known(clean("A", nan, loss_outlier_share=0.0125, negative_gradient_share=0.333), "aaa")
    (found,) = read_given([written(tmp_path, shares)]).find("aaa") or []
    assert (found["loss_outlier_share"], found["negative_gradient_share"]) == (0.0125, 0.333)
    above = known(clean("A", nan, loss_outlier_share=1.25), "aaa")
    assert refusal(written(tmp_path, above)).endswith("loss_outlier_share should be a share of 100.0 images, is 1.25")


def test_a_model_of_a_grid_is_the_same_model_where_it_stands_in_none(tmp_path: Path) -> None:
    """Its rows of one part have the grid's value and those of another have not: they are the same numbers."""
    in_grid = {**known(fgsm("wide_width_1", "B", 0.5), "bbb"), "width": 1.0}
    plain = known(fgsm("A", "B", 0.5), "bbb")
    for rows in ((plain, in_grid), (in_grid, plain)):
        (found,) = read_given([written(tmp_path, *rows)]).find("bbb") or []
        assert "width" not in found and found["error_top1"] == 0.5


def curve(attack: str, *losses: float) -> list[Row]:
    """Rows of one identity without an error, as loss_paths has them."""
    row = {"source": "A", "target": "A", "attack": attack, "eps": 0.3, "dataset": "digits", "seed": 0, "n": 100}
    return [known({**row, "step": i, "path_loss": loss}, "ccc", "loss_paths") for i, loss in enumerate(losses)]


@pytest.mark.parametrize("mixed", [False, True])
def test_rows_of_one_identity_under_two_names_of_its_attack_count_once(tmp_path: Path, mixed: bool) -> None:
    """rows.csv of two parts that call it differently. Those that differ in more are all meant: windows of a surface."""
    one, other = curve("pgd", 1.0, 2.0, 2.5), curve("madry_pgd", 1.0, 2.0, 2.5)
    rows = [row for pair in zip(one, other, strict=True) for row in pair] if mixed else [*one, *other]
    found = read_given([written(tmp_path, *rows)]).find("ccc") or []
    assert [row["path_loss"] for row in found] == [1.0, 2.0, 2.5] and {row["attack"] for row in found} == {"pgd"}
    windows = [*curve("whole", 1.0, 2.0), *curve("zoom", 1.0, 1.1)]
    found = read_given([written(tmp_path, *windows)]).find("ccc") or []
    assert [(row["attack"], row["path_loss"]) for row in found] == [
        *(("whole", 1.0), ("whole", 2.0)),
        *(("zoom", 1.0), ("zoom", 1.1)),
    ]


def test_a_file_that_a_spreadsheet_wrote_again_is_read(tmp_path: Path) -> None:
    """With a byte order mark, and carriage returns at the ends of lines."""
    path = Path(written(tmp_path, A, A_ON_B))
    before = read_given([str(path)])
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert read_given([str(path)]) == before


def test_without_files_there_are_no_rows() -> None:
    given = read_given([])
    assert given.find("aaa") is None and not given.rows
    given.check_labels([LABEL])


def test_the_images_mistaken_lie_beside_the_rate_that_counts_them(tmp_path: Path) -> None:
    wrong, fifth = np.arange(100) % 3 == 0, np.arange(100) % 6 == 0
    row = known(seen(clean("A", 0), wrong), "aaa", "clean")
    both = {**row, "error_top5": 0.17, "mistakes_top5": packed_bits(fifth), "identity": "bbb", "seed": 1}
    given = read_given([written(tmp_path, row, both, known(clean("B", 0.5), "ccc", "clean"))])
    (one,), (other,), (without,) = (given.find(name) or [] for name in ("aaa", "bbb", "ccc"))
    assert one["mistakes_top1"] == packed_bits(wrong) == other["mistakes_top1"] and "mistakes_top5" not in one
    assert other["mistakes_top5"] == packed_bits(fifth) and not any("mistakes" in name for name in without)


def test_bits_of_other_rows_and_of_rates_that_a_row_lacks_do_not_count(tmp_path: Path) -> None:
    """A histogram has the identity of its whole, and no error."""
    path = written(tmp_path, known(clean("A", nan, loss_mean=2.0, loss_sd=1.0), "aaa", "clean"))
    (tmp_path / "mistakes.csv").write_text(f"identity,mistakes_top1\naaa,{packed_bits([True] * 8)}\nzzz,damaged\n")
    assert read_given([path]).find("aaa") == [
        {"attack": "clean", "eps": 0.0, "n": 100, "loss_mean": 2.0, "loss_sd": 1.0}
    ]


def test_rows_of_one_identity_stay_together(tmp_path: Path) -> None:
    """A surface's points, a histogram's bins; a row that stands twice, by another name, counts once."""
    points = [known(clean("A", nan, loss_mean=2.0, loss_sd=1.0, e1=e1), "aaa", "surface") for e1 in (0.0, 0.1)]
    again = {**points[0], "measurement": "another", "seed": 3}
    zoom = {**points[0], "attack": "surface_zoom"}  # another window of the surface, with the same loss
    given = read_given([written(tmp_path, *points, again, zoom)])
    assert [(row["attack"], row["e1"]) for row in given.find("aaa") or []] == [
        *(("clean", 0.0), ("clean", 0.1), ("surface_zoom", 0.0))
    ]


def test_rows_of_older_runs_say_how_long_they_took(tmp_path: Path) -> None:
    """That a cell took longer the second time is no other number."""
    rows = pd.read_csv(written(tmp_path, A, {**A, "measurement": "again"}))
    rows.assign(seconds=[1.5, 9.0]).to_csv(tmp_path / "older.csv", index=False)
    (found,) = read_given([str(tmp_path / "older.csv")]).find("aaa") or []
    assert (found["error_top1"], found["seconds"]) == (0.25, 1.5)


def test_a_row_measured_twice_may_differ_in_its_last_bits(tmp_path: Path) -> None:
    """Two parts of a run without reuse; the first counts. More than last bits are a damaged file."""
    first = {**A, "loss_mean": 0.5, "loss_sd": 1.0}
    (found,) = (
        read_given([written(tmp_path, first, {**first, "target": "B", "loss_mean": 0.5000001})]).find("aaa") or []
    )
    assert found["loss_mean"] == 0.5
    for other in ({"loss_mean": 0.51}, {"loss_mean": 0.5001}, {"error_top1": 0.26}, {"loss_mean": nan}):
        assert refusal(written(tmp_path, first, {**first, **other})).endswith(
            "another line of its identity has other numbers"
        )


def test_the_first_file_that_has_an_identity_counts(tmp_path: Path) -> None:
    first = written(tmp_path / "one", known(seen(clean("A", 0), [True] * 10 + [False] * 90), "aaa", "clean"))
    second = written(tmp_path / "two", known(seen(clean("A", 0), [True] * 20 + [False] * 80), "aaa", "clean"), A_ON_B)
    for paths, error in (((first, second), 0.1), ((second, first), 0.2)):
        given = read_given(paths)
        (found,) = given.find("aaa") or []
        assert found["error_top1"] == error and given.find("bbb")
        assert found["mistakes_top1"] == packed_bits([True] * round(100 * error) + [False] * round(100 - 100 * error))
        assert given.differing_files() == [(paths[1], paths[0], 1)]


def test_a_file_contradicts_an_earlier_one_where_the_run_asks(tmp_path: Path) -> None:
    """Last bits, a column that an older file lacks, the images mistaken: no contradiction; nor of a file itself."""
    row = {**known(clean("A", 0.25), "aaa", "clean"), "loss_mean": 0.5, "loss_sd": 1.0}
    first = written(tmp_path / "first", row, A_ON_B)
    alike = [
        *({**row, "loss_mean": 0.5000001}, known(clean("A", 0.25), "aaa", "clean")),
        known(seen(clean("A", 0), [True] * 25 + [False] * 75), "aaa", "clean"),
    ]
    for number, other in enumerate(alike):
        given = read_given([first, written(tmp_path / f"{number}", other), first])
        given.find("aaa")
        assert given.differing_files() == []
    other = written(tmp_path / "other", {**row, "error_top1": 0.26}, {**A_ON_B, "error_top1": 0.51})
    given = read_given([first, other])
    assert given.differing_files() == []
    for asked, identity in enumerate(("aaa", "bbb"), 1):
        given.find(identity)
        assert given.differing_files() == [(other, first, asked)]


def test_a_file_with_other_points_of_a_surface_contradicts_it(tmp_path: Path) -> None:
    points = [known(clean("A", nan, loss_mean=2.0, loss_sd=1.0, e1=e1), "aaa", "surface") for e1 in (0.0, 0.1)]
    given = read_given([written(tmp_path / "all", *points), written(tmp_path / "fewer", points[0])])
    assert len(given.find("aaa") or []) == 2 and [count for *_, count in given.differing_files()] == [1]


def test_the_images_mistaken_come_from_whichever_file_has_them(tmp_path: Path) -> None:
    """A file of old rows without them does not make a check unpaired, whatever the order; bits of another count, of a
    machine where another image was mistaken, are not of this row."""
    row = known(seen(clean("A", 0), [True] * 10 + [False] * 90), "aaa", "clean")
    old = written(tmp_path / "old", {name: value for name, value in row.items() if name != "mistakes_top1"})
    new, more = (
        written(tmp_path / f"{k}", known(seen(clean("A", 0), [True] * k + [False] * (100 - k)), "aaa", "clean"))
        for k in (10, 11)
    )
    for paths in ((old, new), (new, old), (old, more, new), (old, old, new, more)):
        (found,) = read_given(paths).find("aaa") or []
        assert found["error_top1"] == 0.1 and found["mistakes_top1"] == row["mistakes_top1"]
    (found,) = read_given([old, more]).find("aaa") or []
    assert found["error_top1"] == 0.1 and "mistakes_top1" not in found


@pytest.mark.parametrize("identity", ["123456789012", "12e456789012", "000000000001", "1_000", "nan", "inf", "None"])
def test_a_fingerprint_that_looks_like_a_number_stays_a_text(identity: str, tmp_path: Path) -> None:
    """Twelve hexadecimal digits are a number one time in 200; 12e456789012 would be infinite."""
    row = {
        **known(seen(clean("A", 0), [True, False] * 8), identity, "clean"),
        "source_model": identity,
        "attack": identity,
    }
    given = read_given([written(tmp_path, row)])
    (found,) = given.find(identity) or []
    assert list(given.rows) == [identity] and found["mistakes_top1"] and found["attack"] == identity


def test_what_a_run_writes_it_can_be_given(tmp_path: Path) -> None:
    """Every rate to its last digit: 1/3 of 39 images is 13."""
    rows = [known(clean("A", 13 / 39, 39), "aaa", "clean"), known(fgsm("A", "B", 1 / 7, 7, seed=2), "bbb")]
    given = read_given([written(tmp_path, *rows)])
    assert [(given.find(name) or [{}])[0]["error_top1"] for name in ("aaa", "bbb")] == [13 / 39, 1 / 7]


# ---- what is refused

HEAD = "dataset,seed,measurement,source,target,attack,eps,n,error_top1,transfer_rate_top1,transfer_n"
HEAD += ",source_model,target_model,identity"
LINE = "digits,0,transfer_matrix,B,A,fgsm,0.3,100,0.5,0.2,40,model B,model A,aaa"


def changed(**fields: str) -> str:
    """LINE with other fields."""
    return ",".join(fields.get(name, text) for name, text in zip(HEAD.split(","), LINE.split(","), strict=True))


DAMAGED: dict[str, tuple[str, Sequence[str]]] = {  # a file, and what is said of it
    "empty": ("", ["results.csv lacks the columns dataset, seed, source", "give a results.csv of this version"]),
    "an older version": (
        "dataset,seed,source\n",
        ["results.csv lacks the columns target, attack, eps, n, source_model"],
    ),
    "no header": (f"{LINE}\n", ["results.csv lacks the columns dataset"]),
    "cut off": (f"{HEAD}\n{LINE}\n{LINE}", ["results.csv is cut off: its last line has no end"]),
    "cut off in a line": (f"{HEAD}\n{LINE}\n{LINE[:20]}", ["results.csv is cut off"]),
    "a field too few": (
        f"{HEAD}\n{LINE}\n{LINE.rpartition(',')[0]}\n",
        ["line 3 is damaged: it has 13 fields, the header 14"],
    ),
    "a field too many": (f"{HEAD}\n{LINE},more\n", ["line 2 is damaged: it has 15 fields, the header 14"]),
    "an empty line": (f"{HEAD}\n\n{LINE}\n", ["line 2 is damaged: it has 0 fields"]),
    "an open quote": (
        f"{HEAD}\n{LINE}\n{changed(identity=chr(34) + 'aaa')}\n{LINE}\n",
        ["line 4 is damaged: unexpected end"],
    ),
    "text after a quote": (f"{HEAD}\n{changed(identity=chr(34) + 'a' + chr(34) + 'b')}\n", ["line 2 is damaged: "]),
    "no identity": (f"{HEAD}\n{changed(identity='')}\n", ["line 2 is damaged: it lacks identity"]),
    "no n": (f"{HEAD}\n{changed(n='')}\n", ["line 2 is damaged: it lacks n"]),
    "half an image": (f"{HEAD}\n{changed(n='100.5')}\n", ["line 2 is damaged: seed and n should be whole numbers"]),
    "fewer than none": (f"{HEAD}\n{changed(n='-1')}\n", ["line 2 is damaged: seed and n should be whole numbers"]),
    "a seed without number": (f"{HEAD}\n{changed(seed='first')}\n", ["line 2 is damaged: seed and n should be whole"]),
    "half a seed": (f"{HEAD}\n{changed(seed='0.5')}\n", ["line 2 is damaged: seed and n should be whole numbers"]),
    "a seed that is nan": (
        f"{HEAD}\n{changed(seed='nan')}\n",
        ["line 2 is damaged: seed and n should be whole numbers"],
    ),
    "endless images": (f"{HEAD}\n{changed(n='inf')}\n", ["line 2 is damaged: seed and n should be whole numbers"]),
    "an eps that is none": (f"{HEAD}\n{changed(eps='8/255')}\n", ["line 2 is damaged: ", "and eps a number"]),
    "an eps that is nan": (f"{HEAD}\n{changed(eps='nan')}\n", ["line 2 is damaged: ", "and eps a number"]),
    "an error that is none": (f"{HEAD}\n{changed(error_top1='half')}\n", ["error_top1 should be a number, is 'half'"]),
    "an error that is nan": (f"{HEAD}\n{changed(error_top1='nan')}\n", ["error_top1 should be a number, is nan"]),
    "per cent": (f"{HEAD}\n{changed(error_top1='50')}\n", ["error_top1 should be a share of 100.0 images, is 50.0"]),
    "below 0": (f"{HEAD}\n{changed(error_top1='-0.5')}\n", ["error_top1 should be a share of 100.0 images, is -0.5"]),
    "a share of an image": (
        f"{HEAD}\n{changed(error_top1='0.123')}\n",
        ["should be a share of 100.0 images, is 0.123"],
    ),
    "a share of other trials": (
        f"{HEAD}\n{changed(transfer_rate_top1='0.21')}\n",
        ["transfer_rate_top1 should be a share of 40.0 images, is 0.21"],
    ),
    "two errors": (
        f"{HEAD}\n{LINE}\n{changed(error_top1='0.6')}\n",
        ["line 3 is damaged: another line of its identity"],
    ),
    "two numbers of images": (
        f"{HEAD}\n{LINE}\n{changed(n='10')}\n",
        ["line 3 is damaged: another line of its identity"],
    ),
}


@pytest.mark.parametrize(("text", "parts"), DAMAGED.values(), ids=list(DAMAGED))
def test_a_damaged_file_is_refused_by_file_and_line(text: str, parts: Sequence[str], tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    path.write_text(text)
    message = refusal(str(path))
    assert str(path) in message and [part for part in parts if part not in message] == []


def test_the_line_is_refused_wherever_it_stands(tmp_path: Path) -> None:
    """LINE itself is whole, and a file of the others before it does not excuse it."""
    whole, other = tmp_path / "whole.csv", tmp_path / "damaged.csv"
    whole.write_text(f"{HEAD}\n{LINE}\n")
    other.write_text(f"{HEAD}\n{changed(error_top1='0.6')}\n{changed(error_top1='0.61', n='50')}\n")
    assert read_given([str(whole)]).find("aaa")
    assert f"{other} line 3 is damaged" in refusal(str(whole), str(other))


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    missing = tmp_path / "missing.csv"
    assert f"{missing} cannot be read" in refusal(str(missing)) and "No such file" in refusal(str(missing))
    assert f"{tmp_path} cannot be read" in refusal(str(tmp_path))
    binary = tmp_path / "binary.csv"
    binary.write_bytes(b"\xff\xfe\x00")
    assert f"{binary} cannot be read" in refusal(str(binary))


WRONG = np.arange(100) < 50
BITS: dict[str, tuple[str, str]] = {  # mistakes.csv, and what is said of it
    "too few": (packed_bits(WRONG[:50]), "mistakes.csv of {path} line 2 is damaged: "),
    "another error": (packed_bits(np.arange(100) < 49), "it has 49 of 100 images, error_top1 is 0.5"),
    "no bits": ("garbage", "mistakes.csv of {path} line 2 is damaged: 'garbage' is no packed bits"),
}


@pytest.mark.parametrize(("text", "message"), BITS.values(), ids=list(BITS))
def test_bits_that_do_not_fit_the_error_are_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    path.write_text(f"{HEAD}\n{LINE}\n")
    (tmp_path / "mistakes.csv").write_text(f"identity,mistakes_top1\naaa,{text}\n")
    assert message.format(path=path) in refusal(str(path))


def test_a_damaged_file_of_bits_is_refused_by_its_own_name(tmp_path: Path) -> None:
    path, beside = tmp_path / "results.csv", tmp_path / "mistakes.csv"
    path.write_text(f"{HEAD}\n{LINE}\n")
    for text, message in {
        "identity,mistakes_top1\naaa": f"{beside} is cut off",
        "identity,mistakes_top1\naaa\n": f"{beside} line 2 is damaged: it has 1 fields, the header 2",
        "mistakes_top1\nabc\n": f"{beside} lacks the columns identity",
    }.items():
        beside.write_text(text)
        assert message in refusal(str(path))


# ---- labels


def test_a_row_of_an_expected_label_that_no_identity_asks_for_is_refused(tmp_path: Path) -> None:
    """It was measured on another model, or by other settings: a run that went on would measure it anew, in silence."""
    path = written(tmp_path, A, A_ON_B)
    given = read_given([path])
    given.find("other")
    with pytest.raises(ConfigError) as caught:
        given.check_labels([LABEL])
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(
        f"rows: {path} line 3 (digits, seed 0, fgsm at eps 0.3 from B on A) was measured on other"
    )
    with pytest.raises(ConfigError, match=r"line 2 \(digits, seed 0, A clean\) was measured on other models"):
        given.check_labels([("digits", "clean", "A", "A", "clean", 0.0, 0)])


OTHERS: Mapping[str, tuple[int, object]] = {
    **{"dataset": (0, "mnist"), "measurement": (1, "worst_case"), "source": (2, "A"), "target": (3, "B")},
    **{"attack": (4, "pgd"), "eps": (5, 0.1), "seed": (6, 1)},
}


@pytest.mark.parametrize(("place", "value"), OTHERS.values(), ids=list(OTHERS))
def test_rows_of_other_labels_are_of_other_runs(place: int, value: object, tmp_path: Path) -> None:
    given = read_given([written(tmp_path, A_ON_B)])
    label = list(LABEL)
    label[place] = value
    given.check_labels([tuple(label)])


def test_a_row_that_was_asked_for_has_the_right_label(tmp_path: Path) -> None:
    """Of several rows of a label, one is enough: the others are of other settings of the same name."""
    given = read_given([written(tmp_path / "one", A_ON_B), written(tmp_path / "two", {**A_ON_B, "identity": "other"})])
    given.find("other")
    given.check_labels([LABEL])
