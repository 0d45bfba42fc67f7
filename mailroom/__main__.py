"""The process `mailroom`, from its first moment: it can be stopped, and has three standard streams."""

import os
import sys

from mailroom import signals


def main() -> None:
    """Run the command line, which takes most of a second to import."""
    signals.listen()
    _fill_streams()
    from mailroom.cli.app import main as run  # noqa: PLC0415 - see above

    run()


def _fill_streams() -> None:
    """Take the place of standard streams that are closed: what is opened next would get their numbers, and their text.

    Writing to such an output fails, as it should: what was asked for went nowhere.
    """
    for number, mode in enumerate((os.O_RDWR, os.O_RDONLY, os.O_RDWR)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, mode)
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - for as long as the process


if __name__ == "__main__":
    main()
