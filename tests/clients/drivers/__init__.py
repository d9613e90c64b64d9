"""One module a client: how it is pointed at the server, what it is asked, and what must come."""

from tests.clients.client import Client
from tests.clients.drivers import (
    aider,
    aiperf,
    anthropic_python,
    claude_code,
    codex,
    continue_cli,
    llm,
    lm_eval,
    ollama_python,
    openai_node,
    openai_python,
    opencode,
)

CLIENTS: dict[str, Client] = {
    module.CLIENT.name: module.CLIENT
    for module in (
        openai_python,
        openai_node,
        anthropic_python,
        ollama_python,
        llm,
        aider,
        continue_cli,
        codex,
        opencode,
        claude_code,
        lm_eval,
        aiperf,
    )
}
