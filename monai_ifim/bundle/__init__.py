"""A MONAI bundle: its folder, configuration, classifier and images."""

from monai_ifim.bundle.arguments import check_arguments
from monai_ifim.bundle.classifier import (
    BundleClassifier,
    Inferred,
    bundle_network,
    load_bundle_classifier,
)
from monai_ifim.bundle.configuration import BundleConfiguration, scripts_of
from monai_ifim.bundle.evaluator import (
    evaluator_with_ifim,
    preprocessing_of,
    run_unless_done,
)
from monai_ifim.bundle.images import load_bundle_images
from monai_ifim.bundle.likelihood import recognised_likelihood
from monai_ifim.bundle.metadata import class_names
from monai_ifim.bundle.questions import bundle_class_numbers, chosen_questions
from monai_ifim.bundle.root import bundle_digest, bundle_root

__all__ = [
    "BundleClassifier",
    "BundleConfiguration",
    "Inferred",
    "bundle_class_numbers",
    "bundle_digest",
    "bundle_network",
    "bundle_root",
    "check_arguments",
    "chosen_questions",
    "class_names",
    "evaluator_with_ifim",
    "load_bundle_classifier",
    "load_bundle_images",
    "preprocessing_of",
    "recognised_likelihood",
    "run_unless_done",
    "scripts_of",
]
