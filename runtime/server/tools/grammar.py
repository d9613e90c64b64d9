"""The form of an answer that may call tools: text, calls, or both."""

from __future__ import annotations

import json
from typing import Any

from trtcoder.runtime.constraints.constraint import Constraint, schema_for
from trtcoder.runtime.server.tools.spelling import ARGUMENTS, CLOSE, NAME, OPEN, TEXT, TEXT_CLOSE
from trtcoder.runtime.server.tools.tool import Tool, ToolBox


def calling(box: ToolBox, form: Constraint | None) -> Constraint | None:
    """Return the form of an answer whose text has ``form`` and whose calls fit the schemas.

    Free text ends where a call begins; behind it come only more calls.
    """
    tools = [each for each in box.offered if box.choice.name in (None, each.name)]
    if not tools:
        return form
    rules = [f"rest: ({' | '.join(f'rest{number}' for number in range(len(tools)))})"]
    named: dict[str, dict[str, Any]] = {}
    for number, tool in enumerate(tools):
        if tool.is_text:
            rules += _text_rules(number, tool)
            if tool.form is not None:
                named[f"text{number}"], *_ = tool.form.grammars()
            continue
        head = json.dumps(f"{NAME}{tool.name}{ARGUMENTS}")
        rules.append(f"rest{number}: {head} @arguments{number} {json.dumps(CLOSE)}")
        schema = schema_for(tool.schema, lenient=not tool.strict)
        named[f"arguments{number}"] = {"json_schema": schema}
    start = json.dumps(OPEN)
    more = f'("\\n" {start} rest)*' if box.choice.parallel else ""
    if box.choice.mode == "required":
        rules.insert(0, f"start: {start} rest {more}")
    elif form is not None:
        rules.insert(0, f"start: @text | {start} rest {more}")
        text, *others = form.grammars()
        named["text"] = text
        named |= {each["name"]: each for each in others}
    else:
        rules.insert(0, f"start: TEXT | lead rest {more}")
        rules += ["TEXT: /(.|\\n)*/", f"lead[lazy]: TEXT {start}"]
    return Constraint.of({"lark_grammar": "\n".join(rules) + "\n"}, "tools", **named)


def _text_rules(number: int, tool: Tool) -> list[str]:
    """Return the rules of a call whose text is free, or has the form ``text<number>``."""
    head, close = json.dumps(f"{NAME}{tool.name}{TEXT}"), json.dumps(TEXT_CLOSE)
    if tool.form is not None:
        return [f"rest{number}: {head} @text{number} {close}"]
    # It ends with the first mark of its end.
    return [f"rest{number}: {head} free{number}", f"free{number}[lazy]: /(.|\\n)*/ {close}"]
