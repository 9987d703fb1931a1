"""What every table of the configuration has in common.

Knows: that no unknown key passes.  Knows not: any key.  Used by ``model`` and
``limits``.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A table of the file; its docstring is the head of its documentation."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)
