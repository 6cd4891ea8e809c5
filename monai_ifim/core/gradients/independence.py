"""Whether the images of a batch are treated one by one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from monai_ifim.core.checks import masked_classes, not_finite
from monai_ifim.core.gradients.forward import Forward
from monai_ifim.core.gradients.vjp import backward

# A gradient with respect to another image that is larger than this share of the own one is no
# rounding. (Where images are independent it is exactly zero.)
_ROUNDING = 1e-6

# Networks that were found to treat images one by one, with the modules that they had then.
_known: WeakKeyDictionary[object, int] = WeakKeyDictionary()


class NetworkIdentity:
    """For a network that is made anew for each batch: which one it is for all of them.

    It has this object as its attribute ``identity``.
    """


class IndependenceCheck:
    """Refuses a network for which the images of a batch influence each other.

    F(x) of one image is then not that of its own prediction alone: with batch norm that takes the
    statistics of the batch, a second eigenvalue was 37 % off. It is asked once for each network.

    Args:
        forward: a pass of B images, with its graph.
        network: that made it; None when it is not known, and it is asked every time.
    """

    def __init__(self, forward: Forward, network: nn.Module | None = None) -> None:
        self._forward, self._network = forward, network
        self._asked = len(forward.images) > 1 and not _is_known(network)
        if self._asked:
            self._finite = _finite(forward)
            self._asked = int(self._finite.sum()) > 1

    def of_gradients(self) -> None:
        """Gradients of some images' logits with respect to the others vanish.

        The images are divided into two halves, in log2(B) ways so that every two images are once in
        different halves: 2 log2(B) backward passes.

        Raises:
            ValueError: some image's logits depend on another image.
        """
        if not self._asked:
            return
        finite = self._finite
        positions = torch.arange(len(finite), device=finite.device)
        for bit in range((len(finite) - 1).bit_length()):
            upper = (positions >> bit) % 2 == 1
            for chosen in (upper, ~upper):
                _check_half(self._forward, chosen & finite, ~chosen & finite)

    @torch.no_grad()
    def of_logits(self) -> None:
        """The logits of one image stay as they are when the others change.

        No gradient shows a detached maximum or mean of the batch, or an order of its images. That
        is one more forward pass; to be called after ``of_gradients`` when the graph has served,
        because a pass may change buffers that the graph holds.

        Raises:
            ValueError: the logits have changed.
        """
        if not self._asked:
            return
        images, finite = self._forward.images.detach(), self._finite
        means = images.flatten(1).mean(dim=1, dtype=torch.float64)
        image = int(means.masked_fill(~finite, -torch.inf).argmax())
        if _changes(self._forward, image, partial(_beside_others, self._forward, image)):
            raise ValueError(
                "expected a network that treats the images of a batch one by one, got other "
                f"logits for image {image} (counted from 0) beside other images; does the network "
                "use the maximum, the mean or the order of the batch? Use batches of one image, or "
                "change that layer"
            )
        others = self._forward.with_inputs_of
        if others is not None and _changes(self._forward, image, partial(others, images, image)):
            raise ValueError(
                "expected a network that treats the images of a batch one by one, got other "
                f"logits for image {image} (counted from 0) beside other values of the inputs that "
                "are held fixed, such as clinical data; does a layer take their maximum, mean or "
                "order in the batch? Use batches of one image, or change that layer"
            )
        if self._network is not None and bool(finite.all()):
            _known[_key(self._network)] = _fingerprint(self._network)


def _beside_others(forward: Forward, image: int) -> Any:
    """Logits of the batch with other images, of larger values, beside one."""
    if forward.function is None:
        return None
    images = forward.images.detach()
    own = images[image : image + 1]
    others = (2 * own.abs() + 1).expand_as(images).clone()
    others[image] = own[0]
    return forward.function(others)


def _changes(forward: Forward, image: int, run: Callable[[], Any]) -> bool:
    """Whether the logits of an image are others in another batch, and are so again."""
    before = _visible(forward.logits[image : image + 1])
    after = _logits_of(run, image)
    bound = _tolerance(forward.logits) * before.abs().amax()
    if (
        after is None
        or after.shape != before.shape
        or not bool((after - before).abs().amax() > bound)
    ):
        return False
    again = _logits_of(run, image)
    return again is not None and torch.equal(after, again)  # else it draws at random


def _logits_of(run: Callable[[], Any], image: int) -> Tensor | None:
    try:
        logits = run()
        return None if logits is None else _visible(logits[image : image + 1])
    except Exception:  # of whatever kind a network raises that does not take these images
        return None


def _visible(logits: Tensor) -> Tensor:
    return logits.detach().masked_fill(masked_classes(logits), 0).double()


def _tolerance(logits: Tensor) -> float:
    """Share of the largest logit that is rounding."""
    if logits.dtype is torch.float64:
        return 1e-9
    if logits.dtype is torch.float32 and logits.device.type == "cpu":
        return 1e-4
    return 2e-2  # half precision, TF32


def _finite(forward: Forward) -> Tensor:
    logits = forward.logits
    return ~(not_finite(forward.images) | not_finite(logits.masked_fill(masked_classes(logits), 0)))


def _check_half(forward: Forward, chosen: Tensor, others: Tensor) -> None:
    cotangent = torch.zeros_like(forward.logits)
    # Not the same for all classes: a softmax does not react to a shift of all its inputs.
    weights = torch.linspace(1, 2, forward.logits[0].numel(), device=cotangent.device)
    cotangent[chosen] = weights.view(forward.logits.shape[1:]).to(cotangent)
    sizes = backward(forward, cotangent).flatten(1).abs().amax(dim=1)
    own = sizes[chosen].amax() if bool(chosen.any()) else sizes.new_zeros(())
    influenced = others & (sizes > _ROUNDING * own)
    if bool(influenced.any()):
        image = int(influenced.nonzero()[0])
        raise ValueError(
            "expected a network that treats the images of a batch one by one, got logits that "
            f"also depend on another image of the batch (image {image}, counted from 0); is there "
            "a batch norm without running statistics, or an attention, recurrence or softmax along "
            "the batch axis? Use batches of one image, or change that layer"
        )


def _is_known(network: nn.Module | None) -> bool:
    return network is not None and _known.get(_key(network)) == _fingerprint(network)


def _key(network: nn.Module) -> object:
    identity = getattr(network, "identity", None)
    return identity if isinstance(identity, NetworkIdentity) else network


def _fingerprint(network: nn.Module) -> int:
    """Changes when a module is replaced, or a norm begins or ceases to use running statistics."""
    parts = [
        (
            m is network or id(m),
            getattr(m, "track_running_stats", None),
            getattr(m, "running_mean", None) is None,
        )
        for m in network.modules()
    ]
    return hash(tuple(parts))
