"""What experiments of several trainings write, made up: every block that the page can show."""

import numpy as np

from monai_ifim.report.evidence.uses import BASELINES, OWN, PREDICTORS

KINDS = ("single", "smoothed", "equal", "unit_trace", "mean_jacobian")


def about(value, half=0.02, trainings=3):
    """An interval around a value."""
    return {"value": value, "low": value - half, "high": value + half, "trainings": trainings}


def _agreement(single, pooled):
    kinds = {kind: about(single if kind == "single" else pooled) for kind in KINDS}
    less = {kind: about(pooled - kinds[kind]["value"]) for kind in KINDS if kind != "unit_trace"}
    return {
        "leading": {
            **kinds,
            "unit_trace_less": less,
            "random_weights": about(0.05),
            "to_random_weights": about(0.04),
        }
    }


def made_uses(ours=0.6, best=0.7):
    """A block ``uses`` in which our scores have one AUC and the best baseline another."""

    def case(kind, name):
        return {
            "kind": kind,
            "name": name,
            "positives": [30, 32, 31],
            "auc": {
                **{score: about(ours) for score in OWN},
                **{score: about(best - 0.01 * i) for i, score in enumerate(BASELINES)},
            },
            "above_best_baseline": {
                score: {"baseline": "entropy", **about(ours - best)} for score in OWN
            },
        }

    spearman = {name: about(0.96 - 0.05 * i) for i, name in enumerate(PREDICTORS)}
    return {
        "images": 200,
        "cases": [
            case("wrong", "wrong predictions"),
            case("corrupted", "noise"),
            case("corrupted", "blur"),
            case("foreign", "another task"),
        ],
        "flips": {
            "images": 60,
            "search": {"start": 0.01, "ddn": 60, "pgd": 20},
            "found": 0.95,
            "norm": about(0.04, 0.005),
            "spearman": spearman,
            "above": {
                name: about(spearman["flip_distance"]["value"] - spearman[name]["value"], 0.01)
                for name in PREDICTORS[1:]
            },
        },
    }


def made_labelling():
    """Five rounds, our scores no better than the entropy."""
    strategies = ("random", "entropy", "trace", "flip_distance")
    return {
        "network": "cnn",
        "trainings": 5,
        "labelled": [50, 100, 150, 200, 250],
        "auc": {
            name: [about(0.6 + (0.04 if name == "random" else 0.05) * i) for i in range(5)]
            for name in strategies
        },
        "less_random": {name: about(0.05) for name in strategies[1:]},
        "less_entropy": {name: about(-0.001) for name in strategies[2:]},
    }


def made_block(
    *,
    auc=0.97,
    accuracy=0.9,
    trainings=3,
    images=1000,
    single=0.3,
    pooled=0.9,
    template=True,
    uses=None,
):
    """Trainings of one network with one recipe."""
    draw = np.random.default_rng(0)
    pooled_numbers = {
        "shares": [0.7, 0.1],
        "effective_count": 40.0,
        "stable_rank": 1,
        "angle_to_resampled": 0.2,
    }
    cosines = {kind: about(single if kind == "single" else pooled) for kind in KINDS}
    steps = [(1, single), (10, 0.5 * (single + pooled)), (100, pooled)]

    def picture():
        return draw.normal(size=(8, 8)).round(2).tolist()

    return {
        "recipe": {
            "images": images,
            "batch_size": 64,
            "learning_rate": 0.001,
            "warm_up": 0.3,
            "fresh": True,
            "augmented": False,
        },
        "width": None,
        "images": 100,
        "directions": 1,
        "trainings": [
            {
                "accuracy": accuracy,
                "auc": auc,
                "pooled": {"unit_trace": pooled_numbers, "equal": pooled_numbers},
            }
        ]
        * trainings,
        "template": {
            "cosine": {"pixels": cosines},
            "unit_trace_less": {"single": about(pooled - single)},
            "by_count": [
                {"images": n, "unit_trace": about(value), "equal": about(value)}
                for n, value in steps
            ],
        }
        if template
        else None,
        "untrained_template": {"pixels": {"unit_trace": about(0.02, 0.01)}} if template else None,
        "pictures": {
            "image": picture(),
            "template": picture() if template else None,
            **{kind: [picture(), picture()] for kind in ("single", "smoothed", "pooled")},
        },
        "agreement": {
            metric: _agreement(single, pooled) for metric in ("pixels", "low_pass", "within_class")
        },
        "moves": {
            "ratios": {
                "own": about(800.0, 100),
                "pooled": about(400.0, 50),
                "other_own": about(100.0, 20),
                "complement": about(0.01, 0.005),
            },
            "own_ratios": {
                "pooled": about(0.5, 0.1),
                "other_own": about(0.125, 0.025),
                "complement": about(1.25e-5, 6e-6),
            },
        },
        "uses": uses,
    }


def made_trainings(name="trainings_signal", *, known="exact", bar=0.93, **blocks):
    """What one experiment of several trainings writes; blocks by network, each a list."""
    return {
        "experiment": name,
        "title": f"Several trainings, {name}",
        "profile": "standard",
        "complete": True,
        "missing": "",
        "environment": {"python": "3.11.7", "date": "2026-11-27", "threads": 1},
        "seconds": 3600.0,
        "task": {
            "name": name.removeprefix("trainings_"),
            "classes": ["no", "yes"],
            "shape": [32, 28],
            "test": 2000,
            "known_answer": known,
            "bar": bar and {"auc": bar, "source": "made for this test"},
            "majority": 0.5,
        },
        "networks": {network: {"trainings": found} for network, found in blocks.items()},
        "across": None,
    }
