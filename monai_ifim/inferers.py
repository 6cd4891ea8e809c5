"""A MONAI inferer that hands the graph of its forward pass to whoever asks for it."""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import torch
from monai.data import MetaTensor
from monai.inferers import Inferer, SimpleInferer
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from monai_ifim.core import as_leaf, exclusive, frozen_parameters, unwrap
from monai_ifim.core.gradients.fast.input_gradients import input_gradients
from monai_ifim.core.gradients.forward import copies
from monai_ifim.core.one_by_one import each_alone, of_image, of_zeros
from monai_ifim.messages import check_on_error, reason


class KeptGraph:
    """Where an ``IFIMInferer`` leaves the graph of a call, for whoever holds this object."""

    def __init__(self) -> None:
        self._kept: tuple[Tensor, Tensor, Any] | None = None

    def put(self, kept: tuple[Tensor, Tensor, Any] | None) -> None:
        """Replace what is kept.

        Args:
            kept: the tensor that the call was given, leaf and output; None for nothing.
        """
        self._kept = kept

    def take(self, inputs: Tensor) -> tuple[Tensor, Any] | None:
        """Hand over the graph of the last call, once.

        Args:
            inputs: the very tensor that the call was given.

        Returns:
            The leaf that stands for the images, and the network's output with its graph; None
            when nothing was kept for this tensor.
        """
        kept, self._kept = self._kept, None
        return None if kept is None or kept[0] is not inputs else kept[1:]


@dataclass(frozen=True, eq=False)
class PredictionCall:
    """What a call was given, without any graph: enough to make its pass once more.

    Attributes:
        images: (B, C, *S), with metadata or without.
        network: a weak reference to the classifier, unwrapped.
        inferer: the wrapped one, called as ``inferer(images, network, *args, **kwargs)``.
        args: further positional arguments of the network.
        kwargs: further keyword arguments of the network.
    """

    images: Tensor
    network: weakref.ref[nn.Module]
    inferer: Inferer
    args: Sequence[Any]
    kwargs: Mapping[str, Any]

    def predict(self, images: Tensor) -> Any:
        """What the network, called as before, returns for images (B, C, *S)."""
        args, kwargs = copies((self.args, self.kwargs))
        return self.inferer(images, self.network(), *args, **kwargs)

    def of_image(self, index: int | None, repeat: int = 1) -> PredictionCall:
        """The call with the further arguments of one image.

        Args:
            index: of the image in the batch; None for zeros in their place.
            repeat: for so many images.

        Returns:
            A call that predicts images (repeat, C, *S).
        """
        args, kwargs = of_image((self.args, self.kwargs), index, len(self.images), repeat)
        return replace(self, args=args, kwargs=kwargs)


