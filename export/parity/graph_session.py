"""Opens a part of a graph on ONNX Runtime's CPU, its weights staying in the engine's folder."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trtcoder.bundle.linked_data import give_linked_data
from trtcoder.bundle.onnx import CPU
from trtcoder.errors import EngineError

if TYPE_CHECKING:
    import onnx


def open_model(
    folder: Path,
    files: Iterable[str],
    model: onnx.ModelProto,
    name: str,
    *,
    configure: Callable[[Any], None] = lambda options: None,
) -> Any:
    """Return a session on the CPU over ``model``, whose weights lie in ``files`` of ``folder``.

    ``configure`` is given the session's options; ``name`` says in errors what the model is.

    Raises:
        EngineError: ONNX Runtime refuses it.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", str(folder)
    )
    options.log_severity_level = 3
    # As the runtime does: constants are dequantized once, and nothing else is fused.
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    try:
        configure(options)
        linked = give_linked_data(options, folder, files)
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=[CPU])
    except Exception as error:  # onnxruntime's own classes have no common public base
        raise EngineError(f"{folder}: ONNX Runtime refuses {name} of the graph: {error}") from error
    del linked  # which the open session no longer needs
    return session
