"""What a network, a batch of images and its logits must be.

Every message says what was expected, what came, and how to fix it.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn


def check_network(network: nn.Module) -> list[nn.Module]:
    """Refuse what cannot be differentiated with respect to its input.

    Args:
        network: the classifier.

    Returns:
        All its modules, each one once.

    Raises:
        TypeError: ``network`` is not a ``torch.nn.Module``.
        ValueError: a parameter or buffer was created under ``torch.inference_mode()``.
    """
    if not isinstance(network, nn.Module):
        raise TypeError(
            f"expected the network as a torch.nn.Module, got {type(network).__name__}; "
            "wrap a function in a Module whose forward calls it"
        )
    modules = list(network.modules())
    owned = [t for m in modules for ts in (m._parameters, m._buffers) for t in ts.values()]
    tensors = [tensor for tensor in owned if tensor is not None]
    if any(tensor.is_inference() for tensor in tensors):
        named = [*network.named_parameters(), *network.named_buffers()]
        inference = [name for name, tensor in named if tensor.is_inference()]
        raise ValueError(
            "expected parameters and buffers that autograd can use, got inference tensors "
            f"({', '.join(inference[:3])}{', ...' if len(inference) > 3 else ''}): the network "
            "was built or loaded under torch.inference_mode(); build it outside of that context"
        )
    if {torch.float16, torch.bfloat16} & {tensor.dtype for tensor in tensors}:
        warnings.warn(
            "the network holds half-precision parameters: its input gradients are off by 8 % "
            "(float16) to 23 % (bfloat16); use network.float() for the Fisher information",
            stacklevel=3,
        )
    return modules


def check_images(images: Tensor) -> None:
    """Refuse a batch that has no Fisher information.

    Args:
        images: expected (B, C, *S), floating point.

    Raises:
        TypeError: not a tensor, or not floating point.
        ValueError: too few axes, or an empty batch.
    """
    if not isinstance(images, Tensor):
        raise TypeError(
            f"expected images as a torch.Tensor, got {type(images).__name__}; use torch.as_tensor, "
            "or SeveralInputs for a network of several inputs"
        )
    if images.ndim < 3:
        raise ValueError(
            f"expected images of shape (batch, channel, *spatial), got {tuple(images.shape)}; "
            "add the missing axes, for one image with images[None]"
        )
    if not images.is_floating_point():
        raise TypeError(
            f"expected floating-point images, got {images.dtype}: integers have no gradient; "
            "use images.float() and scale as in training"
        )
    if images.numel() == 0:
        raise ValueError(
            f"expected at least one image, got an empty batch of shape {tuple(images.shape)}; "
            "skip empty batches"
        )


def check_finite_images(images: Tensor) -> None:
    """Refuse NaN and infinity.

    Args:
        images: (B, C, *S).

    Raises:
        ValueError: names the images of the batch.
    """
    bad = not_finite(images)
    if bad.any():
        raise ValueError(
            f"expected finite images, got NaN or infinity in {_which(bad)}; "
            "fix the preprocessing (division by zero?) or leave the image out"
        )


def check_logits(logits: Tensor, batch: int) -> Tensor:
    """Logits as (B, K), or (B, K, *S) of a dense prediction, differentiable in the images.

    Args:
        logits: output of the network (after ``output_transform``).
        batch: number of images B.

    Returns:
        The logits.

    Raises:
        TypeError: not one tensor.
        ValueError: wrong number of axes or of rows, or detached from the images.
    """
    if not isinstance(logits, Tensor):
        raise TypeError(
            f"expected the network to return one tensor of logits, got {type(logits).__name__}; "
            "choose it with output_transform, for example output_transform=lambda y: y[0]"
        )
    if logits.ndim < 2:
        raise ValueError(
            f"expected logits of shape (batch, classes), got {tuple(logits.shape)}; "
            "choose them with output_transform"
        )
    if logits.shape[0] != batch:
        raise ValueError(
            f"expected logits for {batch} images, got {logits.shape[0]} rows; the network must "
            "treat the images of a batch one by one, in order"
        )
    if not logits.requires_grad:
        raise ValueError(
            "expected logits that depend on the images, got a tensor detached from them: is there "
            "a detach(), a no_grad(), a numpy round trip or an argmax in the network's forward? "
            "Remove it, or choose the logits before it with output_transform"
        )
    return logits


def check_finite_logits(logits: Tensor) -> None:
    """Refuse NaN and infinity.

    Args:
        logits: (B, K).

    Raises:
        ValueError: names the images of the batch.
    """
    bad = not_finite(logits.masked_fill(masked_classes(logits), 0))
    if bad.any():
        raise ValueError(
            f"expected finite logits, got NaN or infinity for {_which(bad)}; look for overflow "
            "(half precision?) or for weights that diverged in training"
        )


def check_finite_factor(factor: Tensor, family: object) -> None:
    """Refuse a family that overflows at finite logits.

    Args:
        factor: of the family, (B, M, M).
        family: for the message.

    Raises:
        ValueError: names the images of the batch.
    """
    bad = not_finite(factor)
    if bad.any():
        raise ValueError(
            f"expected a finite factor of {family!r}, got NaN or infinity for {_which(bad)}; the "
            "logits are beyond what the family can represent"
        )


def check_finite_gradients(trace: Tensor) -> None:
    """Refuse gradients with NaN or infinity behind finite logits.

    Args:
        trace: trace of F for each image, (B,).

    Raises:
        ValueError: names the images of the batch.
    """
    bad = not_finite(trace)
    if bad.any():
        raise ValueError(
            f"expected finite gradients of the logits, got NaN or infinity for {_which(bad)}; look "
            "for sqrt, log or a division at zero in the network's forward"
        )


def check_rank(rank: int | None, energy: float | None = None, largest: int | None = None) -> None:
    """Refuse an impossible choice of eigenpairs.

    Args:
        rank: most eigenpairs to keep, or None.
        energy: share of the trace to reach, or None.
        largest: the largest rank that F can have; None where that is not known yet.

    Raises:
        ValueError: rank out of range, energy out of (0, 1], or both given.
    """
    if rank is not None and energy is not None:
        raise ValueError(
            f"expected rank or energy, got both (rank={rank}, energy={energy}); leave one out"
        )
    if rank is not None and (isinstance(rank, bool) or not hasattr(rank, "__index__")):
        raise ValueError(f"expected rank as a whole number, got {rank!r}; for example rank=3")
    if rank is not None and (rank < 1 or rank > (largest or rank)):
        allowed = "1 <= rank" if largest is None else f"1 <= rank <= {largest}"
        why = "" if largest is None else " (the largest rank of F here)"
        raise ValueError(
            f"expected {allowed}{why}, got rank={rank}; leave rank out to keep every eigenpair"
        )
    if energy is not None and not isinstance(energy, (int, float)):
        raise ValueError(f"expected energy as a number, got {energy!r}; for 95 % say energy=0.95")
    if energy is not None and not 0 < energy <= 1:
        raise ValueError(
            f"expected a share of the trace 0 < energy <= 1, got energy={energy}; "
            "for 95 % say energy=0.95"
        )


def check_chunk(chunk: int | str | None) -> None:
    """Refuse what is no number of backward passes.

    Args:
        chunk: a number above 0, None or ``"auto"``.

    Raises:
        ValueError: anything else.
    """
    if chunk is None or chunk == "auto":
        return
    if isinstance(chunk, bool) or not isinstance(chunk, int) or chunk < 1:
        raise ValueError(
            f"expected vjp_chunk >= 1, None or 'auto', got {chunk!r}; None is the plain loop"
        )


def check_tolerance(tolerance: float) -> None:
    """Refuse a relative tolerance that is none.

    Args:
        tolerance: expected in (0, 1).

    Raises:
        ValueError: out of range.
    """
    if not isinstance(tolerance, (int, float)):
        raise ValueError(
            f"expected tolerance as a number, got {tolerance!r}; write 0.001 (YAML takes 1e-3 for "
            "text)"
        )
    if not 0 < tolerance < 1:
        raise ValueError(
            f"expected a relative tolerance 0 < tolerance < 1, got {tolerance}; for example 1e-3"
        )


def masked_classes(logits: Tensor) -> Tensor:
    """Logits of minus infinity beside finite ones: classes that a network rules out on purpose.

    Half precision overflows to the same value, so there it is not taken for a purpose.

    Args:
        logits: (B, K), or (B, K, *S).

    Returns:
        Booleans of the logits' shape.
    """
    logits = logits.detach()
    if logits.dtype in (torch.float16, torch.bfloat16):
        return torch.zeros_like(logits, dtype=torch.bool)
    masked = logits == -torch.inf
    return masked & torch.isfinite(logits).any(dim=1, keepdim=True)


def not_finite(values: Tensor) -> Tensor:
    """Rows that hold NaN or infinity, as (B,) booleans."""
    rows = values.detach().reshape(len(values), -1)
    # One NaN or infinity spoils a sum, which is ten times cheaper than to look at every value.
    # A sum of finite values can overflow, so only a good one proves anything.
    if torch.isfinite(rows.sum(dim=1)).all():
        return torch.zeros(len(values), dtype=torch.bool, device=values.device)
    return ~torch.isfinite(rows).all(dim=1)


def _which(bad: Tensor) -> str:
    rows = [str(row) for row in bad.nonzero().flatten().tolist()]
    named = ", ".join(rows[:5]) + (", ..." if len(rows) > 5 else "")
    return f"image{'s' if len(rows) > 1 else ''} {named} of the batch (counted from 0)"
