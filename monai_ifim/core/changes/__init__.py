"""Which changes of an image are considered: x + A u with u of unit covariance, in place of x + d.

KL(p(x) ‖ p(x + A u)) ≈ ½ uᵀ(AᵀF A)u, so the eigenspace is that of AᵀFA, with Aᵀ applied to the few
gradients alone. A perturbation is an object with A and Aᵀ; a new one is one more file here.
"""

from monai_ifim.core.changes.mask import Mask, label_masks
from monai_ifim.core.changes.noise import NoiseSpectrum
from monai_ifim.core.changes.perturbation import Perturbation
from monai_ifim.core.changes.smooth import Smooth

__all__ = ["Mask", "NoiseSpectrum", "Perturbation", "Smooth", "label_masks"]
