"""What may be asked of filling in the middle beside what the dialects have."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict


@dataclass(frozen=True, slots=True, kw_only=True)
class FimDefaults:
    """What an operator chooses for requests that do not say.

    Attributes:
        heal: choose the last token before the cursor again, together with what follows it; None
            does so where the line of the cursor is anchored.
        anchored: the line of the cursor belongs to the middle.
        trim_suffix: leave out the end of a middle that repeats what is behind the hole.
        single_line: stop at the first line break.
    """

    heal: bool | None = None
    anchored: bool = False
    trim_suffix: bool = False
    single_line: bool = False

    @property
    def heals(self) -> bool:
        """Whether the token before the cursor is chosen again."""
        return self.anchored if self.heal is None else self.heal


class FimOptions(BaseModel):
    """The object ``trtcoder`` of a request; what it leaves out is the operator's choice."""

    model_config = ConfigDict(extra="forbid", strict=True)

    heal: bool | None = None
    anchored: bool | None = None
    trim_suffix: bool | None = None
    single_line: bool | None = None

    def over(self, defaults: FimDefaults) -> FimDefaults:
        """Return what is asked for, over what the operator has chosen."""
        asked = self.model_dump(exclude_none=True)
        return FimDefaults(
            **{name: asked.get(name, getattr(defaults, name)) for name in FimOptions.model_fields}
        )
