"""A model in stages: which layers go where, what that takes, and how fast it is on paper.

Seconds follow from a roofline: a layer takes the longer of reading its bytes and of computing its
operations (Williams et al., CACM 52(4), 2009), at the share of the peaks that a program reaches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from trtcoder.errors import BuildError
from trtcoder.export.scale.layers import Layer, Layers
from trtcoder.export.scale.machines import Device, Link
from trtcoder.export.scale.simulation import Run, decode, decode_seconds, prefill
from trtcoder.export.scale.split import split

Cost = Callable[[Layer], float]
# Bytes of a value that stages hand on, and of a token's id.
_HANDED, _TOKEN = 2, 4


@dataclass(frozen=True, slots=True)
class Work:
    """What is asked of the stages together.

    Attributes:
        streams: answers at the same time.
        context: tokens that the cache holds of each.
        prompt: tokens of a prompt that is read alone.
        chunk: of a prompt, tokens in one step.
    """

    streams: int = 16
    context: int = 8192
    prompt: int = 8192
    chunk: int = 512


@dataclass(frozen=True, slots=True)
class Setting:
    """What the stages run on.

    Attributes:
        device: of each stage.
        link: between stages, and from the last to the first.
        efficiency: the share of the device's and the link's peaks that is reached: an assumption.
        usable: the share of the memory that a stage may take: an assumption.
    """

    device: Device
    link: Link
    efficiency: float = 0.6
    usable: float = 0.9

    @property
    def room(self) -> int:
        """Bytes that a stage may take."""
        return int(self.device.memory * self.usable)

    def transfer(self, nbytes: int) -> float:
        """Return the seconds that a transfer of so many bytes takes."""
        return self.link.latency + nbytes / (self.link.bandwidth * self.efficiency)

    def seconds(self, layer: Layer, tokens: int, seen: int, rows: int) -> float:
        """Return the seconds of one layer.

        Args:
            layer: the layer.
            tokens: of the step.
            seen: rows of the cache that a token sees.
            rows: rows of the cache that are read.
        """
        nbytes = layer.read_bytes(tokens) + layer.cache_bytes * rows
        reading = nbytes / self.device.bandwidth
        computing = layer.operations(tokens, seen) / self.device.compute
        return max(reading, computing) / self.efficiency


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage: its layers and the bytes that it takes."""

    layers: range
    weights: int
    cache: int
    workspace: int

    @property
    def nbytes(self) -> int:
        """All of it."""
        return self.weights + self.cache + self.workspace


@dataclass(frozen=True, slots=True)
class Staged:
    """A model in stages.

    Attributes:
        stages: in their order.
        room: bytes that each may take.
        groups: that the streams go through the stages in.
        decode: a round, in which each stream gets a token; None where a stage does not fit.
        prefill: a prompt's way through; None where a stage does not fit.
        work: what was asked.
    """

    stages: tuple[Stage, ...]
    room: int
    groups: int
    decode: Run | None
    prefill: Run | None
    work: Work

    @property
    def fits(self) -> bool:
        """Whether each stage has room."""
        return all(stage.nbytes <= self.room for stage in self.stages)

    @property
    def decode_rate(self) -> float | None:
        """Tokens a second, all streams together."""
        return None if self.decode is None else self.work.streams / self.decode.seconds

    @property
    def prefill_rate(self) -> float | None:
        """Tokens of the prompt a second."""
        return None if self.prefill is None else self.work.prompt / self.prefill.seconds


