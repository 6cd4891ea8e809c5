"""Figures over images with bootstrap intervals: ``interval(average, values)``."""

from monai_ifim.experiments.statistics.averages import accuracy, average, means, median_value, ratio
from monai_ifim.experiments.statistics.bootstrap import (
    Figures,
    Interval,
    Statistic,
    interval,
    intervals,
)
from monai_ifim.experiments.statistics.classification import classification_scores
from monai_ifim.experiments.statistics.correlation import spearman
from monai_ifim.experiments.statistics.roc import auc, classification_auc, paired_auc

__all__ = [
    "Figures",
    "Interval",
    "Statistic",
    "accuracy",
    "auc",
    "average",
    "classification_auc",
    "classification_scores",
    "interval",
    "intervals",
    "means",
    "median_value",
    "paired_auc",
    "ratio",
    "spearman",
]
