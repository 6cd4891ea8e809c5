"""Runs over files: a bundle or a plain network, each image on its own, and a summary."""

from monai_ifim.runs.bundle import run_bundle
from monai_ifim.runs.network import run
from monai_ifim.runs.options import RunOptions
from monai_ifim.runs.preprocessing import image_preprocessing
from monai_ifim.runs.summary import RunSummary

__all__ = ["RunOptions", "RunSummary", "image_preprocessing", "run", "run_bundle"]