def plan_stages(layers: Layers, count: int, setting: Setting, work: Work) -> Staged:
    """Cut a model into ``count`` stages and simulate them.

    Of all cuts that fit, that one whose slowest stage decodes fastest; where none fits, the one
    whose fullest stage is smallest, without speeds.

    Raises:
        BuildError: there are more stages than layers.
    """
    number = len(layers.layers)
    if not 1 <= count <= number:
        raise BuildError(f"{count} stages: a model of {number} layers has 1 to {number} of them")
    size = -(-work.streams // count)
    steps = _costs(layers, lambda each: _decode_seconds(setting, each, size, work.context))

    def stage(cut: range) -> Stage:
        return _stage(layers, cut, work)

    cuts = split(steps, count, fits=lambda cut: stage(cut).nbytes <= setting.room)
    if cuts is None:
        sizes = _costs(layers, lambda each: each.stored + _cache(each, work))
        cuts = split(sizes, count, fits=lambda cut: True) or []
        return Staged(tuple(map(stage, cuts)), setting.room, 0, None, None, work)
    held = [layers.of_stage(cut) for cut in cuts]
    groups, decoded = _decode(layers, held, setting, work)
    return Staged(
        tuple(map(stage, cuts)),
        setting.room,
        groups,
        decoded,
        _prefill(layers, held, setting, work),
        work,
    )


def fewest_stages(layers: Layers, setting: Setting, work: Work) -> int | None:
    """Return the smallest number of stages that fit; None where a layer alone does not."""

    def fits(cut: range) -> bool:
        return _stage(layers, cut, work).nbytes <= setting.room

    count, start = 0, 0
    while start < len(layers.layers):
        # As many layers as fit: fewer would leave more to the stages behind.
        end = start
        while end < len(layers.layers) and fits(range(start, end + 1)):
            end += 1
        if end == start:
            return None
        count, start = count + 1, end
    return count


def _costs(layers: Layers, cost: Cost) -> list[float]:
    """Return a cost of each layer, the first with the embedding's and the last with the head's."""
    costs = [float(cost(each)) for each in layers.layers]
    costs[0] += cost(layers.embedding)
    costs[-1] += cost(layers.head)
    return costs


def _stage(layers: Layers, cut: range, work: Work) -> Stage:
    held = layers.of_stage(cut)
    tokens = max(work.chunk, work.streams)
    return Stage(
        cut,
        sum(each.stored for each in held),
        sum(_cache(each, work) for each in held),
        4 * tokens * layers.workspace_width,
    )


def _cache(layer: Layer, work: Work) -> int:
    return layer.cache_bytes * work.streams * work.context


def _decode_seconds(setting: Setting, layer: Layer, streams: int, context: int) -> float:
    return setting.seconds(layer, streams, context, streams * context)


def _decode(
    layers: Layers, held: Sequence[list[Layer]], setting: Setting, work: Work
) -> tuple[int, Run]:
    """Return in how many groups the streams are fastest, and their round."""

    def step(stage: list[Layer], streams: int) -> float:
        return sum(_decode_seconds(setting, each, streams, work.context) for each in stage)

    def handed(streams: int) -> list[float]:
        on = setting.transfer(streams * layers.hidden * _HANDED)
        back = setting.transfer(streams * _TOKEN)
        return [on] * (len(held) - 1) + [back if len(held) > 1 else 0.0]

    def estimate(groups: int) -> float:
        size = -(-work.streams // groups)
        return decode_seconds([step(stage, size) for stage in held], handed(size), groups)

    most = min(work.streams, 2 * len(held))
    groups = min(range(1, most + 1), key=estimate)
    sizes = [work.streams // groups + (group < work.streams % groups) for group in range(groups)]
    transfers = [handed(size) for size in sizes]
    return groups, decode(
        [[step(stage, size) for size in sizes] for stage in held],
        [[each[stage] for each in transfers] for stage in range(len(held))],
    )


def _prefill(layers: Layers, held: Sequence[list[Layer]], setting: Setting, work: Work) -> Run:
    """Return a prompt's way through the stages, in chunks."""
    starts = range(0, work.prompt, work.chunk)
    chunks = [(start, min(work.chunk, work.prompt - start)) for start in starts]

    def step(stage: list[Layer], start: int, tokens: int) -> float:
        return sum(
            # Logits are wanted of one token only.
            setting.seconds(each, 1, 0, 0)
            if each is layers.head
            else setting.seconds(each, tokens, start + tokens // 2, start + tokens)
            for each in stage
        )

    handed = [setting.transfer(tokens * layers.hidden * _HANDED) for _, tokens in chunks]
    return prefill(
        [[step(stage, *chunk) for chunk in chunks] for stage in held], [handed] * len(held)
    )
