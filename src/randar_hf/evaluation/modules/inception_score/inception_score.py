"""A module of the `evaluate` library: inception score, computed by `randar_hf.evaluation`."""

import evaluate
import numpy as np

from randar_hf.evaluation import inception_score
from randar_hf.evaluation.metric_modules import metric_info


DESCRIPTION = """\
The exponential of the mean KL divergence of class probabilities from their mean. With the softmax of the
unbiased logits of the Inception of 2015-12-05 it is the score of the ADM evaluator.
"""

INPUTS = """
Args:
    predictions: class probabilities, one row an image.
    split_size (int): images of a split; 5000 by default.
Returns:
    inception_score: from 1 to the number of classes, higher is better.
"""

CITATION = """\
@article{inception_score,
    title={Improved Techniques for Training GANs},
    author={Salimans, Tim and Goodfellow, Ian and Zaremba, Wojciech and Cheung, Vicki and Radford, Alec and Chen, Xi},
    year={2016},
    journal={arXiv:1606.03498},
}
"""


class InceptionScore(evaluate.Metric):
    """Inception Score of rows that `add_batch` or `compute` are given."""

    def _info(self):
        return metric_info(DESCRIPTION, INPUTS, CITATION, "1606.03498", "predictions")

    def _compute(self, predictions, split_size=5000):
        score = inception_score(np.asarray(predictions, dtype=float), split_size=split_size)
        return {"inception_score": score}
