"""Continues prompts greedily with vLLM: FOLDER, PROMPTS (JSON lists of token ids).

Prints a JSON list with each answer's tokens, and the likeliest ones of every step.
"""

import json
import os
import sys


def main() -> None:
    """Run."""
    from vllm import LLM, SamplingParams

    folder, prompts = sys.argv[1], json.loads(sys.argv[2])
    llm = LLM(
        folder,
        dtype="bfloat16",
        enforce_eager=True,
        max_model_len=64,
        max_num_seqs=4,
        max_logprobs=50,
        seed=0,
    )
    settings = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True, logprobs=50)
    found = llm.generate([{"prompt_token_ids": ids} for ids in prompts], settings)
    answers = []
    for each in found:
        output = each.outputs[0]
        top = [
            {str(token): score.logprob for token, score in row.items()} for row in output.logprobs
        ]
        answers.append({"tokens": list(output.token_ids), "top": top})
    print(json.dumps(answers), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
