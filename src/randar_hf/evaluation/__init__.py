"""What the papers measure: Inception's features, and distances and scores of features."""

from .inception import InceptionFeatures, InceptionOutput
from .metric_modules import metric_module
from .metrics import (
    FeatureStatistics,
    KernelDistance,
    PrecisionRecall,
    frechet_distance,
    inception_score,
    kernel_distance,
    precision_recall,
)


__all__ = [
    "FeatureStatistics",
    "InceptionFeatures",
    "InceptionOutput",
    "KernelDistance",
    "PrecisionRecall",
    "frechet_distance",
    "inception_score",
    "kernel_distance",
    "metric_module",
    "precision_recall",
]
