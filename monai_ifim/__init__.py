"""Where a classifier of medical images is locally sensitive, in MONAI."""

from monai_ifim.bundle import bundle_root, class_names
from monai_ifim.core import (
    Approximation,
    Auto,
    Bernoulli,
    Categorical,
    Eigenspace,
    EigenspaceOptions,
    Exact,
    Krylov,
    Truncated,
    VoxelwiseCategorical,
    eigenspace,
    perturbation_curve,
    principal_angles,
)
from monai_ifim.data.arrays import LoadImageOrArrayd
from monai_ifim.data.datalist import find_images, image_root, labelled_images
from monai_ifim.data.layouts import DistinctFolderLayout
from monai_ifim.data.loaders import FaultTolerantDataLoader
from monai_ifim.data.writers import AtomicNibabelWriter
from monai_ifim.handlers import IFIMHandler
from monai_ifim.inferers import IFIMInferer
from monai_ifim.metrics import SpectrumMetric
from monai_ifim.transforms.checks import CheckImaged
from monai_ifim.transforms.components import IFIMComponents, IFIMComponentsd
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
    "ComponentOfPredictiond",
    "DistinctFolderLayout",
    "Eigenspace",
    "EigenspaceOptions",
    "Exact",
    "FaultTolerantDataLoader",
    "IFIMComponents",
    "IFIMComponentsd",
    "IFIMHandler",
    "IFIMInferer",
    "Krylov",
    "LoadImageOrArrayd",
    "SaveComponentsd",
    "SpectrumMetric",
    "SqueezeSingleSliced",
    "Truncated",
    "VoxelwiseCategorical",
    "bundle_root",
    "class_names",
    "eigenspace",
    "find_images",
    "image_root",
    "labelled_images",
    "perturbation_curve",
    "principal_angles",
    "traceable_preprocessing",
]
