"""``python -m tests.fuzz NAME [libFuzzer's options]``: run one target.

Knows: atheris.  Begins with the kept cases and the target's tokens; what it
learns stays in a temporary directory, and what it finds is written to the
working directory, as libFuzzer does.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
from pathlib import Path

from tests.fuzz.targets import NAMES, cases_of, guarded, load


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1] not in NAMES:
        sys.exit(f"usage: python -m tests.fuzz {{{','.join(NAMES)}}} [options]")
    name = sys.argv.pop(1)
    try:
        atheris = importlib.import_module("atheris")
    except ImportError:
        sys.exit("atheris is not installed: pip install -e '.[fuzz]'")
    with atheris.instrument_imports(include=["proxy"]):
        target = load(name)
    with tempfile.TemporaryDirectory() as place:
        tokens = Path(place) / "tokens"
        tokens.write_text("".join(map(_quoted, target.TOKENS)))
        learnt = Path(place) / "learnt"
        learnt.mkdir()
        kept = [str(cases_of(name))] if cases_of(name).is_dir() else []
        options = [*sys.argv, f"-dict={tokens}", str(learnt), *kept]
        atheris.Setup(options, guarded(target))
        atheris.Fuzz()


def _quoted(token: bytes) -> str:
    """A line of libFuzzer's dictionary."""
    return '"' + "".join(f"\\x{byte:02x}" for byte in token) + '"\n'


if __name__ == "__main__":
    main()
