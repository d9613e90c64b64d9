"""Turns a checkpoint's chat template into the text around each message.

The template is a program (Jinja); the engine should not need one. It is rendered here with probe
messages, taken apart, and put together again for other conversations: only a template that these
parts reproduce exactly is accepted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from trtcoder.bundle.manifest import ChatFormat
from trtcoder.errors import BuildError, DependencyError

Message = dict[str, str]
Render = Callable[[Sequence[Message], bool], str]

_CONVERSATIONS: tuple[tuple[str, ...], ...] = (
    ("user",),
    ("system", "user"),
    ("user", "assistant", "user"),
    ("system", "user", "assistant", "user", "assistant", "user"),
)


def derive_chat_format(template: str, bos_token: str, eos_token: str) -> ChatFormat:
    """Return the parts of ``template``.

    Raises:
        BuildError: the template cannot be rendered, or does more than put text around messages.
        DependencyError: jinja2 is not installed.
    """
    render = _renderer(template, bos_token, eos_token)
    user = render([_message("user", 0)], False)
    before_user, after_user = _around(user, "user", 0)
    bos = bos_token if bos_token and before_user.startswith(bos_token) else ""
    prompted = render([_message("user", 0)], True)
    if not prompted.startswith(user):
        raise BuildError("the generation prompt does not follow the last message")
    answered = render([_message("user", 0), _message("assistant", 1)], False)
    if not answered.startswith(user):
        raise BuildError("an answer changes the text before it")
    instructed = render([_message("system", 1), _message("user", 0)], False)
    before_system, after_system = _around(instructed, "system", 1)
    tail = before_user.removeprefix(bos) + _content("user", 0) + after_user
    found = ChatFormat(
        bos=bos,
        system=(before_system.removeprefix(bos), after_system.removesuffix(tail)),
        user=(before_user.removeprefix(bos), after_user),
        assistant=_around(answered.removeprefix(user), "assistant", 1),
        generation_prompt=prompted.removeprefix(user),
    )
    for roles in _CONVERSATIONS:
        messages = [_message(role, index) for index, role in enumerate(roles)]
        if assemble(found, messages) != render(messages, True):
            raise BuildError(f"a conversation of {', '.join(roles)} is not the sum of its messages")
    return found


def assemble(chat: ChatFormat, messages: Sequence[Message]) -> str:
    """Return the prompt text for ``messages``, ready for an answer."""
    text = chat.bos
    for message in messages:
        before, after = getattr(chat, message["role"])
        text += before + message["content"] + after
    return text + chat.generation_prompt


def _renderer(template: str, bos_token: str, eos_token: str) -> Render:
    try:
        from jinja2 import TemplateError
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError as error:
        raise DependencyError(
            "jinja2 is not installed; install it with `pip install 'trtcoder[build]'`"
        ) from error

    def refuse(message: str) -> None:
        raise BuildError(f"it refuses a conversation: {message}")

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = refuse

    def render(messages: Sequence[Message], add_generation_prompt: bool) -> str:
        try:
            return environment.from_string(template).render(
                messages=messages,
                add_generation_prompt=add_generation_prompt,
                bos_token=bos_token,
                eos_token=eos_token,
            )
        except (TemplateError, ArithmeticError, LookupError, TypeError, ValueError) as error:
            raise BuildError(f"it cannot be rendered: {error}") from error

    return render


def _content(role: str, index: int) -> str:
    # White space around the text shows a template that trims it.
    return f" \n«{role} {index}»\n "


def _message(role: str, index: int) -> Message:
    return {"role": role, "content": _content(role, index)}


def _around(text: str, role: str, index: int) -> tuple[str, str]:
    before, found, after = text.partition(_content(role, index))
    if not found:
        raise BuildError(f"it leaves out the content of a {role} message")
    return before, after
