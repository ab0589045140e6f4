"""One torch thread a process: the suite runs in parallel, and small operations are slow on contended threads."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest  # noqa: E402
import torch  # noqa: E402

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small data set as files, one for each test file."""
    from fits import write_dataset  # not before types are checked

    folder = tmp_path_factory.mktemp("data")
    write_dataset(folder, 41)
    return folder
