"""Where messages go: one line each on stderr, and with times and tracebacks into the run's run.log."""

from __future__ import annotations

import logging
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cryoatom import __version__

_logger = logging.getLogger("cryoatom")
run_logger = logging.getLogger("cryoatom.run")  # for run.log alone: the console shows it in another way
_EXPECTED = (ValueError, OSError)  # raised with a text for the user: bad input, missing files, a full disk


def error_line(error: BaseException) -> str:
    """Say what went wrong in the words of the error; anything unexpected is named as such, in one line."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    if isinstance(error, _EXPECTED):
        return str(error)
    first_line = (str(error).splitlines() or [""])[0]
    return f"unexpected {type(error).__name__}: {first_line} (`cryoatom --debug ...` shows where; please report it)"


class _ConsoleFormatter(logging.Formatter):
    """`Warning: text`; the traceback only for --debug."""

    def __init__(self, debug: bool) -> None:
        super().__init__()
        self.debug = debug

    def format(self, record: logging.LogRecord) -> str:
        line = record.getMessage()
        if record.levelno >= logging.WARNING:
            line = f"{record.levelname.capitalize()}: {line}"
        if self.debug and record.exc_info:
            line = f"{self.formatException(record.exc_info)}\n{line}"
        return line


@contextmanager
def console_log(*, verbose: bool, debug: bool) -> Iterator[None]:
    """Send the package's messages to stderr while a command runs: warnings and errors, with `verbose` all."""
    level, handlers = _logger.level, list(_logger.handlers)
    console = logging.StreamHandler(sys.stderr)
    console.addFilter(lambda record: record.name != run_logger.name)
    console.setFormatter(_ConsoleFormatter(debug))
    console.setLevel(logging.INFO if verbose or debug else logging.WARNING)
    _logger.addHandler(console)
    _logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        for handler in [h for h in _logger.handlers if h not in handlers]:
            _logger.removeHandler(handler)
            with suppress(OSError):  # a full disk has been reported already
                handler.close()
        _logger.setLevel(level)


def quieten_console() -> None:
    """Let only errors through: other processes of the same run say the rest."""
    for handler in _logger.handlers:
        handler.setLevel(logging.ERROR)


class _RunLog(logging.FileHandler):
    """A log that begins as soon as its folder exists; messages from before wait for it."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, delay=True, encoding="utf-8")
        self.waiting: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.waiting.append(record)
        if not Path(self.baseFilename).parent.is_dir():
            return
        try:
            for waiting in self.waiting:
                super().emit(waiting)
        except OSError:
            self.handleError(record)
        self.waiting.clear()

    def handleError(self, record: logging.LogRecord) -> None:
        """Stay silent: where the log cannot be written (a full disk), the console still gets the message."""


def add_run_log(path: Path) -> None:
    """Append every message of this command, with its time and traceback, to `path` until the command ends.

    The folder need not exist yet: bad input is found before a run folder is made, and then leaves none behind.
    """
    if not any(isinstance(log, _RunLog) and Path(log.baseFilename) == path.absolute() for log in _logger.handlers):
        _logger.addHandler(_run_log(path))
    run_logger.info("cryoatom %s: %s", __version__, shlex.join(sys.argv))


def _run_log(path: Path) -> _RunLog:
    log = _RunLog(path)
    log.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s", "%Y-%m-%d %H:%M:%S"))
    return log
