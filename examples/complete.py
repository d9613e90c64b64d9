"""Code completion: the first snippet of DeepSeek-Coder-V2's model card.

Run it with an engine folder: python examples/complete.py engines/demo
"""

import signal
import sys

from trtcoder import open_engine

if len(sys.argv) != 2:
    sys.exit(__doc__)
if hasattr(signal, "SIGPIPE"):  # so that `| head` ends it quietly; Windows has none
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
with open_engine(sys.argv[1]) as llm:
    for chunk in llm.stream("#写一个快速排序算法", max_tokens=128):
        print(chunk.text, end="", flush=True)
print()
