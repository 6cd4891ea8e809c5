"""The Fisher information itself; needs torch alone."""

from monai_ifim.core.angles import principal_angles
from monai_ifim.core.changes import Mask, NoiseSpectrum, Perturbation, Smooth, label_masks
from monai_ifim.core.decomposition import decompose, eigenspace
from monai_ifim.core.eigenspace import Approximation, Eigenspace
from monai_ifim.core.families import (
    Bernoulli,
    Categorical,
    ChosenClasses,
    DenseFamily,
    Family,
    Gaussian,
    GaussianMeanVariance,
    Likelihood,
    MergedClasses,
    VoxelwiseBernoulli,
    VoxelwiseCategorical,
    VoxelwiseGaussian,
    as_likelihood,
    class_numbers,
    family_of,
)
from monai_ifim.core.flips import FlipDistance
from monai_ifim.core.gradients.at_rest import at_rest, exclusive, frozen_parameters, unwrap
from monai_ifim.core.gradients.forward import Forward, as_leaf, kept_forward, run_forward
from monai_ifim.core.gradients.logits import OutputTransform, predicted_logits
from monai_ifim.core.inputs import SeveralInputs
from monai_ifim.core.nuisances import Nuisance, NuisanceSensitivity, nuisance_sensitivity
from monai_ifim.core.options import (
    EigenspaceOptions,
    OptionKeywords,
    chosen_options,
    with_option_keywords,
)
from monai_ifim.core.perturbation import PerturbationCurve, perturbation_curve
from monai_ifim.core.pooling import (
    PooledEigenspace,
    load_pooled,
    network_digest,
    network_name,
    pooled_digest,
    pooled_eigenspace,
    smoothed_eigenspace,
)
from monai_ifim.core.solvers import Auto, Exact, Krylov, Solver, Truncated, as_solver

__all__ = [
    "Approximation",
    "Auto",
    "Bernoulli",
    "Categorical",
    "ChosenClasses",
    "DenseFamily",
    "Eigenspace",
    "EigenspaceOptions",
    "Exact",
    "Family",
    "FlipDistance",
    "Forward",
    "Gaussian",
    "GaussianMeanVariance",
    "Krylov",
    "Likelihood",
    "Mask",
    "MergedClasses",
    "NoiseSpectrum",
    "Nuisance",
    "NuisanceSensitivity",
    "OptionKeywords",
    "OutputTransform",
    "Perturbation",
    "PerturbationCurve",
    "PooledEigenspace",
    "SeveralInputs",
    "Smooth",
    "Solver",
    "Truncated",
    "VoxelwiseBernoulli",
    "VoxelwiseCategorical",
    "VoxelwiseGaussian",
    "as_leaf",
    "as_likelihood",
    "as_solver",
    "at_rest",
    "chosen_options",
    "class_numbers",
    "decompose",
    "eigenspace",
    "exclusive",
    "family_of",
    "frozen_parameters",
    "kept_forward",
    "label_masks",
    "load_pooled",
    "network_digest",
    "network_name",
    "nuisance_sensitivity",
    "perturbation_curve",
    "pooled_digest",
    "pooled_eigenspace",
    "predicted_logits",
    "principal_angles",
    "run_forward",
    "smoothed_eigenspace",
    "unwrap",
    "with_option_keywords",
]
