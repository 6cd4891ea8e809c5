"""The answers for a batch, in which an image alone can be without one."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from monai_ifim.changes import Batch, MissingEntry
from monai_ifim.core import EigenspaceOptions, at_rest
from monai_ifim.core.one_by_one import one_image, without_memory
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
        return Asked(space, held, self.predict(index), self.options)


def answered(
    outputs: BatchOutputs, questions: Sequence[Question], host: Host, *, on_error: str = "row"
) -> BatchOutputs:
    """The outputs of a batch with the answers to questions.

    Args:
        outputs: with ``spaces``.
        questions: in order.
        host: what it has of the batch.
        on_error: what follows when there is no answer for an image: ``"row"`` or ``"raise"``.

    Returns:
        A copy with further columns and values. An image without an answer has failed: its status
        says why, and NaN are its values of the question.

    Raises:
        MissingEntry: the run lacks what a question needs, which is no image's fault.
        ValueError: two questions with the same column.
        Exception: with ``on_error="raise"`` why there is no answer.
    """
    for question in questions:
        good = [not is_failure(status) for status in outputs.statuses]
        answers: list[Answer | Exception | None] = [None] * len(good)
        if any(good):
            with at_rest(host.network, host.images.device, autocast=host.options.autocast):
                answers = _answers(outputs, question, host, good)
        errors = [answer for answer in answers if isinstance(answer, Exception)]
        if errors and on_error == "raise":
            raise errors[0]
        outputs = _with(outputs, question, answers, host.images)
    return outputs


def _answers(
    outputs: BatchOutputs, question: Question, host: Host, good: Sequence[bool]
) -> list[Answer | Exception | None]:
    """Of each image alone its answer, or why there is none; None for one without a result."""
    if all(good) and len(outputs.spaces) == 1:
        try:
            return _each(question.answer(host.asked(outputs, None)), len(good))
        except MissingEntry:
            raise
        except Exception as error:
            if len(good) == 1:
                return [without_memory(error)]
            without_memory(error)
    answers: list[Answer | Exception | None] = []
    for index, fine in enumerate(good):
        try:
            answers.append(question.answer(host.asked(outputs, index)) if fine else None)
        except MissingEntry:
            raise
        except Exception as error:
            answers.append(without_memory(error))
    return answers


def _more(
    numbers: dict[str, Any], columns: Mapping[str, Any], question: Question
) -> dict[str, Any]:
    """The numbers of an image with the columns of an answer."""
    twice = sorted(set(numbers) & set(columns))
    if twice:
        raise ValueError(
            f"expected columns of other names from {question.name}, got {', '.join(twice)}, which "
            "is there already; give one question of a kind, or other names (labels and other= of "
            "ShareColumns)"
        )
    return {**numbers, **columns}


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
            numbers[i] = _more(numbers[i], answer.columns[0], question)
            model = answer
        elif isinstance(answer, Exception):
            statuses[i] = failed(f"no {question.name}: {reason(answer)}")
    values = dict(outputs.values)
    likes: dict[str, Tensor] = {} if model is None else dict(model.values)
    plain = images[:1].detach().as_subclass(Tensor)
    for name, like in {**dict.fromkeys(question.volumes, plain), **likes}.items():
        blank = torch.full_like(like, math.nan if like.dtype.is_floating_point else 0)
        parts = [a.values[name] if isinstance(a, Answer) else blank for a in answers]
        values[f"ifim_{name}"] = with_metadata(torch.cat(parts), images)
    return replace(outputs, values=values, numbers=tuple(numbers), statuses=tuple(statuses))
