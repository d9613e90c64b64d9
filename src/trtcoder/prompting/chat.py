"""Conversations as text: by the parts of a template where it has such, else by the template itself.

This is the one place that puts a conversation together; what is generated, what calibrates and what
judges all pass here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from trtcoder.bundle.manifest import ChatFormat
from trtcoder.errors import RequestError
from trtcoder.prompting.marks import Marks

if TYPE_CHECKING:
    from trtcoder.prompting.chat_template import ChatTemplate

ROLES = ("system", "user", "assistant")
Messages = Sequence[Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class Chat:
    """A model's chat: ``form`` is its parts or its template."""

    form: ChatFormat | ChatTemplate

    def marks(self, messages: Messages, tokens: Iterable[str]) -> Marks:
        """Return marks for control ``tokens`` whose letter the conversation does not use."""
        texts = [value for message in messages for value in message.values()]
        return Marks.absent_from([*texts, *self.texts()], tokens)

    def texts(self) -> list[str]:
        """Return the text that the format itself may write."""
        if isinstance(self.form, ChatFormat):
            form = self.form
            return [form.bos, *form.system, *form.user, *form.assistant, form.generation_prompt]
        return [self.form.text, *self.form.variables.values()]

    def render(
        self,
        messages: Messages,
        marks: Marks,
        *,
        prompt: bool,
        open_end: bool = False,
        now: datetime | None = None,
    ) -> str:
        """Return the conversation, its control tokens as marks; the rest is text as it is.

        The arguments are those of `ChatTemplate.render_marked`.

        Raises:
            RequestError: a role is unknown, or the template refuses the messages.
        """
        if not isinstance(self.form, ChatFormat):
            return self.form.render_marked(
                messages, marks, prompt=prompt, open_end=open_end, now=now
            )
        form = self.form
        around = {"system": form.system, "user": form.user, "assistant": form.assistant}
        text, end = marks.put(form.bos), ""
        for number, message in enumerate(messages):
            if message["role"] not in around:
                raise RequestError(
                    f"messages[{number}]: role {message['role']!r} is unknown; "
                    f"use one of {', '.join(ROLES)}"
                )
            before, after = around[message["role"]]
            text += end + marks.put(before) + message["content"]
            end = marks.put(after)
        if not open_end:
            text += end
        return text + marks.put(form.generation_prompt) if prompt else text
