"""The latent cache in the graph: one row a token and layer, written in place.

A row is the normalised latent c_kv followed by the rotated k_pe. Each cache input has an output
of the same name with `.out` behind it; both are bound to one buffer, so that ScatterND writes the
new rows and copies nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import onnx_ir as ir

from trtcoder.bundle.onnx import CacheInfo
from trtcoder.export.graph.builder import Dim, GraphBuilder
from trtcoder.export.graph.float8 import cache_codes
from trtcoder.export.graph.inputs import Inputs
from trtcoder.model.deepseek_v2.config import DeepseekV2Config

FLOAT, INT8, UINT8 = ir.DataType.FLOAT, ir.DataType.INT8, ir.DataType.UINT8
_TYPES = {
    FLOAT: "float32",
    INT8: "int8",
    UINT8: "uint8",
    ir.DataType.FLOAT16: "float16",
    ir.DataType.BFLOAT16: "bfloat16",
    ir.DataType.FLOAT8E4M3FN: "float8e4m3fn",
}

# Values that share a scale in the int8 and fp8 caches, where the widths of c_kv and k_pe allow it.
SCALE_GROUP = 64


@dataclass(slots=True)
class Cache:
    """One layer's cache.

    Attributes:
        entries: float32, int8, or uint8 for the bits of float8, ``[rows, width]``; for CUDA
            ``[blocks, rows of a block, 1, width]`` (`trtcoder.export.graph.cuda_cache`).
        scales: float32 ``[rows, width / group]``, None for a cache without scales of its rows.
        channel_scales: float32 ``[1, 1, width]``, what CUDA's 8 bits are multiplied with; None for
            others.
    """

    layer: int
    entries: ir.Value
    scales: ir.Value | None
    width: int
    group: int
    written: list[tuple[str, ir.Value]]
    channel_scales: ir.Value | None = None

    @property
    def name(self) -> str:
        """Name of the input that holds the entries."""
        return f"cache.{self.layer}"

    @property
    def scale_name(self) -> str:
        """Name of the input that holds a quantized cache's scales."""
        return f"cache_scale.{self.layer}"

    @property
    def is_quantized(self) -> bool:
        """Whether rows are stored in 8 bits."""
        return self.scales is not None

    @property
    def buffers(self) -> list[ir.Value]:
        """Return the inputs: entries, and scales if there are any."""
        return [self.entries] if self.scales is None else [self.entries, self.scales]

    @property
    def output_names(self) -> list[str]:
        """Names of the outputs that hold the buffers once they are written."""
        return [f"{buffer.name}.out" for buffer in self.buffers]

    def expose(self, b: GraphBuilder) -> None:
        """Make the written buffers graph outputs."""
        for name, value in self.written:
            b.output(value, name)

    def describe(self) -> list[CacheInfo]:
        """Return the manifest's form: name, type and width of each buffer."""
        found = [CacheInfo(self.name, _TYPES[self.entries.dtype or FLOAT], self.width)]
        if self.is_quantized:
            found.append(CacheInfo(self.scale_name, "float32", self.width // self.group))
        return found


def declare_cache(b: GraphBuilder, layer: int, config: DeepseekV2Config, kind: str) -> Cache:
    """Declare a layer's cache inputs; ``kind`` is ``fp32``, ``int8`` or ``fp8``."""
    width = config.cache_width
    group = math.gcd(SCALE_GROUP, math.gcd(config.kv_lora_rank, config.qk_rope_head_dim))
    name = f"cache.{layer}"
    if kind == "fp32":
        return Cache(layer, b.input(name, FLOAT, ["rows", width]), None, width, group, [])
    entries = b.input(name, INT8 if kind == "int8" else UINT8, ["rows", width])
    scales = b.input(f"cache_scale.{layer}", FLOAT, ["rows", width // group])
    return Cache(layer, entries, scales, width, group, [])


def store(b: GraphBuilder, cache: Cache, name: str, entry: ir.Value, inputs: Inputs) -> ir.Value:
    """Write ``entry`` ``[tokens, width]`` to the tokens' slots; return all rows as float32."""
    shape: list[Dim] = ["rows", cache.width]
    if cache.scales is None:
        written = b.op(
            "ScatterND",
            f"{name}/cache",
            [cache.entries, inputs.slot_column(b), entry],
            shape,
            dtype=FLOAT,
        )
        cache.written = list(zip(cache.output_names, [written], strict=True))
        return written
    groups = cache.width // cache.group
    if cache.entries.dtype == UINT8:
        codes, scale = cache_codes.encode(b, f"{name}/cache", entry, groups, cache.group)
        written, scales = _write(b, cache, cache.scales, name, codes, scale, inputs)
        return cache_codes.restore(b, f"{name}/cache", written, scales, groups, cache.group)
    grouped_shape: list[Dim] = ["tokens", groups, cache.group]
    grouped = b.op(
        "Reshape", f"{name}/cache_groups", [entry, b.ints(-1, groups, cache.group)], grouped_shape
    )
    magnitude = b.op("Abs", f"{name}/cache_magnitude", [grouped], grouped_shape)
    largest = b.op(
        "ReduceMax",
        f"{name}/cache_largest",
        [magnitude, b.ints(2)],
        ["tokens", groups, 1],
        keepdims=1,
    )
    # A group of zeros keeps a tiny scale, so that nothing divides by zero.
    bounded = b.op(
        "Max", f"{name}/cache_bounded", [largest, b.scalar(1e-30)], ["tokens", groups, 1]
    )
    scale = b.op("Mul", f"{name}/cache_scale", [bounded, b.scalar(1 / 127)], ["tokens", groups, 1])
    levels = b.op("Div", f"{name}/cache_levels", [grouped, scale], grouped_shape)
    rounded = b.op("Round", f"{name}/cache_rounded", [levels], grouped_shape)
    codes = b.op("Cast", f"{name}/cache_codes", [rounded], grouped_shape, dtype=INT8, to=int(INT8))
    codes = b.op(
        "Reshape",
        f"{name}/cache_entry",
        [codes, b.ints(-1, cache.width)],
        ["tokens", cache.width],
        dtype=INT8,
    )
    scale = b.op(
        "Reshape", f"{name}/cache_entry_scale", [scale, b.ints(-1, groups)], ["tokens", groups]
    )
    written, scales = _write(b, cache, cache.scales, name, codes, scale, inputs)
    return b.op(
        "DequantizeLinear",
        f"{name}/cache_rows",
        [written, scales],
        shape,
        axis=1,
        block_size=cache.group,
    )


def _write(
    b: GraphBuilder,
    cache: Cache,
    scales: ir.Value,
    name: str,
    codes: ir.Value,
    scale: ir.Value,
    inputs: Inputs,
) -> tuple[ir.Value, ir.Value]:
    """Write the tokens' codes and scales to their slots; return both buffers."""
    written = b.op(
        "ScatterND",
        f"{name}/cache",
        [cache.entries, inputs.slot_column(b), codes],
        ["rows", cache.width],
        dtype=cache.entries.dtype or FLOAT,
    )
    shape: list[Dim] = ["rows", cache.width // cache.group]
    scales = b.op(
        "ScatterND", f"{name}/cache_scales", [scales, inputs.slot_column(b), scale], shape
    )
    cache.written = list(zip(cache.output_names, [written, scales], strict=True))
    return written, scales
