"""From a request to its tokens: engine, sampler, prompts, detokenizer, generation."""
