"""One forward pass with its graph kept, and its products with the Jacobian J of the logits."""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from monai_ifim.core.checks import check_images, check_logits
from monai_ifim.core.input_gradients import input_gradients

OutputTransform = Callable[[Any], Tensor]

# Forward-mode products that are batched: beyond this a product costs as much as in a batch.
_JVP_CHUNK = 16

# On a CPU, batches of backward passes took 0.3 to 1.0 of the loop's time for images of up to so
# many values in all, with every network tried; for larger ones it depends on the network
# (benchmarks/ideas.py). So many values of gradients make a batch then, and so many passes at most.
_SMALL, _BATCH, _MOST = 1 << 14, 1 << 17, 32

logger = logging.getLogger(__name__)

# Kernels of attention and filters of warnings are the process's: two threads that choose and
# restore them in turn would leave a stranger's choice behind.
_PROCESS = threading.RLock()


@dataclass(frozen=True)
class Forward:
    """One forward pass with its graph kept.

    Attributes:
        images: leaf of the graph, (B, C, *S).
        logits: (B, K), or (B, K, *S') for a dense prediction; differentiable with respect to
            ``images``.
        function: images to logits once more, for Jacobian-vector products in forward mode; None
            when the pass cannot be repeated, and the graph is then differentiated twice.
    """

    images: Tensor
    logits: Tensor
    function: Callable[[Tensor], Tensor] | None = None


def as_leaf(images: Tensor) -> Tensor:
    """The images as a plain leaf that requires a gradient; the caller's tensor stays as it is.

    Under inference_mode the images are inference tensors, which autograd cannot record: only
    those are copied.
    """
    leaf = images.detach().as_subclass(Tensor)
    return (leaf.clone() if leaf.is_inference() else leaf).requires_grad_()


def run_forward(
    network: Callable[..., Any],
    images: Tensor,
    *args: Any,
    output_transform: OutputTransform | None = None,
    **kwargs: Any,
) -> Forward:
    """Forward pass with its graph kept, to be called inside ``at_rest``.

    Args:
        network: the classifier.
        images: (B, C, *S); left as they are, the network gets a copy.
        args: further positional arguments of the network.
        output_transform: chooses the logits from what the network returns.
        kwargs: further keyword arguments of the network.

    Returns:
        The pass. Errors are those of ``check_images`` and ``check_logits``.
    """
    check_images(images)
    leaf = as_leaf(images)

    # The network gets a copy, because some edit their input in place.
    def function(x: Tensor) -> Tensor:
        return _choose(network(x.clone(), *args, **kwargs), output_transform)

    with input_gradients(images):
        logits = function(leaf)
    return Forward(leaf, check_logits(logits, len(leaf)), function)


def kept_forward(
    leaf: Tensor,
    output: Any,
    *,
    output_transform: OutputTransform | None = None,
    network: Callable[[Tensor], Any] | None = None,
) -> Forward:
    """Forward pass that somebody else made and whose graph was kept.

    Args:
        leaf: the images in that graph, (B, C, *S).
        output: what the network returned.
        output_transform: chooses the logits from it.
        network: repeats the pass, where that is possible.

    Returns:
        The pass. Errors are those of ``check_logits``.
    """
    logits = check_logits(_choose(output, output_transform), len(leaf))
    if network is None:
        return Forward(leaf, logits)
    repeat = network
    return Forward(leaf, logits, lambda x: _choose(repeat(x.clone()), output_transform))


def _choose(output: Any, output_transform: OutputTransform | None) -> Tensor:
    """Trailing axes of length one, as a convolutional head leaves them, are dropped."""
    if output_transform is not None:
        output = output_transform(output)
    if isinstance(output, Tensor) and output.ndim > 2 and output.shape[2:].numel() == 1:
        return output.flatten(1)
    return output


def vector_jacobian_products(
    forward: Forward,
    cotangents: Tensor,
    *,
    chunk: int | str | None = None,
    offload: bool = False,
) -> Tensor:
    """Gradients of M linear combinations of the logits with respect to the images, Jᵀ u.

    One graph, M input-only backward passes: a loop, or ``chunk`` at a time through
    ``torch.func.vmap``. The loop needs the least memory, and is the faster one on CPU for all
    but small images. When a batch of passes runs out of GPU memory, it is halved, down to the
    loop.

    Args:
        forward: the pass, with its graph.
        cotangents: (M, *L) for logits of shape L.
        chunk: how many backward passes to batch; None or 1 for the loop; ``"auto"`` for what
            was measured to be fastest, and the loop where a network refuses batches.
        offload: keep the result in the CPU's memory, also when the images are on a GPU.

    Returns:
        (B, M, C, *S), in the images' dtype.

    Raises:
        ValueError: ``chunk`` is neither a number above 0, nor None, nor ``"auto"``.
    """
    images = forward.images
    size = _chunk_size(chunk, images)
    shape = (len(images), len(cotangents), *images.shape[1:])
    products = images.new_empty(shape, device="cpu" if offload else images.device)
    # Not .to(logits): a MetaTensor's kind would come along, and its slices look at metadata.
    cotangents = cotangents.to(forward.logits.device, forward.logits.dtype)
    start = 0
    while start < len(cotangents):
        part = cotangents[start : start + size]
        try:
            if len(part) == 1:
                products[:, start] = _backward(forward, part[0])
            else:
                products[:, start : start + size] = _batched(forward, part).transpose(0, 1)
        except torch.OutOfMemoryError:
            if len(part) == 1:
                raise
            size = len(part) // 2
            torch.cuda.empty_cache()
            logger.warning("out of memory: vjp_chunk is now %d", size)
            continue
        except Exception as error:
            # Many ways to refuse a batch: autograd functions, checkpoints, hooks that look at
            # values. Who asked for a number is told.
            if len(part) == 1 or chunk != "auto":
                raise
            logger.info("no batch of backward passes, going on one by one: %s", error)
            size = 1
            continue
        start += len(part)
    return products


