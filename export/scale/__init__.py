"""A model in stages over several machines, planned on paper: memory, bubbles, tokens a second."""
