"""The answers for a batch, in which an image alone can be without one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from monai_ifim.changes import Batch
from monai_ifim.core import EigenspaceOptions, at_rest
from monai_ifim.core.one_by_one import one_image
from monai_ifim.messages import failed, is_failure, reason
from monai_ifim.outputs import BatchOutputs, with_metadata
from monai_ifim.questions.question import Answer, Asked, Question


@dataclass(frozen=True, eq=False)
class Host:
    """What a host has of a batch.

    Attributes:
        network: unwrapped; left as it is.
        images: (B, C, *S), with metadata or without.
        predict: place of an image in the batch, None for all of it, to the function that gives the
            network's output for images (1, C, *S) or (B, C, *S).
        batch: the host's own; only of a dictionary are the other entries seen.
        options: of the eigenspace.
    """

    network: nn.Module
    images: Tensor
    predict: Callable[[int | None], Callable[[Tensor], Any]]
    batch: Any
    options: EigenspaceOptions

    def asked(self, outputs: BatchOutputs, index: int | None) -> Asked:
        """The whole batch, or one image of it.

        Args:
            outputs: with the eigenspaces.
            index: of the image.

        Returns:
            What a question is asked of.
        """
        held = Batch.of(self.batch, self.images)
        if index is None:
            space = outputs.spaces[0][1]
        else:
            start, space = [part for part in outputs.spaces if part[0] <= index][-1]
            space, held = one_image(space, index - start), held.image(index)
        return Asked(
            space, held.images, self.predict(index), held.entries, self.options, held.spacing
        )


def answered(outputs: BatchOutputs, questions: Sequence[Question], host: Host) -> BatchOutputs:
    """The outputs of a batch with the answers to questions.

    Args:
        outputs: with ``spaces``.
        questions: in order.
        host: what it has of the batch.

    Returns:
        A copy with further columns and values. An image without an answer has failed: its status
        says why, and NaN are its values of the question.

    Raises:
        KeyError: the batch lacks an entry that a question needs, which is no image's fault.
    """
    for question in questions:
        good = [not is_failure(status) for status in outputs.statuses]
        if not any(good):
            return outputs
        with at_rest(host.network, host.images.device, autocast=host.options.autocast):
            outputs = _with(outputs, question, _answers(outputs, question, host, good), host.images)
    return outputs


def _answers(
    outputs: BatchOutputs, question: Question, host: Host, good: Sequence[bool]
) -> list[Answer | Exception | None]:
    """Of each image alone its answer, or why there is none; None for one without a result."""
    if all(good) and len(outputs.spaces) == 1:
        try:
            return _each(question.answer(host.asked(outputs, None)), len(good))
        except KeyError:
            raise
        except Exception as error:
            if len(good) == 1:
                return [error]
    answers: list[Answer | Exception | None] = []
    for index, fine in enumerate(good):
        try:
            answers.append(question.answer(host.asked(outputs, index)) if fine else None)
        except Exception as error:
            answers.append(error)
    return answers


def _each(answer: Answer, count: int) -> list[Answer | Exception | None]:
    return [
        Answer(answer.columns[i : i + 1], {n: v[i : i + 1] for n, v in answer.values.items()})
        for i in range(count)
    ]


def _with(
    outputs: BatchOutputs,
    question: Question,
    answers: Sequence[Answer | Exception | None],
    images: Tensor,
) -> BatchOutputs:
    numbers, statuses = list(outputs.numbers), list(outputs.statuses)
    model: Answer | None = None
    for i, answer in enumerate(answers):
        if isinstance(answer, Answer):
            numbers[i] = {**numbers[i], **answer.columns[0]}
            model = answer
        elif isinstance(answer, Exception):
            statuses[i] = failed(f"no {question.name}: {reason(answer)}")
    values = dict(outputs.values)
    for name, like in ({} if model is None else model.values).items():
        blank = torch.full_like(like, math.nan if like.dtype.is_floating_point else 0)
        parts = [a.values[name] if isinstance(a, Answer) else blank for a in answers]
        values[f"ifim_{name}"] = with_metadata(torch.cat(parts), images)
    return replace(outputs, values=values, numbers=tuple(numbers), statuses=tuple(statuses))
