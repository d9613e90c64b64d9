"""From text and messages to token ids, as a checkpoint's files say."""
