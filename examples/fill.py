"""Code insertion: the second snippet of DeepSeek-Coder-V2's model card.

The card writes the fill-in-the-middle tokens into the text. Here they are never text: the two
parts are given apart, and the engine knows the ids of the tokens around them.

Run it with an engine folder: python examples/fill.py engines/demo
"""

import signal
import sys

from trtcoder import open_engine

PREFIX = """def quick_sort(arr):
    if len(arr) <= 1:
        return arr
    pivot = arr[0]
    left = []
    right = []
"""
SUFFIX = """
        if arr[i] < pivot:
            left.append(arr[i])
        else:
            right.append(arr[i])
    return quick_sort(left) + [pivot] + quick_sort(right)"""

if len(sys.argv) != 2:
    sys.exit(__doc__)
if hasattr(signal, "SIGPIPE"):  # so that `| head` ends it quietly; Windows has none
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
with open_engine(sys.argv[1]) as llm:
    for chunk in llm.stream_fill(PREFIX, SUFFIX, max_tokens=128):
        print(chunk.text, end="", flush=True)
print()
