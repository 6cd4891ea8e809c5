"""The Fisher information itself; needs torch alone."""

from monai_ifim.core.at_rest import at_rest, frozen_parameters, unwrap
from monai_ifim.core.components import VOLUMES, check_volumes, components
from monai_ifim.core.decomposition import decompose, eigenspace
from monai_ifim.core.eigenspace import Approximation, Eigenspace
from monai_ifim.core.gradients import (
    Forward,
    OutputTransform,
    as_leaf,
    kept_forward,
    run_forward,
)
from monai_ifim.core.likelihoods import Bernoulli, Categorical, Likelihood, as_likelihood
from monai_ifim.core.summaries import RESEARCH_ONLY, summaries, with_class_names
from monai_ifim.core.voxelwise import VoxelwiseCategorical

__all__ = [
    "RESEARCH_ONLY",
    "VOLUMES",
    "Approximation",
    "Bernoulli",
    "Categorical",
    "Eigenspace",
    "Forward",
    "Likelihood",
    "OutputTransform",
    "VoxelwiseCategorical",
    "as_leaf",
    "as_likelihood",
    "at_rest",
    "check_volumes",
    "components",
    "decompose",
    "eigenspace",
    "frozen_parameters",
    "kept_forward",
    "run_forward",
    "summaries",
    "unwrap",
    "with_class_names",
]
