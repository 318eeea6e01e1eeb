"""Measurements by name."""

from collections.abc import Mapping

from epsball.measurements.coherence import Coherence
from epsball.measurements.gaas import Gaas
from epsball.measurements.gradient_norms import GradientNorms
from epsball.measurements.gradient_pictures import GradientPictures
from epsball.measurements.loss_paths import LossPaths
from epsball.measurements.loss_surface import LossSurface
from epsball.measurements.measurement import Measurement
from epsball.measurements.rounding import Rounding
from epsball.measurements.score_examples import ScoreExamples
from epsball.measurements.training_curves import TrainingCurves
from epsball.measurements.transfer_matrix import TransferMatrix
from epsball.measurements.worst_case import WorstCase

MEASUREMENTS: Mapping[str, type[Measurement]] = {
    "transfer_matrix": TransferMatrix,
    "worst_case": WorstCase,
    "gradient_norms": GradientNorms,
    "coherence": Coherence,
    "rounding": Rounding,
    "gradient_pictures": GradientPictures,
    "loss_surface": LossSurface,
    "loss_paths": LossPaths,
    "gaas": Gaas,
    "training_curves": TrainingCurves,
    "score_examples": ScoreExamples,
}
