"""The model `tensorrt_llm_unary`: answers in one response, by the same names.

Triton takes unary calls, over gRPC and HTTP, of no model that may answer in parts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from trtcoder.runtime.triton import llmapi
from trtcoder.runtime.triton.tensor import Inputs
from trtcoder.runtime.triton.thin_model import ThinModel


class UnaryModel(ThinModel):
    """Hands everything on as it is."""

    engine_outputs = tuple(llmapi.OUTPUT)

    def to_engine(self, inputs: Inputs) -> Mapping[str, NDArray[Any]]:
        """Return the tensors for the engine."""
        return inputs.tensors
