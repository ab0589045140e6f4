"""`cryoatom train` in a process that is not the first of its run: it works along, and only errors are shown."""

from __future__ import annotations

import logging
import os
import sys

from cryoatom.cli.log import quieten_console
from cryoatom.cli.signals import exit_code
from cryoatom.interruption import Stopped
from cryoatom.train_config import TrainConfig


def is_follower() -> bool:
    """Return whether torchrun or srun has started this process as another than the first."""
    from cryoatom.distributed import find_launch

    return find_launch().rank > 0


def follow(config: TrainConfig) -> None:
    """Train with the others."""
    from cryoatom.training.train import train

    quieten_console()
    try:
        train(config, command=sys.argv)
    except Stopped as stop:  # the first process says so
        sys.exit(exit_code(stop, is_resumable=True))


def leave_group(code: str | int | None) -> None:
    """End at once where this is one of several processes of a run, after all its work: nothing is left to do.

    A process with threads of gloo that ends in order is aborted now and then ("terminate called without an active
    exception"), and a batch system takes that for a failure.
    """
    group = sys.modules.get("cryoatom.distributed")  # not there: nothing has been joined
    if group is None or group.find_launch().size == 1:
        return
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))
