"""What else is asked of each image, where the host has its eigenspace at hand."""

from monai_ifim.questions.answers import Host, answered
from monai_ifim.questions.flips import FoundFlip, VerifiedFlip, verified_flip
from monai_ifim.questions.nuisances import NuisanceColumns
from monai_ifim.questions.question import Answer, Asked, Question
from monai_ifim.questions.shares import ShareColumns

__all__ = [
    "Answer",
    "Asked",
    "FoundFlip",
    "Host",
    "NuisanceColumns",
    "Question",
    "ShareColumns",
    "VerifiedFlip",
    "answered",
    "verified_flip",
]
