"""Softmax cross-entropy for arrays: TensorFlow's semantics, at the speed of memory."""

from . import cuda, losses, nn
from ._config import show_config
from ._version import __version__ as __version__
from .autodiff import value_and_grad

__all__ = ["cuda", "losses", "nn", "show_config", "value_and_grad"]
