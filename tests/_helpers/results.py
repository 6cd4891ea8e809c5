"""What experiments write, made up: every block that the page of results can show."""

import json
import math
import random
import re

NETWORKS = ("cnn", "resnet18", "densenet121", "efficientnet_b0", "vit")
METHODS = ("gradient", "integrated_gradients", "smoothgrad", "grad_cam", "occlusion")
# How strongly each direction moves the prediction.
STRENGTHS = {
    "leading": 30.0,
    "leading_reversed": 26.0,
    "random_in_eigenspace": 22.0,
    "random_in_complement": 0.02,
    "random": 0.1,
    "band_limited": 0.4,
    "attenuate_high": 24.0,
    "attenuate_orth": 0.3,
    **{f"{method}_mask": 2.0 + i for i, method in enumerate(METHODS)},
}
IMAGE_NORM = 12.0
RELATIVE = (0.01, 0.03, 0.1)
NORMS = [IMAGE_NORM * share for share in (0.001, 0.003, *RELATIVE, 0.3)]


def around(value, n, width=0.1):
    """An interval around a value."""
    return {"value": value, "low": value * (1 - width), "high": value * (1 + width), "n": n}


def share(value, n, width=0.04):
    """An interval of a share, which cannot leave 0 to 1."""
    value = min(1.0, max(0.0, value))
    return {"value": value, "low": max(0.0, value - width), "high": min(1.0, value + width), "n": n}


def perturbation(draw, ratios):
    directions = {}
    for name, strength in STRENGTHS.items():
        strength *= draw.uniform(0.7, 1.4)
        quadratic = [0.5 * strength * e**2 for e in NORMS]
        divergence = [q / (1 + q / 3) for q in quadratic]
        directions[name] = {
            "quadratic": quadratic,
            "divergence": [around(d, 128, 0.2) for d in divergence],
            "probability_change": [around(-0.4 * math.tanh(d), 128) for d in divergence],
            "flip_rate": [share(0.5 * math.tanh(d), 128) for d in divergence],
            "accuracy": [share(0.9 - 0.5 * math.tanh(d), 128) for d in divergence],
            "auc": [share(0.95 - 0.5 * math.tanh(d), 128) for d in divergence],
        }
    steps = [
        {
            "norm": relative * IMAGE_NORM,
            "relative_norm": relative,
            "random": ratio,
            "along_components": around(draw.uniform(20, 90), 128, 0.3),
            "leading": around(draw.uniform(900, 25000), 128, 0.3),
            "masks": {method: around(draw.uniform(2, 9), 128, 0.3) for method in METHODS},
            "share": share(0.97, 128),
            "effective_images": 21.5,
            "alpha": 40 * relative,
        }
        for relative, ratio in zip(RELATIVE, ratios, strict=True)
    ]
    return {
        "images": 128,
        "pixels": 1024,
        "image_norm": IMAGE_NORM,
        "norms": NORMS,
        "directions": directions,
        "top_share": 0.1,
        "ratios": steps,
        "attenuation": [
            {
                "alpha": alpha,
                "norm": alpha,
                "relative_norm": alpha / IMAGE_NORM,
                "attenuation": around(draw.uniform(20, 90), 128, 0.3),
                "law": 1 - 0.4 * alpha,
            }
            for alpha in (0.25, 0.5, 1.0)
        ],
    }


def maps(draw):
    def curve(speed):
        return [0.1 + 0.85 * math.exp(-speed * i) for i in range(11)]

    methods = {}
    for name in ("ifim", *METHODS):
        speed = draw.uniform(0.1, 0.5)
        other = name != "ifim"
        methods[name] = {
            "rank_correlation": share(draw.uniform(0.2, 0.8), 64) if other else None,
            "angle": around(draw.uniform(20, 85), 64) if other else None,
            "inside": share(draw.uniform(0, 0.5), 64) if name == "gradient" else None,
            "deletion": share(sum(curve(speed)) / 11, 64),
            "insertion": share(1 - sum(curve(speed)) / 22, 64),
            "deletion_curve": curve(speed),
            "insertion_curve": curve(speed)[::-1],
        }
    return {"images": 64, "methods": methods, "shares": [i / 10 for i in range(11)]}


def controls(draw):
    shares = (0.02, 0.1, 0.3, 0.6, 1.0)
    ratios = [
        {"norm": r * IMAGE_NORM, "relative_norm": r, "random": around(70, 128, 0.3)}
        for r in RELATIVE
    ]
    return {
        "random_weights": {"cosine": share(0.08, 8), "auc": share(0.52, 8), "ratios": ratios},
        "shuffled_labels": {"cosine": share(0.11, 100), "auc": share(0.47, 624)},
        "two_seeds": {"angle": around(48.0, 100), "chance_angle": 88.2},
        "layers": [
            {"layers": i + 1, "share": s, "angle": around(30 + 57 * s, 100, 0.05)}
            for i, s in enumerate(shares)
        ],
        "recomputed": [
            {"relative_norm": r, "direction": name, "angle": around(1 + s * r, 100)}
            for name, s in (("leading", 400), ("random_in_complement", 150))
            for r in RELATIVE
        ],
        "float64": {"eigenvalue": 1.2e-5, "angle": 0.013},
    }


