"""What running an engine for CUDA needs, as far as a machine without a GPU shows it."""

from __future__ import annotations

import ctypes
import dataclasses
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtcoder.errors import DependencyError, EngineError
from trtcoder.runtime.engine import cuda_device
from trtcoder.runtime.engine.batch import PackedBatch, Span
from trtcoder.runtime.engine.cuda_binding import paged_inputs

BLOCK = 16


@st.composite
def spans(draw: st.DrawFn) -> list[Span]:
    found, first = [], 0
    for _ in range(draw(st.integers(1, 5))):
        past, new = draw(st.integers(0, 40)), draw(st.integers(1, 20))
        count = -(-(past + new) // BLOCK)
        samples = draw(st.integers(0, new))
        found.append(Span([1] * new, past, np.arange(first, first + count), samples))
        first += count
    return found


@given(spans())
def test_paged_inputs_say_where_each_sequence_is(given_spans: list[Span]) -> None:
    batch = PackedBatch.pack(given_spans, BLOCK)
    found = paged_inputs(batch)
    assert all(values.dtype == np.int32 for values in found.values())
    starts = found["query_starts"]
    assert starts[0] == 0
    assert starts[-1] == len(batch.input_ids)
    for row, span in enumerate(given_spans):
        assert starts[row + 1] - starts[row] == len(span.tokens)
        assert found["past_lengths"][row] == span.start
        assert (batch.sequences[starts[row] : starts[row + 1]] == row).all()
    most = max(len(span.tokens) for span in given_spans)
    longest = max(span.start + len(span.tokens) for span in given_spans)
    assert found["attention_metadata"].tolist() == [most, longest, 0]


@pytest.mark.parametrize("sequences", [[0, 1, 0], [1, 1, 1]])
def test_tokens_that_do_not_stand_together_are_refused(sequences: list[int]) -> None:
    batch = PackedBatch.pack(
        [Span([1, 2], 0, np.array([0]), 1), Span([3], 4, np.array([1]), 1)], BLOCK
    )
    with pytest.raises(EngineError, match="stand together"):
        paged_inputs(dataclasses.replace(batch, sequences=np.array(sequences)))


def test_a_machine_without_a_driver_is_told_what_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cuda_device, "_DRIVER", "libno-such-driver.so.1")
    with pytest.raises(DependencyError, match=r"NVIDIA GPU and its driver.*libno-such-driver"):
        cuda_device.require_gpu()


@pytest.mark.parametrize(("status", "count"), [(100, 0), (0, 0)])
def test_a_driver_without_a_gpu_is_told_apart(
    monkeypatch: pytest.MonkeyPatch, status: int, count: int
) -> None:
    def counted(out: Any) -> int:
        out._obj.value = count
        return 0

    driver = SimpleNamespace(cuInit=lambda flags: status, cuDeviceGetCount=counted)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: driver)
    with pytest.raises(EngineError, match=f"no GPU for this process .status {status}, 0 GPUs"):
        cuda_device.require_gpu()


def test_a_missing_library_of_cuda_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_device, "_LIBRARIES", ("libno-such-cublas.so.13",))
    told: list[str] = []

    def preload(**options: bool) -> None:
        print("noise")
        told.extend(options)

    with pytest.raises(DependencyError, match=r"libno-such-cublas.*trtcoder\[cuda\]"):
        cuda_device.load_libraries(SimpleNamespace(preload_dlls=preload))
    # cuDNN is not needed, and what the package prints is not shown.
    assert told == ["cudnn"]
