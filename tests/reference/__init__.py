"""The model in NumPy float64, written from the papers; shares no code with trtcoder."""

from .model import NumpyReference, Trace

__all__ = ["NumpyReference", "Trace"]
