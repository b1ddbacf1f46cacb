"""A module of the `evaluate` library: improved precision and recall, computed by `randar_hf.evaluation`."""

import evaluate
import numpy as np

from randar_hf.evaluation import precision_recall
from randar_hf.evaluation.metric_modules import metric_info


DESCRIPTION = """\
The fraction of generated features inside the k-nearest-neighbour balls of the real ones, and the reverse.
"""

INPUTS = """
Args:
    predictions: features of generated images, one row an image.
    references: features of real images, as many rows.
    neighbors (int): which nearest neighbour a ball reaches to; 3 by default.
Returns:
    precision and recall: from 0 to 1, higher is better.
"""

CITATION = """\
@article{precision_recall,
    title={Improved Precision and Recall Metric for Assessing Generative Models},
    author={Kynkaanniemi, Tuomas and Karras, Tero and Laine, Samuli and Lehtinen, Jaakko and Aila, Timo},
    year={2019},
    journal={arXiv:1904.06991},
}
"""


class PrecisionRecall(evaluate.Metric):
    """Improved Precision and Recall of rows that `add_batch` or `compute` are given."""

    def _info(self):
        return metric_info(DESCRIPTION, INPUTS, CITATION, "1904.06991", "predictions", "references")

    def _compute(self, predictions, references, neighbors=3):
        pair = np.asarray(predictions, dtype=float), np.asarray(references, dtype=float)
        return precision_recall(*pair, neighbors=neighbors)._asdict()
