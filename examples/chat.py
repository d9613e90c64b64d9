"""Chat completion: the third snippet of DeepSeek-Coder-V2's model card.

Run it with an engine folder: python examples/chat.py engines/demo
"""

import signal
import sys

from trtcoder import open_engine

messages = [{"role": "user", "content": "write a quick sort algorithm in python."}]

if len(sys.argv) != 2:
    sys.exit(__doc__)
if hasattr(signal, "SIGPIPE"):  # so that `| head` ends it quietly; Windows has none
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
with open_engine(sys.argv[1]) as llm:
    for chunk in llm.stream_chat(messages, max_tokens=512):
        print(chunk.text, end="", flush=True)
print()
