"""Continues prompts with an engine: ENGINE, CHECKPOINT, ASKED (JSON). Prints JSON.

ASKED has ``prompts``, ``max_new_tokens`` and ``seed``; the answer has the tokens of greedy answers,
one prompt at a time and as a batch padded on the left, those of sampled ones, the texts of
transformers' pipeline, and the versions of what ran.
"""

import json
import sys
from importlib.metadata import version
from typing import Any

import torch
from transformers import AutoTokenizer, pipeline

from trtcoder.optimum import EngineForCausalLM


def main() -> None:
    """Run."""
    engine, checkpoint, asked = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
    prompts, length = asked["prompts"], asked["max_new_tokens"]
    torch.set_num_threads(1)
    model: Any = EngineForCausalLM.from_pretrained(engine)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint, padding_side="left")
    rows = [tokenizer(prompt, return_tensors="pt") for prompt in prompts]
    batch = tokenizer(prompts, return_tensors="pt", padding=True)

    def answers(inputs: dict[str, torch.Tensor], **options: object) -> list[list[int]]:
        end = tokenizer.eos_token_id
        found = model.generate(**inputs, max_new_tokens=length, pad_token_id=end, **options)
        rows = found[:, inputs["input_ids"].shape[1] :].tolist()
        # What stands behind the end of a row fills it up.
        return [row[: row.index(end) + 1] if end in row else row for row in rows]

    torch.manual_seed(asked["seed"])
    sampled = answers(batch, do_sample=True, temperature=0.8)
    pipe = pipeline("text-generation", model=model, tokenizer=tokenizer)
    texts = pipe(prompts, max_new_tokens=length, do_sample=False, batch_size=len(prompts))
    found = {
        "ids": [row["input_ids"][0].tolist() for row in rows],
        "alone": [answers(row, do_sample=False)[0] for row in rows],
        "batch": answers(batch, do_sample=False),
        "sampled": sampled,
        "texts": [each[0]["generated_text"] for each in texts],
        "versions": {name: version(name) for name in ("optimum", "optimum-onnx", "transformers")},
    }
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
