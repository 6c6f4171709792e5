"""One error type for everything that a user can put right, shown as one line instead of a traceback."""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path


class UserError(Exception):
    """Bad input or environment. The message is one line: what is wrong, where, and the remedy."""


class BadPhoto(UserError):
    """Something is wrong with the input of one photo; the others may go on."""


def show(error: Exception | str) -> None:
    """Write `<script>: error: <message>` to stderr, in one line."""
    print(f"{Path(sys.argv[0]).name}: error: {' '.join(str(error).split())}", file=sys.stderr, flush=True)


def leave_it_to_the_first(seconds: float = 5) -> None:
    """Wait before an error is shown by another than the machine's first process.

    What all of them meet, such as bad input, the first one shows; then it ends, upon which torchrun ends the others.
    """
    if os.environ.get("LOCAL_RANK", "0") != "0":
        time.sleep(seconds)


def run(main: Callable[[], None], interrupted: str = "interrupted") -> None:
    """Run a script's `main` and turn a UserError into `<script>: error: <message>` on stderr and exit status 1.

    So are the system's errors that no check foresaw: a path that is too long, a disk that has gone. After Ctrl-C the status is 130
    and the line `<script>: <interrupted>`.
    """
    try:
        main()
    except BrokenPipeError:  # who reads our output, such as `head`, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (UserError, OSError) as error:
        leave_it_to_the_first()
        show(error)
        sys.exit(1)
    except KeyboardInterrupt:
        print(f"{Path(sys.argv[0]).name}: {interrupted}", file=sys.stderr)
        sys.exit(130)
