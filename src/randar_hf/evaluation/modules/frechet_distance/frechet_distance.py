"""A module of the `evaluate` library: frechet distance, computed by `randar_hf.evaluation`."""

import evaluate
import numpy as np

from randar_hf.evaluation import frechet_distance
from randar_hf.evaluation.metric_modules import metric_info


DESCRIPTION = """\
The Frechet distance of the normal distributions fitted to two sets of features. On the pool features of the
Inception of 2015-12-05 it is FID; on other features it is not.
"""

INPUTS = """
Args:
    predictions: features of generated images, one row an image.
    references: features of real images, as many rows.
Returns:
    frechet_distance: at least 0, lower is better; biased upwards by few images.
"""

CITATION = """\
@article{frechet_distance,
    title={GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium},
    author={Heusel, Martin and Ramsauer, Hubert and Unterthiner, Thomas and Nessler, Bernhard and Hochreiter, Sepp},
    year={2017},
    journal={arXiv:1706.08500},
}
"""


class FrechetDistance(evaluate.Metric):
    """Frechet Distance of rows that `add_batch` or `compute` are given."""

    def _info(self):
        return metric_info(DESCRIPTION, INPUTS, CITATION, "1706.08500", "predictions", "references")

    def _compute(self, predictions, references):
        distance = frechet_distance(np.asarray(predictions, dtype=float), np.asarray(references, dtype=float))
        return {"frechet_distance": distance}
