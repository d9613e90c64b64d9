"""What of an engine is shown to whoever watches it, under our names and vLLM's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trtcoder.runtime.engine.core import EngineCore


@dataclass(frozen=True, slots=True)
class Figure:
    """A number of an engine.

    Attributes:
        name: ours.
        vllm: vLLM's, where the meaning is the same; an older one too, which vLLM's production
            stack still reads.
        text: what it is.
        attribute: of the core, or of its counters.
    """

    name: str
    vllm: tuple[str, ...]
    text: str
    attribute: str

    def value(self, core: EngineCore) -> float:
        """Return what it is now. Any thread may ask."""
        owner = core if hasattr(core, self.attribute) else core.stats
        return float(getattr(owner, self.attribute))


# What goes up and down.
GAUGES = (
    Figure(
        "requests_running", ("num_requests_running",), "Answers that are computed.", "num_running"
    ),
    Figure("requests_waiting", ("num_requests_waiting",), "Answers that wait.", "num_waiting"),
    Figure(
        "cache_usage",
        ("kv_cache_usage_perc", "gpu_cache_usage_perc"),
        "Share of the cache in use, 0 to 1.",
        "cache_usage",
    ),
)
# What only goes up.
COUNTERS = (
    Figure("prompt_tokens", ("prompt_tokens",), "Prompt tokens.", "asked_tokens"),
    Figure("generation_tokens", ("generation_tokens",), "Tokens sampled.", "generated_tokens"),
    Figure(
        "preemptions", ("num_preemptions",), "Answers that lost their blocks.", "num_preemptions"
    ),
    Figure(
        "prefix_cache_queries",
        ("prefix_cache_queries", "gpu_prefix_cache_queries"),
        "Prompt tokens looked up.",
        "asked_tokens",
    ),
    Figure(
        "prefix_cache_hits",
        ("prefix_cache_hits", "gpu_prefix_cache_hits"),
        "Prompt tokens found.",
        "cached_tokens",
    ),
    Figure("drafts", ("spec_decode_num_drafts",), "Drafts that a step verified.", "drafts"),
    Figure("draft_tokens", ("spec_decode_num_draft_tokens",), "Tokens in them.", "drafted_tokens"),
    Figure(
        "accepted_tokens",
        ("spec_decode_num_accepted_tokens",),
        "Drafted tokens that came.",
        "accepted_tokens",
    ),
    Figure("steps", (), "Forward passes.", "steps"),
    Figure("requests", (), "Requests queued.", "requests"),
    Figure("requests_failed", (), "Requests that ended with an error.", "failed"),
)