def network(draw, ratios):
    events = ("noise", "blur", "bias_field", "motion", "gibbs")
    scores = ("trace", "largest_eigenvalue", "entropy", "uncertainty")

    def aucs():
        return {score: share(draw.uniform(0.45, 0.85), 400, 0.06) for score in scores}

    percentiles = [0.05, 0.11, 0.25, 0.6, 1.3]
    return {
        "training": {
            "parameters": draw.randrange(10**5, 10**7),
            "images_seen": 12000,
            "seconds": 50.0,
            "accuracy": share(0.88, 624, 0.025),
            "auc": share(0.94, 624, 0.02),
        },
        "perturbation": perturbation(draw, ratios),
        "law": {
            "images": 32,
            "float64_error": {"median": 1e-4, "worst": 0.004},
            "radius": {
                "percentiles": percentiles,
                "relative_to_image_norm": [p / IMAGE_NORM for p in percentiles],
                "fisher_length": [2 * p for p in percentiles],
            },
            "radius_confidence": around(0.61, 32),
            "radius_wrong": around(0.012, 9, 0.5),
            "radius_correct": around(0.031, 23),
        },
        "detection": {
            "images": 400,
            "errors": 37,
            "error_auc": aucs(),
            "corruption_auc": {event: aucs() for event in events},
        },
        "agreement": {
            "images": 100,
            "cosine": share(0.84, 100),
            "percentiles": [0.7, 0.84, 0.9],
            "chance": 0.03,
            "by_training_size": [
                {
                    "images": n,
                    "cosine": share(0.2 + 0.17 * i, 100),
                    "auc": share(0.7 + 0.06 * i, 624),
                    "accuracy": share(0.65 + 0.06 * i, 624),
                }
                for i, n in enumerate((250, 1000, 4000, 16000))
            ],
        },
        "controls": controls(draw),
        "maps": maps(draw),
        "quantus": {
            "missing": "",
            "images": 16,
            "metrics": {
                "faithfulness_correlation": {"group": "faithfulness", "better": "higher"},
                "max_sensitivity": {"group": "robustness", "better": "lower"},
                "sparseness": {"group": "complexity", "better": ""},
            },
            "methods": {
                name: {
                    "faithfulness_correlation": share(0.1 + 0.1 * i, 16),
                    "max_sensitivity": share(0.3 - 0.05 * i, 16),
                    "sparseness": None if i == 2 else share(0.4, 16),
                }
                for i, name in enumerate(("ifim", "gradient", "my_own_method", "edges"))
            },
        },
    }


HIGH, OPEN, LOW = around(12.3, 128), around(1.05, 128), around(0.5, 128)


def made_result(name="signal", count=2, *, known="exact", ratios=(HIGH, OPEN, LOW)):
    """What one experiment writes, with all its blocks."""
    draw = random.Random(name)
    networks = {kind: network(draw, ratios) for kind in NETWORKS[:count]}
    if known is None:  # nothing to agree with
        for part in networks.values():
            part["agreement"] = None
            part["controls"]["random_weights"]["cosine"] = None
            part["controls"]["shuffled_labels"]["cosine"] = None
    return {
        "experiment": name,
        "title": f"Made task {name}",
        "profile": "standard",
        "complete": True,
        "missing": "",
        "command": f"python -m monai_ifim experiment configs/experiments/{name}.yaml",
        "settings": {"seed": 0},
        "environment": {
            "python": "3.11.7",
            "torch": "2.13.0",
            "device": "cpu",
            "processor": "made|processor",
            "threads": 2,
            "date": "2026-11-24",
        },
        "seconds": 1234.5,
        "task": {
            "name": name,
            "classes": ["normal", "pneumonia"],
            "shape": [32, 32],
            "train": 4708,
            "test": 624,
            "source": "made for this test",
            "known_answer": known,
            "ideal": {"accuracy": 0.9, "auc": 0.96} if known else None,
            "bar": {"auc": 0.9, "source": "made for this test"},
            "majority": 0.6,
        },
        "networks": networks,
    }


def absent_result(name="mednist"):
    """What an experiment writes when its data are not there."""
    return made_result(name, 0) | {
        "complete": False,
        "missing": "the folder of the MedNIST images",
    }


def stored(folder, *results):
    for result in results:
        (folder / result["experiment"]).mkdir(parents=True)
        text = json.dumps(result)
        (folder / result["experiment"] / "results.json").write_text(text, encoding="utf-8")
    return folder


def not_numbers(text):
    return re.findall(r"\b(?:nan|None|inf|NaN|null)\b", text)
