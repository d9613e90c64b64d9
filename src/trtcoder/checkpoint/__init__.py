"""A Hugging Face checkpoint: shards, index, tensors."""
