"""What README.md shows as YAML is what the commands take."""

from textwrap import dedent

import yaml
from configs import Compose
from conftest import ROOT

from epsball.experiment.prepare import prepare_experiment


def test_the_figure_of_the_readme_can_be_asked_for(compose: Compose) -> None:
    (block,) = (part for part in (ROOT / "README.md").read_text().split("\n\n") if part.startswith("    figures:\n"))
    figures = yaml.safe_load(dedent(block))["figures"]
    config = compose("paper=demo", "device=cpu", "suite.fgsm.eps=[0.1,0.2,0.3]", "measurement.cells=asked")
    experiment = prepare_experiment({**config, "figures": figures})
    (figure,) = experiment.statements.figures.values()
    cells = experiment.measurements["transfer_matrix"].error_cells(experiment)
    assert {cell.eps for cell in cells} == {0.1, 0.2, 0.3} and {cell.attack for cell in cells} == {"fgsm"}
    assert len(cells) == len(figure.quantities) == 2 * 2 * 3
