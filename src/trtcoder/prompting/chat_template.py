"""A checkpoint's chat template, rendered as transformers 5.23 renders it.

A template is a program from a downloaded file. It runs in Jinja's sandbox, where it reaches nothing
but the messages, and within limits of steps and size; both are in `template_sandbox`.

Its control tokens are told from those that a message spells by rendering it twice: once as it is,
and once with a mark for each control token that the template itself writes (see `marks`). The
second text is the prompt. With its marks spelled out it must equal the first, or the prompt is
refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache

from jinja2 import Template, TemplateError

from trtcoder.errors import RequestError
from trtcoder.prompting.marks import Marks
from trtcoder.prompting.template_budget import limited
from trtcoder.prompting.template_sandbox import compile_template

# transformers' own: a template may look at what it is given.
_TAG = "CONTINUE_FINAL_MESSAGE_TAG "
_SHOWN_CHARACTERS = 200


class ChatTemplate:
    """One template; ``variables`` are the texts of special tokens by name, as ``bos_token``."""

    def __init__(self, text: str, variables: Mapping[str, str] | None = None) -> None:
        self.text = text
        self.variables = dict(variables or {})
        self._compiled = cache(lambda marks: compile_template(text, marks))

    def render(
        self,
        messages: Sequence[Mapping[str, str]],
        *,
        prompt: bool,
        open_end: bool = False,
        now: datetime | None = None,
    ) -> str:
        """Return what transformers' ``apply_chat_template(…, tokenize=False)`` returns.

        Args:
            messages: each with ``role`` and ``content``.
            prompt: end ready for an answer (transformers' ``add_generation_prompt``).
            open_end: end inside of the last message (``continue_final_message``).
            now: what the template takes for the time; the present one by default.

        Raises:
            RequestError: the template refuses the messages, fails, or exceeds a limit.
        """
        return self._render(None, messages, prompt, open_end, now or datetime.now())

    def render_marked(
        self,
        messages: Sequence[Mapping[str, str]],
        marks: Marks,
        *,
        prompt: bool,
        open_end: bool = False,
        now: datetime | None = None,
    ) -> str:
        """Return `render` with marks for the control tokens that the template itself writes.

        Raises:
            RequestError: as `render`; or a message spells a control token, and the template treats
                that text otherwise than other text, so that the two cannot be told apart.
        """
        now = now or datetime.now()
        marked = self._render(marks, messages, prompt, open_end, now)
        if marks.spelled(marked) != self._render(None, messages, prompt, open_end, now):
            raise RequestError(
                "the chat template does not keep its own control tokens apart from those that the "
                "messages spell; take them out of the messages"
            )
        return marked

    def _render(
        self,
        marks: Marks | None,
        messages: Sequence[Mapping[str, str]],
        prompt: bool,
        open_end: bool,
        now: datetime,
    ) -> str:
        listed = [dict(message) for message in messages]
        content = listed[-1]["content"] if listed else ""
        if open_end:
            listed[-1]["content"] += _TAG
        variables = self.variables
        if marks is not None:
            variables = {name: marks.put(value) for name, value in variables.items()}
        try:
            template: Template = self._compiled(marks)
            with limited(now):
                text = template.render(
                    messages=listed,
                    tools=None,
                    documents=None,
                    add_generation_prompt=prompt,
                    **variables,
                )
        except TemplateError as error:
            raise RequestError(f"the chat template refuses: {_shown(error)}") from error
        except Exception as error:  # a program may fail in any way
            raise RequestError(f"the chat template fails: {_shown(error)}") from error
        return _cut(text, content) if open_end else text


def _cut(text: str, content: str) -> str:
    """Return the text up to the tag behind ``content``, as transformers' render_jinja_template."""
    place = text.rfind(_TAG.strip())
    if place < 0 or content.strip() not in text:
        raise RequestError("the chat template changes the last message, so it cannot be continued")
    before = text[:place]
    return before if text.startswith(_TAG, place) else before.rstrip()


def _shown(error: Exception) -> str:
    # A template's own words: they may be long, or hold what a terminal obeys.
    text = "".join(letter if letter.isprintable() else " " for letter in str(error))
    text = " ".join(text.split()) or type(error).__name__
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"
