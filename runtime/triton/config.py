"""`config.pbtxt`: what Triton is told of a model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from trtcoder.runtime.triton.tensor import Tensor


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """A model of a repository.

    Attributes:
        name: of its folder and in requests.
        inputs, outputs: its tensors.
        max_batch_size: 0 where tensors have no batch; None leaves it to model.yaml.
        decoupled: whether it may answer in parts; None leaves it to model.yaml.
        parameters: strings that Triton or the model reads.
        backend, kind: which of Triton's backends runs it, and where.
        comment: lines for people, at the top.
    """

    name: str
    inputs: Sequence[Tensor]
    outputs: Sequence[Tensor]
    max_batch_size: int | None = None
    decoupled: bool | None = None
    parameters: Mapping[str, str] = field(default_factory=dict)
    backend: str = "python"
    kind: str = "KIND_CPU"
    comment: str = ""

    def text(self) -> str:
        """Return the file."""
        parts = [f"# {line}\n" if line else "#\n" for line in self.comment.splitlines()]
        parts.append(f'name: "{self.name}"\nbackend: "{self.backend}"\n')
        if self.max_batch_size is not None:
            parts.append(f"max_batch_size: {self.max_batch_size}\n")
        if self.decoupled is not None:
            value = str(self.decoupled).lower()
            parts.append(f"model_transaction_policy {{ decoupled: {value} }}\n")
        parts.append(f"instance_group [ {{ count: 1, kind: {self.kind} }} ]\n")
        for side, tensors in (("input", self.inputs), ("output", self.outputs)):
            if tensors:
                parts.append(_tensors(side, tensors))
        for key, value in self.parameters.items():
            parts.append(
                f"parameters {{ key: {json.dumps(key)}, "
                f"value: {{ string_value: {json.dumps(value)} }} }}\n"
            )
        return "".join(parts)


def _tensors(side: str, tensors: Sequence[Tensor]) -> str:
    lines = []
    for each in tensors:
        dims = ", ".join(map(str, each.dims))
        optional = ", optional: true" if side == "input" and each.optional else ""
        lines.append(
            f'  {{ name: "{each.name}", data_type: TYPE_{each.kind}, dims: [ {dims} ]{optional} }}'
        )
    return f"{side} [\n" + ",\n".join(lines) + "\n]\n"
