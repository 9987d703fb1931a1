"""What libraries log through Python's ``logging``, as lines of ours.

Knows: what a record is made of.  Knows not: how a line looks.  Made by
``log``.
"""

from __future__ import annotations

import logging
import os
import sys
import time
import traceback
from collections.abc import Callable

from proxy.observe.lines import LEVELS, VALUE_MAX
from proxy.observe.quota import Quota

Notify = Callable[[str, str], None]
"""Takes a level and a text; :meth:`proxy.observe.log.Logger.notice` fits."""


class LoggingHandler(logging.Handler):
    """Routes warnings and worse of libraries into the same lines.

    At most ``rate`` lines a minute for one logger and message template, then
    one line that tells how many were left out (:class:`Quota`), with the first
    record after that minute or at :meth:`close`.
    """

    def __init__(
        self,
        notify: Notify,
        *,
        rate: int = 20,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(logging.WARNING)
        self._notify = notify
        self.quota = Quota(self._left_out, lines=rate, now=now)

    def emit(self, record: logging.LogRecord) -> None:
        """Never raises."""
        message = record.msg
        template = message if isinstance(message, str) else type(message).__name__
        if self.quota.admits(f"{record.name}: {template[:VALUE_MAX]}"):
            level = _level_name(record.levelno)
            self._notify(level, f"{record.name}: {_message(record)}")

    def close(self) -> None:
        """Tell what was left out."""
        self.quota.settle()
        super().close()

    def _left_out(self, text: str) -> None:
        self._notify("warning", text)


def unraisable(trouble: sys.UnraisableHookArgs) -> None:
    """In place of ``sys.unraisablehook``, which writes five lines to standard error
    for each: an exception that nobody could be told, as a line of the log.

    A server name (SNI) that is not ASCII is such a one: the handshake is refused by
    the ssl module, in a callback of OpenSSL's."""
    error = trouble.exc_value
    what = trouble.err_msg or "Exception ignored"
    logging.getLogger("python").warning("%s: %r", what, error)


def _level_name(number: int) -> str:
    for name, least in reversed(LEVELS.items()):
        if number >= least:
            return name
    return "debug"


def _message(record: logging.LogRecord) -> str:
    """The message, and an exception with the innermost places it came through."""
    try:
        text = record.getMessage()
        error = record.exc_info[1] if record.exc_info else None
        if error is None:
            return text
        places = [
            f"{os.path.basename(frame.filename)}:{frame.lineno} {frame.name}"
            for frame in traceback.extract_tb(error.__traceback__)[-8:]
        ]
        return f"{text}: {type(error).__name__}: {error} ({' > '.join(places)})"
    except Exception as error:  # a library's bad format string, or its __str__
        return f"a record that cannot be shown: {type(error).__name__}"
