"""One torch thread a process: the suite runs in parallel, and small operations are slow on contended threads."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch  # noqa: E402

torch.set_num_threads(1)
