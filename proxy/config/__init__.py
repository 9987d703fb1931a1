"""The configuration: what may be set, and how it is read.

``model`` has the keys, ``values`` their types, ``sources`` the places where values
come from; ``problem`` and ``explain`` say what is wrong.  Used by ``cli``,
``check``, ``assemble`` and the service.
"""

from proxy.config.model import Config
from proxy.config.problem import ConfigError, Problem
from proxy.config.sources import load
from proxy.config.values import Address, read_address

__all__ = ["Address", "Config", "ConfigError", "Problem", "load", "read_address"]
