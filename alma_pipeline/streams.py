"""Standard output and error: usable whatever the locale, and where they are closed. Independent of what is printed.

What people read is degraded to what the locale can encode; what programs read is UTF-8.
"""

import codecs
import fcntl
import io
import os
import sys

DEGRADE = "alma_pipeline.degrade"
"""Name of the error handler for characters that the locale cannot encode."""
PLAIN = {
    **{"→": "->", "↓": "v", "·": "-", "–": "-", "—": "-", "−": "-", "×": "x", "±": "+-", "≈": "~", "≥": ">=", "≤": "<="},
    **{"▲": "^", "▼": "v", "✓": "+", "✗": "x", "…": "...", "†": "+", "⏎": "\\n", "◐": "*", "○": "o", "⇩": "v"},
}
"""ASCII in place of the signs that this package prints."""
CLOSED: set[int] = set()
"""Descriptors of this process that were closed when it began."""
SPINNER = range(0x2800, 0x2900)
"""Braille patterns: the frames of rich's spinner."""


def prepare_streams() -> None:
    """Make standard output and error usable, whatever the locale and whether they are open or closed."""
    _open_closed_descriptors()
    for name in ("stdout", "stderr"):
        # Python has no stream for a closed descriptor, and print(file=None) would print to the other stream.
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=DEGRADE)


def _open_closed_descriptors() -> None:
    """Open the null device as 0, 1 and 2 where they are closed: else the next file opened would be standard output.

    An output that is open for reading alone counts as closed: bash has its script there, if it was started with `2>&-`.
    """
    for number in (0, 1, 2):
        try:
            mode = fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE
            usable = number == 0 or mode != os.O_RDONLY
        except OSError:
            usable = False
        if not usable:
            opened = os.open(os.devnull, os.O_RDWR)
            os.dup2(opened, number)
            CLOSED.add(number)
            if opened != number:
                os.close(opened)


def write_utf8(text: str) -> None:
    """Write what a file or a program reads to standard output: UTF-8, whatever the locale. Raises OSError."""
    sys.stdout.flush()
    sys.stdout.buffer.write(text.encode())
    sys.stdout.buffer.flush()


def degrade(error: UnicodeError) -> tuple[str, int]:
    """Error handler: replaces what cannot be encoded by `PLAIN`, or by its escape, as in `\\u732b`."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_plain, error.object[error.start : error.end])), error.end


def _plain(letter: str) -> str:
    if ord(letter) in SPINNER:
        return "*"
    return PLAIN.get(letter) or letter.encode("ascii", "backslashreplace").decode("ascii")


codecs.register_error(DEGRADE, degrade)
