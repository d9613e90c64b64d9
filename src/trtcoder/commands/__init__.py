"""The commands of `trtcoder`, one module each; nothing heavy is imported before a command runs."""
