"""One's own paths and device, in a file that is in no repository."""

from collections.abc import Callable
from pathlib import Path

import pytest
from commands import Ended, run_jsons, tiny_line
from configs import Compose
from conftest import TINY

from epsball.experiment.prepare import prepare_experiment

PACKAGE = "# @package _global_\n"


@pytest.fixture
def written(tmp_path: Path) -> Callable[[str, str], str]:
    """`written(name, text)`: write a local file beside the repository's; the word that lets Hydra find it."""

    def write(name: str, text: str) -> str:
        folder = tmp_path / "own" / "local"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.yaml").write_text(text)
        return f"hydra.searchpath=[file://{folder.parent}]"

    return write


def test_an_empty_variable_is_none(main: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EPSBALL_LOCAL", "")
    ended = main("seeds=0")
    assert ended.code == 2 and ended.err == "error: seeds should be at least 1, is 0\n"


def test_it_comes_above_group_files_and_below_papers_and_the_command_line(
    compose: Compose, written: Callable[[str, str], str], tmp_path: Path
) -> None:
    found = written("mine", f"{PACKAGE}outputs: /mine\ndata: /images\nworkers: 3\n")
    (tmp_path / "own" / "paper").mkdir()
    (tmp_path / "own" / "paper" / "probe.yaml").write_text(f"{PACKAGE}workers: 2\n")
    own = compose(found, "local=mine", "dataset=imagenet", "models=none")
    assert (own["outputs"], own["workers"], own["dataset"]["root"]) == ("/mine", 3, "/images/imagenet")
    assert compose(found, "local=mine", "paper=probe")["workers"] == 2
    assert compose(found, "local=mine", "paper=probe", "workers=1", "outputs=x")["outputs"] == "x"
    assert compose(found)["outputs"] == "outputs"  # not chosen


def test_the_environment_chooses_it_and_no_word_need_be_typed(
    compose: Compose, written: Callable[[str, str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = written("default", f"{PACKAGE}outputs: /mine\n")
    assert compose(found)["outputs"] == "outputs"  # tests choose none
    monkeypatch.delenv("EPSBALL_LOCAL")
    assert compose(found, "seed=0")["outputs"] == "/mine"
    assert compose(found, "seed=0", "local=none")["outputs"] == "outputs"


def test_it_changes_no_identity(compose: Compose, written: Callable[[str, str], str]) -> None:
    text = "outputs: /mine\ndata: /images\nthreads: 2\nbatch_size: 7\nworkers: 2\ncheckpoint_seconds: 1\n"
    own = prepare_experiment(compose(*TINY, written("mine", PACKAGE + text), "local=mine"))
    plain = prepare_experiment(compose(*TINY))
    assert own.config["batch_size"] == 7 and own.config_hash == plain.config_hash
    assert own.specs["target"].key == plain.specs["target"].key


def test_a_run_with_one(main: Callable[..., Ended], written: Callable[[str, str], str], tmp_path: Path) -> None:
    found = written("mine", f"{PACKAGE}batch_size: 7\n")
    ended = main(*tiny_line(found, "local=mine"))
    assert ended.code == 0, ended.err
    (directory,) = run_jsons(tmp_path / "outputs")
    assert "batch_size: 7\n" in (directory / ".hydra" / "config.yaml").read_text()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (f"{PACKAGE}outputs: x\nseed: 3\ntrainer: {{epochs: 1}}\n", "mine.yaml sets seed, trainer: it may set outputs"),
        ("outputs: x\n", "mine.yaml should begin with the line: # @package _global_"),
        (None, "local=mine does not exist: write conf/local/mine.yaml, or say local=none"),
    ],
    ids=["results", "package", "absent"],
)
def test_what_is_wrong_with_it_is_told_in_one_line(
    main: Callable[..., Ended], written: Callable[[str, str], str], tmp_path: Path, text: str | None, told: str
) -> None:
    found = [] if text is None else [written("mine", text)]
    ended = main(*tiny_line(*found, "local=mine"))
    (line,) = ended.err.splitlines()
    assert ended.code == 2 and told in line
    assert not (tmp_path / "outputs").exists()
