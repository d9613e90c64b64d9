"""Streams a graph's weights into its data file, one conversion step at a time.

Offsets follow from the declared shapes alone, so the file can be written in any order and its
bytes never depend on timing: two builds of the same checkpoint are identical.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir

from trtcoder.errors import BuildError
from trtcoder.export.builder import GraphBuilder, Step, Weight
from trtcoder.export.calibrate import Calibration

# A page: memory-mapping a weight then needs no copy, whatever its kernel's vector width.
ALIGNMENT = 4096


def layout(weights: list[Weight]) -> tuple[dict[str, int], int]:
    """Return each weight's byte offset in the data file, and the file's size."""
    offsets: dict[str, int] = {}
    end = 0
    for weight in weights:
        offsets[weight.name] = end
        end += -(-weight.nbytes // ALIGNMENT) * ALIGNMENT
    return offsets, end


def external_tensors(
    weights: list[Weight], offsets: dict[str, int], location: str, base_dir: Path
) -> dict[str, ir.ExternalTensor]:
    """Return the references that the graph's initializers hold into the data file."""
    return {
        weight.name: ir.ExternalTensor(
            location,
            offsets[weight.name],
            weight.nbytes,
            weight.dtype,
            shape=ir.Shape(list(weight.shape)),
            name=weight.name,
            base_dir=base_dir,
        )
        for weight in weights
    }


def write_data(
    builder: GraphBuilder,
    path: Path,
    on_step: Callable[[Step], None] | None = None,
    calibration: Calibration | None = None,
) -> dict[str, int]:
    """Run every step and write what it produces to ``path``; return the offsets.

    At most one step's tensors are in memory.

    Raises:
        BuildError: a step fills what was not declared, in another type or shape, or something
            that was declared stays unfilled.
    """
    offsets, size = layout(list(builder.weights.values()))
    filled = dict.fromkeys(builder.weights, 0)
    with path.open("wb") as file:
        file.truncate(size)
        stage = -1
        for step in builder.steps:
            if calibration is not None and step.stage != stage:
                if stage >= 0:
                    calibration.after_stage(stage)
                calibration.before_stage(step.stage)
            stage = step.stage
            made = step.produce()
            builder.records += made.records
            for part in made.parts:
                weight = builder.weights[part.weight]
                value = np.ascontiguousarray(part.value)
                rows = part.start + len(value)
                if (
                    value.shape[1:] != weight.shape[1:]
                    or value.dtype != weight.numpy_dtype
                    or rows > weight.shape[0]
                ):
                    raise BuildError(
                        f"{part.weight}: {step.key} made {value.dtype} {list(value.shape)} at row "
                        f"{part.start}, declared {weight.numpy_dtype} {list(weight.shape)}"
                    )
                file.seek(offsets[part.weight] + part.start * weight.row_nbytes)
                file.write(value.data)
                filled[part.weight] += len(value)
            if on_step is not None:
                on_step(step)
        file.flush()
        os.fsync(file.fileno())
    unfilled = [name for name, rows in filled.items() if rows != builder.weights[name].shape[0]]
    if unfilled:
        raise BuildError(f"no step fills all of {', '.join(unfilled)}")
    return offsets
