"""What may be asked of filling in the middle beside what the dialects have."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class FimOptions(BaseModel):
    """The object ``trtcoder`` of a request; everything is off where it is not asked for."""

    model_config = ConfigDict(extra="forbid", strict=True)

    # Choose the last token before the cursor again, together with what follows it.
    heal: bool | None = None
    # The cursor's line belongs to the middle; heals too, unless ``heal`` is false.
    anchored: bool = False
    # Leave out the end of a middle that repeats what is behind the hole.
    trim_suffix: bool = False
    # Stop at the first line break.
    single_line: bool = False

    @property
    def heals(self) -> bool:
        """Whether the token before the cursor is chosen again."""
        return self.anchored if self.heal is None else self.heal
