"""Controlled tasks, and how a trained network compares with their known answer."""

from monai_ifim.experiments.agreement import Agreement, agreement
from monai_ifim.experiments.angles import principal_angles
from monai_ifim.experiments.hippocampus import write_hippocampus_patches
from monai_ifim.experiments.signal import (
    Accuracy,
    SignalDataset,
    SignalTask,
    signal_task,
)
from monai_ifim.experiments.signal_images import write_signal_images

__all__ = [
    "Accuracy",
    "Agreement",
    "SignalDataset",
    "SignalTask",
    "agreement",
    "principal_angles",
    "signal_task",
    "write_hippocampus_patches",
    "write_signal_images",
]
