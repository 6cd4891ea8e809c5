"""How much of everything is measured."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Measures:
    """How much is measured on each network; 0 leaves a part out.

    Attributes:
        changed_images: for the perturbation curves; at least as many as ``map_images``.
        law_images: for the quadratic law, in float64.
        scored_images: whose spectra are to find errors and corruptions.
        agreement_images: compared with the known template.
        control_images: for the controls.
        map_images: for attribution maps, deletion and insertion.
        norms: of the changes, as shares of the median norm of the images.
        ratio_norms: which of them the summary shows.
        top_share: share of the pixels that an attribution selects.
        corruptions: see ``corruptions.CORRUPTIONS``.
    """

    changed_images: int = 64
    law_images: int = 48
    scored_images: int = 600
    agreement_images: int = 100
    control_images: int = 32
    map_images: int = 32
    norms: tuple[float, ...] = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
    ratio_norms: tuple[float, ...] = (0.01, 0.1, 0.3)
    top_share: float = 0.1
    corruptions: tuple[str, ...] = ("noise", "blur", "bias_field", "motion")
