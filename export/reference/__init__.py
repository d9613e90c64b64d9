"""The reference: transformers' own modules, a layer at a time."""