def _chunk_size(chunk: int | str | None, images: Tensor) -> int:
    if chunk is None:
        return 1
    if chunk == "auto":  # no GPU has been measured
        small = images.is_cpu and images.numel() <= _SMALL
        return min(_MOST, _BATCH // images.numel()) if small else 1
    if not isinstance(chunk, int) or chunk < 1:
        raise ValueError(
            f"expected vjp_chunk >= 1, None or 'auto', got {chunk!r}; None is the plain loop"
        )
    return chunk


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the warning that torch runs what has no batched form pass by pass."""
    with _PROCESS, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "There is a performance drop")
        yield


def _batched(forward: Forward, cotangents: Tensor) -> Tensor:
    with _quiet():
        batch = torch.func.vmap(lambda u: _gradient(forward, u))(cotangents)
    return batch.as_subclass(Tensor)


def _gradient(forward: Forward, cotangent: Tensor) -> Tensor:
    return torch.autograd.grad(forward.logits, forward.images, cotangent, retain_graph=True)[0]


def _backward(forward: Forward, cotangent: Tensor) -> Tensor:
    try:
        return _gradient(forward, cotangent).as_subclass(Tensor)
    except RuntimeError as error:
        if "use_reentrant" not in str(error) and "Checkpointing is not" not in str(error):
            raise
    # Reentrant checkpointing knows only backward(). All parameters are frozen here, so our own
    # leaf is the only tensor that can receive a gradient.
    forward.images.grad = None
    forward.logits.backward(cotangent, retain_graph=True)
    gradient, forward.images.grad = forward.images.grad, None
    assert gradient is not None  # a graph that reaches the leaf always fills it
    return gradient.as_subclass(Tensor)


class JacobianVectorProducts:
    """Changes of the logits along changes of the images, J d, for one forward pass.

    Forward mode where the pass can be repeated and its operations know it (on CPU about 1.5
    times a backward pass each); otherwise the backward pass is differentiated once more, on the
    graph that is there already (about 2.2 times).

    Args:
        forward: the pass, with its graph.
    """

    def __init__(self, forward: Forward) -> None:
        self.forward = forward
        self.forward_mode = forward.function is not None
        self._checked = False
        self._twice: tuple[Tensor, Tensor] | None = None

    def __call__(self, changes: Tensor) -> Tensor:
        """Products with M changes of each image.

        Args:
            changes: (B, M, C, *S).

        Returns:
            (M, *L) for logits of shape L, in their dtype.

        Raises:
            RuntimeError: the network can be differentiated neither forwards nor twice.
        """
        changes = changes.transpose(0, 1).to(self.forward.images)
        if self.forward_mode:
            try:
                return torch.cat([self._forwards(part) for part in changes.split(_JVP_CHUNK)])
            except Exception as error:
                # Autograd functions, checkpoints, compiled networks, code that looks at its
                # tensors: many ways to refuse.
                logger.info("no forward mode, differentiating twice: %s", error)
                self.forward_mode = False
        return torch.stack([self._backwards_twice(change) for change in changes])

    def _forwards(self, changes: Tensor) -> Tensor:
        function, images = self.forward.function, self.forward.images.detach()
        assert function is not None

        def product(change: Tensor) -> Tensor:
            return torch.func.jvp(function, (images,), (change,))[1]

        # Fused attention has no forward mode; the composite one has.
        with _quiet(), sdpa_kernel(SDPBackend.MATH):
            products = torch.func.vmap(product, randomness="same")(changes)
        if not self._checked and not self._agrees(changes[0], products[0]):
            raise RuntimeError("forward and reverse mode disagree")
        self._checked = True
        return products.detach()

    def _agrees(self, change: Tensor, product: Tensor) -> bool:
        """Whether ⟨u, J d⟩ = ⟨Jᵀ u, d⟩ for one pair.

        A no_grad() inside the network makes forward mode return zeros in silence. Loose, because
        the repeated pass may see a unit at its kink from the other side.
        """
        product, change = product.double().flatten(1), change.double().flatten(1)
        good = torch.isfinite(product).all(dim=1)  # an image with NaN says nothing
        product = torch.where(good[:, None], product, 0)
        cotangent = product / product.norm() if product.any() else torch.ones_like(product)
        cotangent = cotangent.to(self.forward.logits).view_as(self.forward.logits)
        gradient = _backward(self.forward, cotangent).double().flatten(1)
        forwards = (cotangent.double().flatten(1) * product)[good].sum()
        backwards = (gradient * change)[good].sum()
        return bool((forwards - backwards).abs() <= 0.05 * backwards.abs())

    def _backwards_twice(self, change: Tensor) -> Tensor:
        """Jᵀ u is linear in u, so its own vector-Jacobian product is J."""
        if self._twice is None:
            cotangent = torch.zeros_like(self.forward.logits, requires_grad=True)
            try:
                gradient = torch.autograd.grad(
                    self.forward.logits, self.forward.images, cotangent, create_graph=True
                )[0]
                torch.autograd.grad(gradient, cotangent, change, retain_graph=True)
            except RuntimeError as error:
                raise RuntimeError(
                    "expected a network that can be differentiated in forward mode or twice, got "
                    f"{type(error).__name__}: {error}; run it without fused attention "
                    "(torch.nn.attention.sdpa_kernel(SDPBackend.MATH)) and without reentrant "
                    "checkpoints, or use method='exact'"
                ) from error
            self._twice = gradient, cotangent
        gradient, cotangent = self._twice
        return torch.autograd.grad(gradient, cotangent, change, retain_graph=True)[0].detach()
