"""Requests for ``asking.py``."""

from __future__ import annotations

from typing import Any

MODEL, UNARY = "tensorrt_llm", "tensorrt_llm_unary"
PROMPT = "def f(x):"
# Many more tokens than any test waits for.
LONG: dict[str, Any] = {"sampling_param_ignore_eos": True, "sampling_param_max_tokens": 2000}
_KINDS = {bool: "BOOL", int: "INT32", float: "FP32", str: "BYTES"}
# Where a whole number is of another type.
_OTHERS = {"seed": "UINT64", "sampling_param_seed": "UINT64", "lora_id": "UINT64"}


def request(
    text: str | None = PROMPT,
    *,
    model: str = MODEL,
    stream: bool = True,
    id: str = "",
    cancel_after: int | None = None,
    shape: tuple[int, ...] = (1,),
    **values: Any,
) -> dict[str, Any]:
    """Return a request; ``shape`` is that of a tensor with one value."""
    inputs: dict[str, Any] = {} if text is None else {"text_input": ["BYTES", shape, [text]]}
    for name, value in values.items():
        listed = value if isinstance(value, list) else [value]
        kind = _OTHERS.get(name, _KINDS[type(listed[0])])
        inputs[name] = [kind, (*shape[:-1], len(listed)), listed]
    return {
        "model": model,
        "inputs": inputs,
        "stream": stream,
        "id": id,
        "cancel_after": cancel_after,
    }


def texts(outcome: dict[str, Any]) -> list[str]:
    """Return the text of each response."""
    assert outcome["error"] is None, outcome["error"]
    return [each["text_output"][0] for each in outcome["responses"]]
