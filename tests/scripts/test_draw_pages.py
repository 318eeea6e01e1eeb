"""scripts/draw_pages.py: where a table and a claim's line are put, and what is refused."""

import re
import shutil
import sys
from pathlib import Path

import draw_pages
import pytest

NAME = "kariyappa/log_odds/images_30000"
TABLE = "|     | FGSM |\n| --- | ---: |\n| A   |  1.0 |\n| B   |  2.0 |\n"
OLDER = f"{TABLE.replace('1.0', '3.0')}\n{TABLE.replace('1.0', '4.0')}"
PAGE = f"# A page\n\n{OLDER}\n| c-1 | Once | **open** | 1, 2 |\n| c-10 | Ten | open | 3 |\n"


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of a folder of docs/results, which the script takes for the original."""
    folder = tmp_path / NAME
    shutil.copytree(draw_pages.RESULTS / NAME, folder)
    monkeypatch.setattr(draw_pages, "RESULTS", tmp_path)
    return folder


def test_a_table_is_put_where_one_of_its_header_and_names_stands_first() -> None:
    assert draw_pages.with_tables(PAGE, [TABLE]) == PAGE.replace("3.0", "1.0")
    assert draw_pages.with_tables(PAGE + TABLE, [TABLE]) == PAGE + TABLE


def test_tables_of_the_same_header_and_names_are_put_where_most_of_their_words_stand() -> None:
    first, second = OLDER.split("\n\n")
    first += "\n"
    changed = second.replace("2.0", "5.0")
    assert draw_pages.with_tables(PAGE, [changed, first]) == PAGE.replace(second, changed)
    both = [changed, first.replace("2.0", "6.0")]
    drawn = draw_pages.with_tables(PAGE, both)
    assert drawn == PAGE.replace(second, both[0]).replace(first, both[1])
    assert draw_pages.with_tables(drawn, both) == drawn
    with pytest.raises(ValueError, match="several tables that this one might take the place of"):
        draw_pages.with_tables(PAGE, [TABLE, TABLE.replace("1.0", "7.0")])


@pytest.mark.parametrize("other", [TABLE.replace("FGSM", "PGD "), TABLE.replace("| B ", "| C ")])
def test_a_table_without_a_place_is_refused(other: str) -> None:
    with pytest.raises(
        ValueError, match=re.escape(f"README.md should have a table with this header and these lines:\n{other}")
    ):
        draw_pages.with_tables(PAGE, [other])


def test_a_claim_is_put_in_its_line_and_stays_bold() -> None:
    page = draw_pages.with_claim(PAGE, "c-1", draw_pages.ClaimLine("Twice", "refuted", "5, 6"))
    assert page == PAGE.replace("| Once | **open** | 1, 2 |", "| Twice | **refuted** | 5, 6 |")
    with pytest.raises(ValueError, match=r"should have a line \| c-2 \| Two \| open \| 7 \|"):
        draw_pages.with_claim(PAGE, "c-2", draw_pages.ClaimLine("Two", "open", "7"))


def test_what_was_changed_is_drawn_again(
    copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = (
        ("README.md", "| T_div     | **98.4**", "| T_div     | 1.4     "),
        ("README.md", "points of clean accuracy (3) | confirmed |", "points of clean accuracy (3) | refuted |"),
        ("claims.csv", "kariyappa-3,confirmed", "kariyappa-3,refuted"),
        ("comparison.csv", "T_base,Clean,", "T_base,Unclean,"),
    )
    for name, was, now in changes:
        text = (copy / name).read_text()
        assert was in text, was
        (copy / name).write_text(text.replace(was, now))
    monkeypatch.setattr(sys, "argv", ["draw_pages.py", NAME])
    draw_pages.main()
    assert capsys.readouterr().out.split() == [
        f"{copy / file}" for file in ("comparison.csv", "claims.csv", "README.md")
    ]
    for name, was, now in changes:
        text = (copy / name).read_text()
        assert was in text and now not in text
    draw_pages.main()
    assert capsys.readouterr().out == ""


def test_a_page_without_a_place_for_a_claim_is_refused(
    copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = copy / "README.md"
    page.write_text(page.read_text().replace("| kariyappa-3 |", "| another |"))
    monkeypatch.setattr(sys, "argv", ["draw_pages.py", NAME])
    with pytest.raises(SystemExit, match="2"):
        draw_pages.main()
    assert (
        f"error: {NAME}: README.md should have a line | kariyappa-3 | Conv-3, diversity training costs"
        in capsys.readouterr().err
    )
