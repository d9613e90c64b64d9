"""The compute capabilities that TensorRT-RTX compiles for, and the weights that each takes."""

from __future__ import annotations

from collections.abc import Sequence

from trtcoder.errors import BuildError

# By what the builder of TensorRT-RTX 1.7 takes and refuses.
GPUS = {
    75: "RTX 20",
    80: "A100",
    86: "RTX 30",
    89: "RTX 40",
    120: "RTX 50",
    121: "GB10",
}
DEFAULT = (86, 89, 120)
# GPUs that people have and that it does not compile for, with what serves them.
_OTHERS = {
    87: ("Jetson Orin", "--target onnx"),
    90: ("H100, H200", "--target tensorrt-llm or compressed-tensors, for servers on such GPUs"),
    100: ("B200", "--target tensorrt-llm or compressed-tensors, for servers on such GPUs"),
    103: ("B300", "--target tensorrt-llm or compressed-tensors, for servers on such GPUs"),
}
# The capabilities whose kernels take a form of weights.
_TAKE = {"int4": (80, 86, 89, 120, 121), "fp8": (89, 120, 121)}


def default_gpus(weights: str) -> tuple[int, ...]:
    """Return what is compiled for unless it is asked for: those of `DEFAULT` that can take it."""
    return tuple(each for each in DEFAULT if all(each in _TAKE[form] for form in _forms(weights)))


def check_gpus(capabilities: Sequence[int], weights: str) -> None:
    """Raise BuildError for a capability without a builder, or without kernels for ``weights``.

    ``weights`` is a form, or several with ``+`` between them.
    """
    if not capabilities:
        raise BuildError(f"compute capability: none is named; use some of {_known()}")
    doubled = {each for each in capabilities if capabilities.count(each) > 1}
    if doubled:
        raise BuildError(f"compute capability: {min(doubled)} is named twice")
    for each in capabilities:
        if each in _OTHERS:
            name, remedy = _OTHERS[each]
            raise BuildError(
                f"compute capability {each} ({name}): TensorRT-RTX does not compile for it; use "
                f"{remedy}"
            )
        if each not in GPUS:
            raise BuildError(
                f"compute capability: {each} is unknown to TensorRT-RTX; use some of {_known()}"
            )
        for form in _forms(weights):
            taken = _TAKE.get(form, ())
            if each not in taken:
                able = ", ".join(map(str, taken)) or "none"
                raise BuildError(
                    f"compute capability {each} ({GPUS[each]}): has no {form} kernels; these have: "
                    f"{able}"
                )


def _forms(weights: str) -> list[str]:
    return weights.split("+")


def _known() -> str:
    return ", ".join(f"{number} ({name})" for number, name in GPUS.items())
