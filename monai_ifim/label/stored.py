"""Stored images and their labels: found by id, run through a bundle, results saved beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from monai_ifim.label.bundle import ClassificationBundle
from monai_ifim.label.infer import BundleTask
from monai_ifim.label.options import Options, refusal, short
from monai_ifim.label.stores.checked import CheckedDatastore
from monai_ifim.messages import RESEARCH_ONLY


def image_path(datastore: CheckedDatastore, image_id: Any) -> Path:
    """File of a stored image.

    Args:
        datastore: with the images.
        image_id: as the client sent it.

    Returns:
        The path.

    Raises:
        HTTPException: 404, an id that the datastore does not have, or whose file is gone; of a
            PACS also 413, 415, 422, 502 and 504.
    """
    if not datastore.holds(image_id):
        raise refusal(
            f"expected the id of a stored image, got {short(image_id)}; "
            "GET /datastore/?output=all lists them, PUT /datastore/image adds one",
            404,
        )
    path = Path(datastore.get_image_uri(image_id))
    if not path.exists():
        raise refusal(
            f"expected a file for the image {short(image_id)}, got none: it was removed; "
            "DELETE /datastore/image",
            404,
        )
    return path


def further_files(
    datastore: CheckedDatastore, bundle: ClassificationBundle, image_id: str
) -> dict[str, str]:
    """Files that a bundle needs besides the image: the image's stored labels.

    Args:
        datastore: with the labels.
        bundle: for example one with a mask as a further channel.
        image_id: of a stored image.

    Returns:
        Path by key of the preprocessing. The label with the key's name as its tag is taken,
        or else the one tagged ``final``.

    Raises:
        HTTPException: 422, there is no such label.
    """
    files = {}
    for key in bundle.further_keys:
        uris = [datastore.get_label_uri(image_id, tag) for tag in (key, "final")]
        found = [uri for uri in uris if uri]
        if not found:
            raise refusal(
                f"expected a stored label tagged {key!r} or 'final' for the image "
                f"{short(image_id)}, which {bundle.name} needs besides it, got none; "
                "PUT /datastore/label",
                422,
            )
        files[key] = found[0]
    return files


def run_stored(
    task: BundleTask,
    image_id: Any,
    options: Options,
    folder: Path,
    datastore: CheckedDatastore,
    *,
    keep: bool,
) -> tuple[dict[str, Any], dict[str, Path]]:
    """Run a task on a stored image, and save every component as a label under its tag.

    Args:
        task: of a bundle.
        image_id: as the client sent it.
        options: rank or energy, component, device and file format of the request.
        folder: where to write; the caller removes it.
        datastore: with the image.
        keep: whether to save the components.

    Returns:
        What to tell the client, and the files by component, the chosen one first.

    Raises:
        HTTPException: 404, an unknown image; 400, a device that is not there; 413, 415 or 422, an
            image that is too large, cannot be read or does not fit the bundle; 403, 502 or 504, a
            result that the PACS does not get.
    """
    if options.store_in_pacs:
        datastore.check_stores_results()
    path, bundle, model = image_path(datastore, image_id), task.bundle, task.name
    result = bundle.run(path, options, further_files(datastore, bundle, image_id))
    files = task.write(result, options, folder)
    tags = {name: f"{bundle.name}_ifim_{name}" for name in files}
    answer = {
        "model": model,
        "model_version": bundle.model_version,
        "image": image_id,
        **task.describe(result, options),
        "tags": tags,
        "note": RESEARCH_ONLY,
    }
    if options.store_in_pacs:
        answer["stored_in_pacs"] = datastore.store_results(image_id, result, options)
    if keep:
        for name, file in files.items():
            info = {"model": model, "params": answer}
            datastore.save_label(image_id, str(file), tags[name], info)
    return answer, files
