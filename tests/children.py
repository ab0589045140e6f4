"""Programs that tests start."""

import signal


def default_signals() -> None:
    """Let a child obey signals that the shell of the tests may ignore, as `nohup` and jobs in the background do.

    For `preexec_fn` of subprocess.Popen.
    """
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
