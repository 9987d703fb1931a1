"""Settings for hypothesis: no clock (a loaded machine is no failure), no files."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

fuzz = settings(
    deadline=None,
    database=None,
    max_examples=200,
    suppress_health_check=[HealthCheck.too_slow],
)
