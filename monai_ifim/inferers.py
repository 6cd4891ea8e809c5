"""A MONAI inferer that keeps the graph of the forward pass it runs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch
from monai.data import MetaTensor
from monai.inferers import Inferer, SimpleInferer
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from monai_ifim.core import as_leaf, exclusive, frozen_parameters, unwrap
from monai_ifim.core.gradients.fast.input_gradients import input_gradients
from monai_ifim.core.one_by_one import each_alone, of_zeros
from monai_ifim.messages import check_on_error, reason


class IFIMInferer(Inferer):
    """The prediction of another inferer, with the graph kept for ``IFIMHandler``.

    Validation with iFIM then costs one forward pass instead of two. The prediction is what the
    wrapped inferer returns, bit for bit (to rounding where PyTorch has another kernel for passes
    without gradients, as for ``nn.TransformerEncoder``). Where sharing the pass would change it,
    or would give wrong gradients (a network in train mode, autocast, a host that wants gradients
    itself), the wrapped inferer simply runs, nothing is kept, and the handler runs a pass of its
    own. Every thread has its own last graph, so that a server's requests cannot mix.

    Args:
        inferer: any MONAI inferer; ``SimpleInferer`` by default.
        on_error: what happens when the network raises: ``"raise"``; or ``"row"``, and the images
            are predicted one at a time, NaN for those that raise alone, for a host that says so in
            its table. Where an image of zeros raises, too, the network is at fault, and it raises.

    Raises:
        ValueError: ``on_error`` is another word.

    >>> import torch
    >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3)).eval()
    >>> images = torch.randn(2, 1, 4, 4)
    >>> inferer = IFIMInferer()
    >>> with torch.no_grad():
    ...     prediction = inferer(images, network)
    >>> prediction.requires_grad
    False
    >>> leaf, output = inferer.take(images)
    >>> output.requires_grad
    True
    """

    def __init__(self, inferer: Inferer | None = None, *, on_error: str = "raise") -> None:
        super().__init__()
        self.on_error = check_on_error(on_error)
        self.inferer = SimpleInferer() if inferer is None else inferer
        self._thread = threading.local()

    @property
    def _kept(self) -> tuple[Tensor, Tensor, Any] | None:
        return getattr(self._thread, "kept", None)

    @_kept.setter
    def _kept(self, kept: tuple[Tensor, Tensor, Any] | None) -> None:
        self._thread.kept = kept

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles carry no graph."""
        return {name: value for name, value in self.__dict__.items() if name != "_thread"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Nothing kept yet."""
        self.__dict__.update(state)
        self._thread = threading.local()

    def __call__(
        self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        """Run the wrapped inferer.

        Args:
            inputs: images (B, C, *S).
            network: the classifier.
            args: further positional arguments of the network.
            kwargs: further keyword arguments of the network.

        Returns:
            What the wrapped inferer returns, detached.

        Raises:
            Exception: the network's.
        """
        self._thread.failed = None
        try:
            output = self._predicted(inputs, network, *args, **kwargs)
            if self.on_error == "row" and isinstance(output, Tensor):
                blank = torch.full_like(output[:1].as_subclass(Tensor), torch.nan)
                self._thread.blank = (inputs.shape[1:], blank)
            return output
        except Exception as error:
            if self.on_error == "raise":
                raise
            self._kept = None
            return self._one_by_one(inputs, network, error, *args, **kwargs)

    def failures(self, inputs: Tensor) -> dict[int, str]:
        """Images of this thread's last call without a prediction.

        Args:
            inputs: the very tensor that the call was given.

        Returns:
            Why, by the images' positions.
        """
        images, failures = getattr(self._thread, "failed", None) or (None, {})
        return failures if images is inputs else {}

    def _predicted(
        self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        self._kept = None
        if not isinstance(network, nn.Module):
            return self.inferer(inputs, network, *args, **kwargs)
        # A DDP wrapper called with gradients on broadcasts buffers and can dead-lock.
        plain = unwrap(network)
        with exclusive(plain):  # its flags as the caller set them, not as another thread did
            if not _can_share(inputs, network):
                return self.inferer(inputs, network, *args, **kwargs)
            leaf, output = self._with_graph(inputs, plain, *args, **kwargs)
        self._kept = (inputs, leaf, output)
        return tree_map_only(Tensor, Tensor.detach, output)

    def _one_by_one(
        self, inputs: Tensor, network: Callable[..., Any], error: Exception, *args: Any, **kw: Any
    ) -> Tensor:
        """Predictions of a batch that failed as a whole, NaN for images that fail alone."""
        plain = inputs.detach().as_subclass(Tensor)

        def run(images: Tensor) -> Any:
            return self._predicted(images, network, *args, **kw)

        outputs = each_alone(run, plain, error)
        model = next((each for each in outputs if isinstance(each, Tensor)), self._blank_of(plain))
        if model is None:
            model = of_zeros(run, plain, error)
            if not isinstance(model, Tensor):
                raise error
        blank = torch.full_like(model[:1], torch.nan)
        self._kept = None
        failures = {i: reason(o) for i, o in enumerate(outputs) if isinstance(o, Exception)}
        self._thread.failed = (inputs, failures)
        whole = torch.cat([blank if isinstance(o, Exception) else o for o in outputs])
        return MetaTensor(whole).copy_meta_from(inputs) if isinstance(inputs, MetaTensor) else whole

    def _blank_of(self, images: Tensor) -> Tensor | None:
        """NaN of the shape that the last good batch's predictions had; None where it may differ."""
        shape, blank = getattr(self._thread, "blank", (None, None))
        # One outcome per image has the same shape for images of any size.
        return (
            blank if blank is not None and (blank.ndim == 2 or shape == images.shape[1:]) else None
        )

    def _with_graph(
        self, inputs: Tensor, network: nn.Module, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Any]:
        with torch.inference_mode(False), torch.enable_grad(), frozen_parameters(network):
            leaf = as_leaf(inputs)
            images = leaf.clone()
            if isinstance(inputs, MetaTensor):
                images = MetaTensor(images).copy_meta_from(inputs)
            with input_gradients(images):
                return leaf, self.inferer(images, network, *args, **kwargs)

    def take(self, inputs: Tensor | None = None) -> tuple[Tensor, Any] | None:
        """Hand over the graph of this thread's last call, once.

        Args:
            inputs: the very tensor that the call was given; not compared when None.

        Returns:
            The leaf that stands for the images, and the network's output with its graph; None
            when nothing was kept for this tensor.
        """
        kept, self._kept = self._kept, None
        if kept is None or (inputs is not None and kept[0] is not inputs):
            return None
        return kept[1], kept[2]


def _can_share(inputs: Tensor, network: nn.Module) -> bool:
    return (
        not torch.is_grad_enabled()
        and not torch.is_autocast_enabled(inputs.device.type)
        and inputs.is_floating_point()
        and not any(module.training for module in network.modules())
        and not any(p.is_inference() for p in network.parameters())
    )
