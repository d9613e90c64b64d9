"""What the model card of DeepSeek-Coder-V2 publishes, for the suites that are run here.

From its section 3 (README of deepseek-ai/DeepSeek-Coder-V2, tables 3.1 to 3.4); figures are
percentages. docs/evaluation.md has all its rows.
"""

from __future__ import annotations

from trtcoder.bundle.scores import CardFigure

SOURCE = "model card of DeepSeek-Coder-V2, section {}"
_LITE_BASE = "DeepSeek-Coder-V2-Lite-Base"
_LITE, _LARGE = "DeepSeek-Coder-V2-Lite-Instruct", "DeepSeek-Coder-V2-Instruct"

# Suite -> the card's section, what differs from the card's way, and the figures by model.
_FIGURES: dict[str, tuple[str, str, dict[str, float]]] = {
    "human-eval": ("3.1", "", {_LITE: 81.1, _LARGE: 90.2}),
    "mbpp-plus": ("3.1", "", {_LITE: 68.8, _LARGE: 76.2}),
    "live-code-bench": (
        "3.1",
        "the card's problems are those of December 2023 to June 2024",
        {_LITE: 24.3, _LARGE: 43.4},
    ),
    "repobench": (
        "3.2",
        "the card's are Python's (43.3 for Java), of December 2023",
        {_LITE_BASE: 38.9},
    ),
    "infilling": (
        "3.2",
        "the card's is the mean of exact matches in Python, Java and JavaScript",
        {_LITE_BASE: 86.4},
    ),
    "human-eval-infilling": (
        "3.2",
        "the card's is the mean of exact matches in Python, Java and JavaScript",
        {_LITE_BASE: 86.4},
    ),
    "gsm8k": ("3.4", "", {_LITE: 86.4, _LARGE: 94.9}),
    "math": ("3.4", "", {_LITE: 61.8, _LARGE: 75.7}),
}


def card_figure(suite: str, model: str) -> CardFigure | None:
    """Return the card's figure of a model that is called so; None where it has none."""
    section, note, figures = _FIGURES.get(suite, ("", "", {}))
    plain = _plain(model)
    for name, percent in figures.items():
        if plain == _plain(name):
            return CardFigure(name, round(percent / 100, 4), SOURCE.format(section), note)
    return None


def _plain(name: str) -> str:
    """Return a model's name without its owner, in letters that do not differ."""
    return name.rsplit("/", 1)[-1].lower().replace("_", "-")
