"""What the manifest of a quantized checkpoint says beside what every engine's says."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

TARGETS = ("tensorrt-llm", "compressed-tensors")


@dataclass(frozen=True, slots=True)
class QuantizedParts:
    """A checkpoint in Hugging Face's layout, quantized.

    Attributes:
        form: how the quantized modules are stored: ``fp8-block``, ``fp8-modelopt``,
            ``nvfp4-modelopt`` or ``pack-quantized``.
        readers: the servers that load it.
        excluded: modules that stay in bfloat16, ``*`` for a layer's number, with the reason.
    """

    form: str
    readers: tuple[str, ...]
    excluded: dict[str, str]

    def problems(self) -> Iterator[str]:
        """Return where they contradict themselves."""
        if not self.readers:
            yield "quantized.readers is empty"
