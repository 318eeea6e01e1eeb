"""What README.md and the pages under docs/ show is what the commands take, and their links lead somewhere."""

import re
import shlex
from math import prod
from pathlib import Path
from textwrap import dedent

import pytest
import yaml
from configs import Compose
from conftest import ROOT

from epsball.cli.parts import adding, where_they_fit
from epsball.experiment.prepare import prepare_experiment

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
ELSEWHERE = ("-m", "again=", "--config-dir")  # words of commands that need a sweeper, a run or files of one's own
OURS = re.compile(r"--config-dir (docs/results/\S+)")


def commands() -> list[str]:
    """The words after run.py of each command that stands as code, in docs/results of those that run configs there."""
    found = []
    for page in PAGES:
        for line in page.read_text().replace("\\\n", " ").splitlines():
            if line.startswith("    ") and "run.py" in line and not line.lstrip().startswith("#"):
                words = line.partition("run.py")[2]
                if "results" not in page.parts or OURS.search(words):
                    found.append(OURS.sub(rf"hydra.searchpath=[file://{ROOT}/\1]", words))
    return [words for words in found if not any(word.startswith(ELSEWHERE) for word in words.split())]


@pytest.mark.parametrize("words", commands())
def test_a_documented_command_composes(compose: Compose, words: str) -> None:
    assert compose(*adding(shlex.split(words, comments=True)))["experiment"]


def launched() -> list[tuple[int, str]]:
    """The number of processes, and the words after run.py, of each documented command of torchrun."""
    text = "\n".join(page.read_text().replace("\\\n", " ") for page in PAGES)
    found = re.findall(r"^    torchrun (.*?) run\.py (.*)$", text, re.MULTILINE)
    return [(prod(map(int, re.findall(r"--n(?:nodes|proc-per-node)=(\d+)", own))), words) for own, words in found]


@pytest.mark.parametrize(("processes", "words"), launched())
def test_a_documented_number_of_processes_can_share_every_batch(compose: Compose, processes: int, words: str) -> None:
    typed = shlex.split(words, comments=True)
    parts = compose(*adding(typed))["parts"]
    kept = [word for word in typed if not word.startswith("paper=")]
    own, _ = where_they_fit(parts, [[*kept, f"paper={part}"] for part in parts])
    for config in [compose(*of_part) for of_part in own or [typed]]:
        trainers = [model["trainer"] for model in config["models"].values() if model.get("trainer")]
        for trainer in trainers:
            assert trainer["batch_size"] % processes == 0
            assert (trainer["objective"].get("count") or 0) % processes == 0, (config["experiment"], trainer["name"])


def test_commands_were_found() -> None:
    assert len(launched()) > 3
    assert len(commands()) > 20


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_a_page_leads_to_a_file(page: Path) -> None:
    for target in re.findall(r"\]\((?!https://arxiv\.org/abs/)([^)#]+)[^)]*\)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_the_figure_of_the_documentation_can_be_asked_for(compose: Compose) -> None:
    blocks = (ROOT / "docs/statements.md").read_text().split("\n\n")
    (block,) = (part for part in blocks if part.startswith("    figures:\n"))
    figures = yaml.safe_load(dedent(block))["figures"]
    config = compose("paper=demo", "device=cpu", "suite.fgsm.eps=[0.1,0.2,0.3]", "measurement.cells=asked")
    experiment = prepare_experiment({**config, "figures": figures})
    (figure,) = experiment.statements.figures.values()
    cells = experiment.measurements["transfer_matrix"].error_cells(experiment)
    assert {cell.eps for cell in cells} == {0.1, 0.2, 0.3} and {cell.attack for cell in cells} == {"fgsm"}
    assert len(cells) == len(figure.quantities) == 2 * 2 * 3
