"""What every table of the configuration is.

Knows: that keys are checked and unknown ones refused.  Knows not: any key.  Used
by ``model`` and by tables in modules of their own.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A table of the file; its docstring is the head of its documentation."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)
