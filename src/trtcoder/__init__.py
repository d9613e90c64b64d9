"""trtcoder: DeepSeek-Coder-V2 checkpoints to verified engines."""

__version__ = "0.1.0"
