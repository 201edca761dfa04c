"""Small nets: enough to train, test and show; bring your own for more."""

from .classifier import Classifier
from .ema import EMA
from .mlp import MLP
from .unet import UNet

__all__ = ["EMA", "MLP", "Classifier", "UNet"]
