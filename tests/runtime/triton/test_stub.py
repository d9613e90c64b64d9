from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from trtcoder.errors import DependencyError
from trtcoder.runtime.triton.stub import NAME, check_numpy


def test_a_stub_that_does_not_know_this_numpy_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = (tmp_path / name / NAME for name in ("old", "new"))
    for path, content in ((old, b"numpy.core"), (new, b"\0numpy._core.multiarray")):
        path.parent.mkdir()
        path.write_bytes(content)
    monkeypatch.setattr(np, "__version__", "2.4.6")
    check_numpy(new)
    check_numpy()  # no stub at all
    with pytest.raises(DependencyError, match=r"pip install 'numpy<2'"):
        check_numpy(old)
    monkeypatch.setattr(np, "__version__", "1.26.4")
    check_numpy(old)
