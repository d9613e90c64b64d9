"""From a request to its tokens: scheduler, cache, engine, sampler, text."""
