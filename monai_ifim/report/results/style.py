"""How the figures look: one colour and marker for each direction, method, score or network."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import NamedTuple

import matplotlib


class Style(NamedTuple):
    """Name in the legend, colour, and the marker that distinguishes it without colour."""

    label: str
    colour: str
    marker: str


NEUTRAL = "#444444"
# Further lines of a legend: label, then colour and line style.
CHANCE = {"chance": (NEUTRAL, ":")}
NO_INFORMATION = {"no information": (NEUTRAL, ":")}

ATTRIBUTIONS = ("gradient", "integrated_gradients", "smoothgrad", "grad_cam", "occlusion")
METHODS = ("ifim", *ATTRIBUTIONS)
SCORES = ("trace", "largest_eigenvalue", "entropy", "uncertainty")
COMPARED = ("trained", "random_weights", "shuffled_labels")

# Hues of the palettes of Okabe and Ito, and of Paul Tol, which colour-blind people can tell apart;
# the markers do it where there are more lines than such hues.
STYLES = {
    "leading": Style("leading eigenvector", "#D55E00", "o"),
    "leading_reversed": Style("leading, reversed", "#7A3300", "x"),
    "random_in_eigenspace": Style("random inside eigenspace", "#E69F00", "^"),
    "random": Style("random anywhere", "#888888", "."),
    "band_limited": Style("random, band-limited", "#56B4E9", "s"),
    "random_in_complement": Style("random outside eigenspace", "#0072B2", "v"),
    "attenuate_high": Style("along −x_h", "#AA3377", "D"),
    "attenuate_orth": Style("along −x_o", "#009E73", "P"),
    "ifim": Style("iFIM sensitivity", "#AA3377", "D"),
    "ifim_smoothed": Style("iFIM, smoothed", "#AA3377", "P"),
    "ifim_pooled": Style("iFIM, inside the pooled space", "#AA3377", "h"),
    "gradient": Style("gradient", "#000000", "o"),
    "integrated_gradients": Style("integrated gradients", "#4455AA", "^"),
    "smoothgrad": Style("SmoothGrad", "#999933", "s"),
    "grad_cam": Style("Grad-CAM", "#33BBEE", "v"),
    "occlusion": Style("occlusion", "#CC9900", "X"),
    "trace": Style("trace of F", "#D55E00", "o"),
    "largest_eigenvalue": Style("largest eigenvalue", "#E69F00", "^"),
    "entropy": Style("entropy", "#0072B2", "s"),
    "uncertainty": Style("1 − largest probability", "#56B4E9", "v"),
    "trained": Style("trained network", "#D55E00", "o"),
    "random_weights": Style("random weights", "#888888", "s"),
    "shuffled_labels": Style("shuffled labels", "#0072B2", "v"),
    "two_seeds": Style("another seed", "#0072B2", "s"),
    "cnn": Style("CNN", "#D55E00", "o"),
    "resnet18": Style("ResNet-18", "#0072B2", "s"),
    "densenet121": Style("DenseNet-121", "#009E73", "^"),
    "densenet41": Style("DenseNet-41", "#44BB99", "<"),
    "efficientnet_b0": Style("EfficientNet-B0", "#AA3377", "v"),
    "vit": Style("ViT", "#E69F00", "D"),
    "single": Style("single image", "#888888", "o"),
    "smoothed": Style("smoothed", "#56B4E9", "s"),
    "equal": Style("pooled, equal weights", "#E69F00", "^"),
    "unit_trace": Style("pooled, unit traces", "#D55E00", "D"),
    "mean_jacobian": Style("mean Jacobian (no F)", "#009E73", "P"),
    "untrained": Style("random weights", "#000000", "x"),
    "own": Style("own, of this image", "#D55E00", "o"),
    "other_own": Style("another training's own", "#7A3300", "x"),
    "pooled": Style("pooled", "#0072B2", "D"),
    "other_pooled": Style("another training's pooled", "#56B4E9", "s"),
    "class_means": Style("difference of class means", "#CC9900", "^"),
    "complement": Style("rest of the image (x_o)", "#888888", "v"),
    "flip_distance": Style("flip distance", "#AA3377", "D"),
    "margin": Style("margin", "#117733", "P"),
    "gradient_norm": Style("norm of the gradient", "#7A3300", "X"),
    "mahalanobis": Style("Mahalanobis, features", "#009E73", "P"),
    "mean": Style("image's mean", "#888888", "."),
    "log_deviation": Style("image's deviation", "#666666", "x"),
    "log_gradient": Style("image's gradients", "#444444", "*"),
    "ratio_random": Style("random: inside / outside", "#E69F00", "^"),
    "ratio_attenuation": Style("x − αx_h / x − βx_o", "#AA3377", "D"),
}
# A mask takes away the pixels that a method ranks highest, so it has the method's colour.
STYLES |= {
    f"{name}_mask": STYLES[name]._replace(label=f"pixels by {STYLES[name].label}")
    for name in ATTRIBUTIONS
}
SETTINGS = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
}


def settings() -> AbstractContextManager[None]:
    """The settings of the figures, for the drawing and for the writing."""
    return matplotlib.rc_context(SETTINGS)


def style(name: str) -> Style:
    """Style of a direction, method or score; a grey one for names that are not known."""
    return STYLES.get(name, Style(name.replace("_", " "), NEUTRAL, "*"))
