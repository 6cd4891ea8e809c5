"""How many images are used for which measure."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, Field

from monai_ifim.experiments.measures.corruptions import CORRUPTIONS


def _known_corruptions(names: tuple[str, ...]) -> tuple[str, ...]:
    unknown = sorted(set(names) - set(CORRUPTIONS))
    if unknown:
        raise ValueError(
            f"expected corruptions from {list(CORRUPTIONS)}, got {unknown}; take them out"
        )
    return names


def _several(count: int) -> int:
    if count == 1:
        raise ValueError("expected at least 2 images for intervals, or 0 for none, got 1; raise it")
    return count


Images = Annotated[
    int, Field(strict=True, ge=0, description="a whole number >= 0"), AfterValidator(_several)
]
Whole = Annotated[int, Field(strict=True, ge=0, description="a whole number >= 0")]
Positive = Annotated[int, Field(strict=True, gt=0, description="a whole number > 0")]
Norms = Annotated[
    tuple[Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)], ...],
    Field(description="a list of positive norms, without 0"),
]


class Labelling(BaseModel, frozen=True, extra="forbid"):
    """How images to label are chosen, and by how much.

    Attributes:
        rounds: how often a network is trained, each time on more images; 0 leaves it out.
        images: that are labelled at the start, and more of them after each round.
        trainings: how often all of it is done, each time with another start.
        seen: images that each training sees.
        pool: training images to choose from, at the most.
    """

    rounds: Whole = 0
    images: Positive = 40
    trainings: Positive = 3
    seen: Positive = 4000
    pool: Positive = 2000


class Measures(BaseModel, frozen=True, extra="forbid"):
    """On how many images each measure is made; 0 leaves a measure out.

    Attributes:
        changed_images: for the perturbation curves; at least as many as ``map_images``.
        law_images: for the quadratic law, in float64.
        scored_images: whose spectra are to find errors and corruptions.
        agreement_images: compared with the known template.
        control_images: for the controls.
        map_images: for attribution maps, deletion and insertion.
        quantus_images: for Quantus' metrics of maps.
        pooled_images: on which several trainings are compared; it is 0 in most configurations.
        smoothed_images: of these, whose neighbourhood is pooled.
        moved_images: of these, that are changed along pooled directions.
        used_images: of each kind, among which wrong predictions, corrupted and foreign images are
            to be found by every training.
        flip_images: whose smallest change to another answer is looked for.
        labelling: rounds of choosing images to label.
        image_draws: how often these are drawn anew for intervals.
        norms: of the changes, as shares of the median norm of the images.
        ratio_norms: which of them the summary shows.
        top_share: share of the pixels that an attribution selects.
        corruptions: names in ``CORRUPTIONS``.
    """

    changed_images: Images = 64
    law_images: Images = 48
    scored_images: Images = 600
    agreement_images: Images = 100
    control_images: Images = 32
    map_images: Images = 32
    quantus_images: Images = 16
    pooled_images: Images = 0
    smoothed_images: Images = 48
    moved_images: Images = 64
    used_images: Images = 0
    flip_images: Images = 0
    labelling: Labelling = Labelling()
    image_draws: Images = 100
    norms: Norms = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
    ratio_norms: Norms = (0.01, 0.1, 0.3)
    top_share: Annotated[float, Field(strict=True, gt=0, le=1, description="a share in (0, 1]")] = (
        0.1
    )
    corruptions: Annotated[
        tuple[str, ...],
        Field(description="a list of corruptions, [a, b]"),
        AfterValidator(_known_corruptions),
    ] = ("noise", "blur", "bias_field", "motion")
