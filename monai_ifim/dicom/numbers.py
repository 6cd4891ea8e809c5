"""The numbers of a case as a structured report of measurements (TID 1500)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from monai_ifim.dicom import codes
from monai_ifim.dicom.codes import Concept
from monai_ifim.dicom.identity import (
    Result,
    built,
    character_set,
    identity,
    in_words,
    shortened,
    uid_of,
)
from monai_ifim.dicom.series import SourceSeries
from monai_ifim.messages import RESEARCH_ONLY
from monai_ifim.report.cases import Numbers

_TEXT = 1024  # characters of a text


def numbers_report(
    numbers: Numbers, source: SourceSeries, result: Result, maps: Sequence[Any] = ()
) -> Any:
    """Make a report of the numbers of one image.

    Each number is a measurement with a private code; which class or which eigenvalue it belongs to
    is its tracking identifier. A comment has them all in one text, for viewers that show no more.

    Args:
        numbers: of the image; those that are not known are left out.
        source: images that they are of.
        result: what is known of it.
        maps: Parametric Maps and pictures of the same image, to refer to.

    Returns:
        highdicom's object.

    Raises:
        ValueError: highdicom does not take the headers of the source, or there is no number.
    """
    from highdicom.sr import EnhancedSR

    measured = list(_measured(numbers))
    if not measured:
        raise ValueError(
            f"expected numbers, got none ({numbers.status or 'no status'}); the image has no "
            "result: see its row"
        )
    evidence = [*source.datasets, *maps]
    texts = [(name, text) for name, text in _texts(numbers, measured, result) if text]
    images = tuple(str(each.SOPInstanceUID) for each in evidence)
    about = identity(source, "numbers", result, measured, texts, images)
    content = _content(measured, texts, _library(source, maps), about["sop_instance_uid"], result)
    about.pop("content_qualification")  # of images alone
    return built(
        EnhancedSR,
        result,
        evidence=evidence,
        content=content[0],
        is_complete=True,
        **character_set(source, [text for _, text in texts] + [name for _, _, name in measured]),
        **about,
    )


def told_numbers(told: Mapping[str, Any]) -> Numbers:
    """The numbers of an image as hosts tell them in JSON.

    Args:
        told: as ``with_class_names`` gives them, with ``status``.

    Returns:
        The same for a report.
    """
    flip = told.get("flip_class")
    return Numbers(
        predicted=str(told["predicted_class"]),
        probability=_known_number(told["probability"]),
        probabilities=dict(told["probabilities"]),
        trace=_known_number(told["trace"]),
        eigenvalues=tuple(told["eigenvalues"]),
        trace_share=_known_number(told["trace_share"]),
        energy_share=_known_number(told["high_energy_share"]),
        status=str(told["status"]),
        flip_distance=_known_number(told.get("flip_distance")),
        flip_class="" if flip is None else str(flip),
    )


def _known_number(value: float | None) -> float:
    return math.nan if value is None else float(value)


Measured = tuple[Concept, float, str]


def _measured(numbers: Numbers) -> Iterator[Measured]:
    """Each number that is known: its meaning, its value, and of what it is."""
    for name, value in numbers.probabilities.items():
        yield from _known(codes.PROBABILITY, value, f"class {name}")
    if not numbers.probabilities:
        yield from _known(codes.PROBABILITY, numbers.probability, f"class {numbers.predicted}")
    yield from _known(codes.TRACE, numbers.trace, "trace")
    for index, value in enumerate(numbers.eigenvalues, start=1):
        yield from _known(codes.EIGENVALUE, value, f"eigenvalue {index}")
    yield from _known(codes.EFFECTIVE_RANK, numbers.effective_rank, "effective rank")
    yield from _known(codes.TRACE_SHARE, numbers.trace_share, "trace share")
    yield from _known(codes.ENERGY_SHARE, numbers.energy_share, "energy share")
    yield from _known(codes.FLIP_DISTANCE, numbers.flip_distance, f"class {numbers.flip_class}")


def _known(concept: Concept, value: float, of: str) -> Iterator[Measured]:
    if math.isfinite(value):
        yield concept, float(value), shortened(of)


def _texts(
    numbers: Numbers, measured: Sequence[Measured], result: Result
) -> Iterator[tuple[Concept | None, str]]:
    """What is no number; the last one is the comment."""
    yield codes.PREDICTED, shortened(numbers.predicted, _TEXT)
    yield codes.STATUS, shortened(numbers.status, _TEXT)
    values = ", ".join(f"{of} {value:.4g}" for _, value, of in measured)
    summary = f"{RESEARCH_ONLY} Predicted: {numbers.predicted or 'unknown'}. {values}."
    yield None, shortened(summary, _TEXT)


def _content(
    measured: Sequence[Measured],
    texts: Sequence[tuple[Concept | None, str]],
    images: Any,
    seed: str,
    known: Result,
) -> Any:
    """The content tree: a device as observer, the images, one group of measurements."""
    from highdicom import sr

    device = sr.DeviceObserverIdentifyingAttributes(
        uid=uid_of("device", known.model),
        name="monai_ifim",
        manufacturer_name="monai_ifim",
        model_name=shortened(known.model or "unknown network"),
    )
    observer = sr.ObserverContext(_dcm("Device"), device)
    group = sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(
            uid=uid_of("group", seed), identifier="iFIM of the whole image"
        ),
        algorithm_id=sr.AlgorithmIdentification(
            name=shortened(known.model or "unknown network"),
            version=known.model.rpartition(" ")[2] or "unknown",
            parameters=[in_words(known)],
        ),
        measurements=[
            sr.Measurement(
                name=concept.code(),
                value=value,
                unit=concept.unit_code(),
                tracking_identifier=sr.TrackingIdentifier(
                    uid=uid_of("measurement", seed, index), identifier=of
                ),
            )
            for index, (concept, value, of) in enumerate(measured)
        ],
    )
    group[0].ContentSequence.extend(_text(concept, text) for concept, text in texts)
    report = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=observer),
        procedure_reported=codes.ANALYSIS.code(),
        imaging_measurements=[group],
    )
    parts = report[0].ContentSequence
    parts.insert(len(parts) - 1, images)
    return report


def _library(source: SourceSeries, maps: Sequence[Any]) -> Any:
    """The images that the numbers belong to, and those that were made of them (TID 1600)."""
    # Without descriptors: for those, highdicom asks fields that multi-frame images and X-rays lack.
    from highdicom import sr

    contains = sr.RelationshipTypeValues.CONTAINS
    images = [(each, sr.CodedConcept("260753009", "SCT", "Source")) for each in source.datasets]
    made = [(each, codes.of_label(each.get("ContentLabel")).code()) for each in maps]
    library = sr.ContainerContentItem(_dcm("ImageLibrary"), relationship_type=contains)
    library.ContentSequence = sr.ContentSequence()
    for members in filter(None, (images, made)):
        group = sr.ContainerContentItem(_dcm("ImageLibraryGroup"), relationship_type=contains)
        group.ContentSequence = sr.ContentSequence(
            [
                sr.ImageContentItem(
                    name=name,
                    referenced_sop_class_uid=each.SOPClassUID,
                    referenced_sop_instance_uid=each.SOPInstanceUID,
                    relationship_type=contains,
                )
                for each, name in members
            ]
        )
        library.ContentSequence.append(group)
    return library


def _text(concept: Concept | None, text: str) -> Any:
    from highdicom import sr

    name = sr.CodedConcept(*_dcm("Comment")) if concept is None else concept.code()
    return sr.TextContentItem(
        name=name, value=text, relationship_type=sr.RelationshipTypeValues.CONTAINS
    )


def _dcm(keyword: str) -> Any:
    from pydicom.sr.codedict import codes as known

    return getattr(known.DCM, keyword)
