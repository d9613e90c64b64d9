"""Found by optimum-cli by its place: `optimum-cli export onnx` writes engines of DeepSeek-V2."""

from __future__ import annotations

REGISTER_COMMANDS: list[object] = []

try:
    from optimum.commands.export.onnx import ONNXExportCommand
except ModuleNotFoundError:  # Optimum without optimum-onnx has no such command
    pass
else:
    from trtcoder.optimum.command import take_over

    take_over(ONNXExportCommand)
