from __future__ import annotations

import pytest

from tests.toy_engine import write_toy_engine


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_toy_engine(tmp_path_factory.mktemp("toy") / "engine"))
