from __future__ import annotations

from typing import Any

import pytest

from benchmarks.cpu_names import REST
from benchmarks.cpu_profile import role_of, times
from benchmarks.cpu_tables import profile_table


def event(name: str, micros: float) -> dict[str, Any]:
    return {"cat": "Node", "name": f"{name}_kernel_time", "dur": micros}


def test_nodes_of_all_layers_add_up_and_the_first_runs_do_not_count() -> None:
    events = [
        event(f"layers.{layer}/moe/experts", micros)
        for layer in range(2)
        for micros in (9000, 100, 300, 200)
    ]
    events += [event("lm_head", micros) for micros in (9000, 500, 500, 500)]
    events.append({"cat": "Session", "name": "model_run", "dur": 1})
    found = times(events, 1, [0.001, 0.001, 0.001])
    assert found == pytest.approx({"moe/experts": 0.4, "lm_head": 0.5, REST: 0.1})
    assert list(found)[-1] == REST
    assert role_of("layers.12/attention/o_proj_kernel_time") == "attention/o_proj"


def test_the_table_puts_small_roles_together() -> None:
    result = {
        "layers": 27,
        "environment": {"cpu": "a processor", "cores": 2},
        "milliseconds": {"decode at 0": {"lm_head": 9.0, "norm": 0.01, "cast": 0.02, REST: 0.97}},
    }
    lines = profile_table(result).splitlines()
    assert "| `lm_head` | 9.00 |" in lines
    assert "| 2 others | 0.03 |" in lines
    assert "| **a step** | 10.00 |" in lines


def test_a_step_may_run_a_node_several_times() -> None:
    events = [event("layers.0/moe/experts", 1000 * ms) for ms in (9, 9, 1, 2, 3, 4)]
    found = times(events, 1, [0.004, 0.008], runs_a_step=2)
    assert found == pytest.approx({"moe/experts": 5, REST: 1})
