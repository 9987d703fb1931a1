"""Fuzz targets: one module a parser, each with ``one_input(data)``.

A target has a list of the exceptions that its parser may raise (``ALLOWED``);
anything else, an assertion above all, is a finding.  ``TOKENS`` are what inputs
are made of.  Two ways to run them:

- ``pytest tests/fuzz``: every input that is kept in ``cases/NAME``, and some
  that hypothesis makes of the tokens;
- ``python -m tests.fuzz NAME -max_total_time=600``: with atheris (the extra
  ``fuzz``), for as long as one likes.

A finding is kept as a file in ``cases/NAME``, named after what was wrong.
"""
