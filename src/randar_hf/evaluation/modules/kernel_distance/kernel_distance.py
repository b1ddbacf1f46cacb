"""A module of the `evaluate` library: kernel distance, computed by `randar_hf.evaluation`."""

import evaluate
import numpy as np

from randar_hf.evaluation import kernel_distance
from randar_hf.evaluation.metric_modules import metric_info


DESCRIPTION = """\
The unbiased squared maximum mean discrepancy of two sets of features with a cubic kernel, and its standard
error. On the pool features of the Inception of 2015-12-05 it is KID.
"""

INPUTS = """
Args:
    predictions: features of generated images, one row an image.
    references: features of real images, as many rows.
Returns:
    kernel_distance: about 0 for like sets, lower is better; kernel_distance_standard_error: by the jackknife.
"""

CITATION = """\
@article{kernel_distance,
    title={Demystifying MMD GANs},
    author={Binkowski, Mikolaj and Sutherland, Danica J. and Arbel, Michael and Gretton, Arthur},
    year={2018},
    journal={arXiv:1801.01401},
}
"""


class KernelDistance(evaluate.Metric):
    """Kernel Distance of rows that `add_batch` or `compute` are given."""

    def _info(self):
        return metric_info(DESCRIPTION, INPUTS, CITATION, "1801.01401", "predictions", "references")

    def _compute(self, predictions, references):
        distance, error = kernel_distance(np.asarray(predictions, dtype=float), np.asarray(references, dtype=float))
        return {"kernel_distance": distance, "kernel_distance_standard_error": error}
