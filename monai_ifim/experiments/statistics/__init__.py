"""Figures over images with bootstrap intervals: ``interval(mean, values)``."""

from monai_ifim.experiments.statistics.averages import accuracy, mean, means, median, ratio
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
    "classification_auc",
    "classification_scores",
    "interval",
    "intervals",
    "mean",
    "means",
    "median",
    "paired_auc",
    "ratio",
    "spearman",
]
