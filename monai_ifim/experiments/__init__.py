"""Controlled tasks, and how a trained network compares with their known answer."""

from monai_ifim.core.angles import principal_angles
from monai_ifim.core.perturbation import (
    PerturbationCurve,
    kullback_leibler,
    perturbation_curve,
)
from monai_ifim.experiments.measures.agreement import Agreement, agreement
from monai_ifim.experiments.measures.directions import change_directions
from monai_ifim.experiments.tasks.blobs import signal_task
from monai_ifim.experiments.tasks.catalogue import TASKS, load_task
from monai_ifim.experiments.tasks.hippocampus import write_hippocampus_patches
from monai_ifim.experiments.tasks.labelled import Split, Task
from monai_ifim.experiments.tasks.lumpy import LumpyTask, lumpy_task
from monai_ifim.experiments.tasks.signal import Accuracy, SignalTask
from monai_ifim.experiments.tasks.signal_dataset import SignalDataset
from monai_ifim.experiments.tasks.signal_images import write_signal_images

__all__ = [
    "TASKS",
    "Accuracy",
    "Agreement",
    "LumpyTask",
    "PerturbationCurve",
    "SignalDataset",
    "SignalTask",
    "Split",
    "Task",
    "agreement",
    "change_directions",
    "kullback_leibler",
    "load_task",
    "lumpy_task",
    "perturbation_curve",
    "principal_angles",
    "signal_task",
    "write_hippocampus_patches",
    "write_signal_images",
]
