"""What a matrix may be stored as."""

from __future__ import annotations

from trtcoder.calib.storage.float8 import Float8
from trtcoder.calib.storage.nvfp4 import Nvfp4
from trtcoder.calib.storage.scheme import Scheme

# What graphs have operators for; checkpoints for other runtimes have more.
GraphStorage = Scheme | Float8
Storage = GraphStorage | Nvfp4
