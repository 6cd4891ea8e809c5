"""Where a classifier of medical images is locally sensitive, in MONAI."""

from monai_ifim.bundle_root import bundle_root
from monai_ifim.class_names import class_names
from monai_ifim.core import (
    Approximation,
    Bernoulli,
    Categorical,
    Eigenspace,
    VoxelwiseCategorical,
    eigenspace,
)
from monai_ifim.experiments import perturbation_curve, principal_angles
from monai_ifim.handlers import IFIMHandler
from monai_ifim.inferers import IFIMInferer
from monai_ifim.layouts import DistinctFolderLayout
from monai_ifim.loaders import FaultTolerantDataLoader
from monai_ifim.metrics import SpectrumMetric
from monai_ifim.prediction_components import ComponentOfPredictiond
from monai_ifim.transforms import (
    CheckImaged,
    IFIMComponents,
    IFIMComponentsd,
    SqueezeSingleSliced,
    traceable_preprocessing,
)
from monai_ifim.writers import AtomicNibabelWriter

__all__ = [
    "Approximation",
    "AtomicNibabelWriter",
    "Bernoulli",
    "Categorical",
    "CheckImaged",
    "ComponentOfPredictiond",
    "DistinctFolderLayout",
    "Eigenspace",
    "FaultTolerantDataLoader",
    "IFIMComponents",
    "IFIMComponentsd",
    "IFIMHandler",
    "IFIMInferer",
    "SpectrumMetric",
    "SqueezeSingleSliced",
    "VoxelwiseCategorical",
    "bundle_root",
    "class_names",
    "eigenspace",
    "perturbation_curve",
    "principal_angles",
    "traceable_preprocessing",
]
