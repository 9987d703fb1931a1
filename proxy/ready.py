"""``backstop ready``: whether the service that runs with this configuration takes mail.

Knows: to ask its status page, else for its greeting.  Knows not: anything of its
process.  Called by ``cli``, for health checks of containers and scripts.
"""

from __future__ import annotations

import http.client
import smtplib

from proxy.config import Config
from proxy.config.values import read_address

READY, NOT_READY = 0, 1

_SECONDS = 5.0
# What to connect to for what one listens on.
_HERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}


def run(config: Config) -> int:
    """Print what the service says; the exit status."""
    try:
        ready, text = _status(config) if config.status.address else _greeting(config)
    except (OSError, http.client.HTTPException, smtplib.SMTPException) as error:
        ready, text = False, f"{_asked(config)}: {error}"
    print(text)
    return READY if ready else NOT_READY


def _asked(config: Config) -> str:
    return config.status.address or config.listen.addresses[0]


def _status(config: Config) -> tuple[bool, str]:
    """What /readyz says, and in which words."""
    host, port = read_address(_asked(config))
    connection = http.client.HTTPConnection(_HERE.get(host, host), port, _SECONDS)
    try:
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        return answer.status == 200, answer.read(1000).decode(
            "ascii", "replace"
        ).strip()
    finally:
        connection.close()


def _greeting(config: Config) -> tuple[bool, str]:
    """Whether it greets; QUIT ends it."""
    host, port = read_address(_asked(config))
    with smtplib.SMTP(timeout=_SECONDS) as client:
        code, text = client.connect(_HERE.get(host, host), port)
        return code == 220, f"{code} {text.decode('ascii', 'replace')}"
