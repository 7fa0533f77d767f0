"""The standard input, output and errors of a command, whatever they are connected to."""

import os
import sys
from io import TextIOWrapper


def prepare() -> None:
    r"""Let what is printed always be printed, and no file of ours be taken for an output.

    What an encoding cannot show is shown as an escape such as \xe9. Where a descriptor below
    three is closed, the next file that is opened would get its number, and whatever a library
    says of its errors would be written into it, which may be the watermark store.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # the lowest that is free
            if opened != descriptor:
                os.dup2(opened, descriptor)
                os.close(opened)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def finish() -> None:
    """Have everything printed; raises OSError, after which Python has nothing left to print."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        raise