class IFIMInferer(Inferer):
    """The prediction of another inferer, with the graph kept for whoever asked for it.

    ``IFIMHandler`` asks, and validation with iFIM then costs one forward pass instead of two. The
    prediction is what the wrapped inferer returns, bit for bit (to rounding where PyTorch has
    another kernel for passes without gradients, as for ``nn.TransformerEncoder``). Where sharing
    the pass would change it, or would give wrong gradients (a network in train mode, autocast, a
    host that wants gradients itself), the wrapped inferer simply runs, nothing is kept, and the
    handler runs a pass of its own.

    When nobody asked, no graph outlives the call. What remains is then what the call was given,
    for ``ComponentOfPredictiond``, until it is taken or the next call comes; of a thread that has
    ended, until any thread's next call. Every thread has its own last call, so that a server's
    requests cannot mix.

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
    >>> graph = inferer.keep_graph()
    >>> with torch.no_grad():
    ...     prediction = inferer(images, network)
    >>> prediction.requires_grad
    False
    >>> leaf, output = graph.take(images)
    >>> output.requires_grad
    True
    """

    def __init__(self, inferer: Inferer | None = None, *, on_error: str = "raise") -> None:
        super().__init__()
        self.on_error = check_on_error(on_error)
        self.inferer = SimpleInferer() if inferer is None else inferer
        # Not in thread-local storage: a host that ends its thread from C++ drops that when Python
        # has given the thread up, and freeing any tensor then crashes (seen with Holoscan 4.6).
        self._threads: dict[int, SimpleNamespace] = {}

    @property
    def _thread(self) -> SimpleNamespace:
        """What is known of this thread's last call."""
        return self._threads.setdefault(threading.get_ident(), SimpleNamespace())

    def _drop_ended_threads(self) -> None:
        running = sys._current_frames()  # threads that run Python now
        for thread in [each for each in list(self._threads) if each not in running]:
            self._threads.pop(thread, None)

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles carry nothing of a call."""
        return {name: value for name, value in self.__dict__.items() if name != "_threads"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Nothing called yet."""
        self.__dict__.update(state)
        self._threads = {}

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
        self._drop_ended_threads()
        self._forget()
        try:
            output = self._predicted(inputs, network, *args, **kwargs)
            if self.on_error == "row" and isinstance(output, Tensor):
                blank = torch.full_like(output[:1].as_subclass(Tensor), torch.nan)
                self._thread.blank = (inputs.shape[1:], blank)
            return output
        except Exception as error:
            self._forget()
            if self.on_error == "raise":
                raise
            return self._one_by_one(inputs, network, error, *args, **kwargs)

    def failures(self, inputs: Tensor) -> dict[int, str]:
        """Images of this thread's last call without a prediction.

        Args:
            inputs: the very tensor that the call was given.

        Returns:
            Why, by the images' positions.
        """
        known, failures = getattr(self._thread, "failed", None) or (lambda: None, {})
        return failures if known() is inputs else {}

    def keep_graph(self) -> KeptGraph:
        """Ask for the graphs of this thread's calls, for as long as the answer is held.

        Returns:
            Where the graph of the last call is, from the next call on. Others who asked in this
            thread, and still hold it, have the same.
        """
        kept = self._asked_for()
        if kept is None:
            kept = KeptGraph()
            self._thread.graph = weakref.ref(kept)
        return kept

    def take_call(self) -> PredictionCall | None:
        """Hand over what this thread's last call was given, once.

        Returns:
            Images and network; None where there was no call, it failed, its graph was asked for,
            or it was made with gradients on or without a ``torch.nn.Module``.
        """
        call = getattr(self._thread, "call", None)
        self._thread.call = None
        return call

    def _asked_for(self) -> KeptGraph | None:
        known = getattr(self._thread, "graph", None)
        return None if known is None else known()

    def _forget(self) -> None:
        """Nothing of an earlier call of this thread remains."""
        self._thread.failed = self._thread.call = None
        if (kept := self._asked_for()) is not None:
            kept.put(None)

    def _predicted(
        self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        if not isinstance(network, nn.Module):
            return self.inferer(inputs, network, *args, **kwargs)
        # A DDP wrapper called with gradients on broadcasts buffers and can dead-lock.
        plain, asked = unwrap(network), self._asked_for()
        with exclusive(plain):  # its flags as the caller set them, not as another thread did
            if asked is None or not _can_share(inputs, network):
                output = self.inferer(inputs, network, *args, **kwargs)
            else:
                leaf, output = self._with_graph(inputs, plain, *args, **kwargs)
                asked.put((inputs, leaf, output))
                output = tree_map_only(Tensor, Tensor.detach, output)
        if asked is None and not torch.is_grad_enabled():
            args, kwargs = tree_map_only(Tensor, Tensor.detach, (args, kwargs))
            known = weakref.ref(plain)
            self._thread.call = PredictionCall(inputs.detach(), known, self.inferer, args, kwargs)
        return output

    def _one_by_one(
        self, inputs: Tensor, network: Callable[..., Any], error: Exception, *args: Any, **kw: Any
    ) -> Tensor:
        """Predictions of a batch that failed as a whole, NaN for images that fail alone."""
        plain = inputs.detach().as_subclass(Tensor)

        def run(images: Tensor, index: int | None) -> Any:
            own_args, own_kw = of_image((args, kw), index, len(plain))
            return self._predicted(images, network, *own_args, **own_kw)

        outputs = each_alone(run, plain, error)
        model = next((each for each in outputs if isinstance(each, Tensor)), self._blank_of(plain))
        if model is None:
            model = of_zeros(run, plain, error)
            if not isinstance(model, Tensor):
                raise error
        blank = torch.full_like(model[:1], torch.nan)
        self._forget()
        failures = {i: reason(o) for i, o in enumerate(outputs) if isinstance(o, Exception)}
        self._thread.failed = (weakref.ref(inputs), failures)
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
            args, kwargs = copies((args, kwargs))
            if isinstance(inputs, MetaTensor):
                images = MetaTensor(images).copy_meta_from(inputs)
            with input_gradients(images):
                return leaf, self.inferer(images, network, *args, **kwargs)


def _can_share(inputs: Tensor, network: nn.Module) -> bool:
    return (
        not torch.is_grad_enabled()
        and not torch.is_autocast_enabled(inputs.device.type)
        and inputs.is_floating_point()
        and not any(module.training for module in network.modules())
        and not any(p.is_inference() for p in network.parameters())
    )
