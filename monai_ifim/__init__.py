"""Where a classifier of medical images is locally sensitive, in MONAI.

The public names are loaded when they are first asked for (PEP 562), so that ``monai-ifim --help``
answers before torch and MONAI are imported.
"""

import sys
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from monai_ifim.attributions import quantus_explain
    from monai_ifim.bundle import (
        bundle_class_numbers,
        bundle_digest,
        bundle_root,
        check_arguments,
        chosen_questions,
        class_names,
        evaluator_with_ifim,
        preprocessing_of,
        run_unless_done,
    )
    from monai_ifim.changes import MaskOf, SmoothOf
    from monai_ifim.cluster import run_on_ray
    from monai_ifim.core import (
        Approximation,
        Auto,
        Bernoulli,
        Categorical,
        ChosenClasses,
        Eigenspace,
        EigenspaceOptions,
        Exact,
        FlipDistance,
        Gaussian,
        GaussianMeanVariance,
        Krylov,
        Mask,
        MergedClasses,
        NoiseSpectrum,
        NuisanceSensitivity,
        PooledEigenspace,
        SeveralInputs,
        Smooth,
        Truncated,
        VoxelwiseBernoulli,
        VoxelwiseCategorical,
        VoxelwiseGaussian,
        class_numbers,
        eigenspace,
        label_masks,
        nuisance_sensitivity,
        perturbation_curve,
        pooled_eigenspace,
        principal_angles,
        smoothed_eigenspace,
    )
    from monai_ifim.data.datalist import find_images, image_root, labelled_images
    from monai_ifim.data.layouts import DistinctFolderLayout
    from monai_ifim.data.loaders import FaultTolerantDataLoader
    from monai_ifim.data.run_table.predictions import PredictionSaver
    from monai_ifim.data.sources.arrays import LoadImageOrArrayd
    from monai_ifim.data.sources.pictures import LoadPictured
    from monai_ifim.data.writers import AtomicNibabelWriter
    from monai_ifim.dicom.parametric_map import write_parametric_map
    from monai_ifim.handlers import IFIMHandler, IFIMPooling
    from monai_ifim.inferers import IFIMInferer
    from monai_ifim.metrics import SpectrumMetric
    from monai_ifim.questions import (
        FoundFlip,
        NuisanceColumns,
        ShareColumns,
        VerifiedFlip,
        verified_flip,
    )
    from monai_ifim.report.epoch_log import IFIMEpochLog
    from monai_ifim.report.notebook import show
    from monai_ifim.report.pooled import show_pooled
    from monai_ifim.report.viewer import view
    from monai_ifim.runs import RunSummary, image_preprocessing, run
    from monai_ifim.transforms.checks import CheckImaged
    from monai_ifim.transforms.components import IFIMComponents, IFIMComponentsd
    from monai_ifim.transforms.invert import InvertComponentsd
    from monai_ifim.transforms.prediction import ComponentOfPredictiond
    from monai_ifim.transforms.save import SaveComponentsd
    from monai_ifim.transforms.single_slice import SqueezeSingleSliced
    from monai_ifim.transforms.traceable import traceable_preprocessing

__all__ = [
    "Approximation",
    "AtomicNibabelWriter",
    "Auto",
    "Bernoulli",
    "Categorical",
    "CheckImaged",
    "ChosenClasses",
    "ComponentOfPredictiond",
    "DistinctFolderLayout",
    "Eigenspace",
    "EigenspaceOptions",
    "Exact",
    "FaultTolerantDataLoader",
    "FlipDistance",
    "FoundFlip",
    "Gaussian",
    "GaussianMeanVariance",
    "IFIMComponents",
    "IFIMComponentsd",
    "IFIMEpochLog",
    "IFIMHandler",
    "IFIMInferer",
    "IFIMPooling",
    "InvertComponentsd",
    "Krylov",
    "LoadImageOrArrayd",
    "LoadPictured",
    "Mask",
    "MaskOf",
    "MergedClasses",
    "NoiseSpectrum",
    "NuisanceColumns",
    "NuisanceSensitivity",
    "PooledEigenspace",
    "PredictionSaver",
    "RunSummary",
    "SaveComponentsd",
    "SeveralInputs",
    "ShareColumns",
    "Smooth",
    "SmoothOf",
    "SpectrumMetric",
    "SqueezeSingleSliced",
    "Truncated",
    "VerifiedFlip",
    "VoxelwiseBernoulli",
    "VoxelwiseCategorical",
    "VoxelwiseGaussian",
    "bundle_class_numbers",
    "bundle_digest",
    "bundle_root",
    "check_arguments",
    "chosen_questions",
    "class_names",
    "class_numbers",
    "eigenspace",
    "evaluator_with_ifim",
    "find_images",
    "image_preprocessing",
    "image_root",
    "label_masks",
    "labelled_images",
    "nuisance_sensitivity",
    "perturbation_curve",
    "pooled_eigenspace",
    "preprocessing_of",
    "principal_angles",
    "quantus_explain",
    "run",
    "run_on_ray",
    "run_unless_done",
    "show",
    "show_pooled",
    "smoothed_eigenspace",
    "traceable_preprocessing",
    "verified_flip",
    "view",
    "write_parametric_map",
]

# Where the names are looked for, in this order: what needs torch alone comes first.
_MODULES = (
    "core",
    "bundle",
    "data.sources.arrays",
    "data.datalist",
    "data.layouts",
    "data.loaders",
    "data.run_table.predictions",
    "data.sources.pictures",
    "data.writers",
    "inferers",
    "metrics",
    "attributions",
    "changes",
    "questions",
    "transforms.checks",
    "transforms.components",
    "transforms.invert",
    "transforms.prediction",
    "transforms.save",
    "transforms.single_slice",
    "transforms.traceable",
    "handlers",
    "runs",
    "cluster",
    "report.epoch_log",
    "report.notebook",
    "report.pooled",
    "report.viewer",
    "dicom.parametric_map",
)

if not TYPE_CHECKING:  # a type checker would take any name for known

    def __getattr__(name: str) -> object:
        """The public name, or the module of the package, that is asked for the first time.

        Args:
            name: one of ``__all__``, or of a module or folder beside this file.

        Returns:
            What the name stands for.

        Raises:
            AttributeError: the package has no such name.
        """
        if name in __all__:
            for module in _MODULES:
                found = getattr(import_module(f"{__name__}.{module}"), name, None)
                if found is not None:
                    globals()[name] = found
                    return found
        elif name.isidentifier() and not name.startswith("_") and find_spec(f"{__name__}.{name}"):
            return import_module(f"{__name__}.{name}")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        """All public names, whether they are loaded or not."""
        return sorted({*globals(), *__all__})

    # MONAI finds a name without its module (``_target_: IFIMHandler``) only in modules that are
    # loaded; with MONAI loaded already there is no time to be saved.
    if sys.modules.get("monai") is not None:
        for _name in __all__:
            __getattr__(_name)
