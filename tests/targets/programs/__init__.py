"""Programs that run in a reader's own environment; they know nothing of trtcoder."""
