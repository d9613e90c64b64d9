from __future__ import annotations

import dataclasses
from pathlib import Path

from prometheus_client import CollectorRegistry

from tests.runtime.guesses import CheapRows
from tests.toy_engine import BOS, script, toy_manifest, write_toy_engine
from trtcoder import LLM, SamplingParams
from trtcoder.runtime.engine.settings import EngineSettings
from trtcoder.runtime.server.engines import Engines
from trtcoder.runtime.server.metrics import EngineCollector
from trtcoder.runtime.server.service import Service
from trtcoder.runtime.server.settings import ServerSettings
from trtcoder.runtime.speculation.speculator import Speculator

COPIED = list(range(97, 122))


def test_drafts_are_counted_under_vllms_names(tmp_path: Path) -> None:
    model = dataclasses.replace(toy_manifest().model, max_positions=128)
    manifest = dataclasses.replace(toy_manifest(), model=model)
    prompt = [BOS, *COPIED, 10]
    answer = [*COPIED[:15], 65, *COPIED[16:]]
    folder = write_toy_engine(tmp_path / "engine", manifest, scripted=script(len(prompt), answer))
    engines = Engines()
    with LLM(folder, settings=EngineSettings(speculate=True)) as llm:
        served = engines.add(folder, llm)
        core = llm.engine.thread.core
        core._speculator = Speculator(CheapRows())
        llm.generate([prompt], SamplingParams(max_tokens=len(answer)), progress=False)
        registry = CollectorRegistry(auto_describe=False)
        registry.register(EngineCollector(Service(engines, ServerSettings())))

        def value(name: str, **labels: str) -> float:
            """Return a counter's value, 0 where there is none."""
            return registry.get_sample_value(name, {"model_name": served.name, **labels}) or 0.0

        drafts, drafted, accepted = (
            value(f"vllm:spec_decode_num_{name}_total")
            for name in ("drafts", "draft_tokens", "accepted_tokens")
        )
        assert 0 < drafts < accepted < drafted  # the changed token was drafted, and did not come
        places = [
            value("vllm:spec_decode_num_accepted_tokens_per_pos_total", position=str(place))
            for place in range(16)
        ]
        assert sum(places) == accepted
        assert places == sorted(places, reverse=True)
        assert value("trtcoder:accepted_tokens_total") == accepted
        assert value("trtcoder:steps_total") + accepted == len(answer)
