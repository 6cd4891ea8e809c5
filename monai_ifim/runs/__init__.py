"""Runs over files: a bundle or a plain network, each image on its own, and a summary."""

from monai_ifim.runs.bundle import run_bundle
from monai_ifim.runs.network import run_network
from monai_ifim.runs.options import RunOptions
from monai_ifim.runs.preprocessing import image_preprocessing
from monai_ifim.runs.summary import RunSummary

run = run_network  # MONAI finds functions by their own names, and has one that is named run

__all__ = ["RunOptions", "RunSummary", "image_preprocessing", "run", "run_bundle"]
