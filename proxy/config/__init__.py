"""The configuration: what may be set, and how it is read.

``model`` has the keys, ``load`` the sources, ``problem`` and ``explain`` what is
said when something is wrong.  Used by ``cli``, ``check``, ``assemble`` and the
service.
"""

from proxy.config.load import load
from proxy.config.model import Config
from proxy.config.problem import ConfigError, Problem
from proxy.config.values import Address, read_address

__all__ = ["Address", "Config", "ConfigError", "Problem", "load", "read_address"]
