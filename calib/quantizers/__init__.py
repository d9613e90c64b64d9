"""Choose stored values: rounding, clipping, AWQ, GPTQ."""
