"""Start and end of every script. Imported before other packages, it also explains which of them is missing."""

import io
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from tool.cli import UserError, print_error


def run_script(main: Callable[[], None], interrupted: str = "interrupted") -> None:
    """Run a script's `main`; end with `<script>: error: <message>` and status 1, or 130 and `interrupted` after Ctrl-C."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # for names that the terminal's encoding lacks
    try:
        main()
    except BrokenPipeError:  # the reader (e.g. `head`) closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (UserError, OSError) as error:
        if os.environ.get("LOCAL_RANK", "0") != "0":
            time.sleep(5)  # the machine's first process shows the error of all, then torchrun ends the others
        print_error(error)
        sys.exit(1)
    except KeyboardInterrupt:
        print(f"{Path(sys.argv[0]).name}: {interrupted}", file=sys.stderr)
        sys.exit(130)
    finally:
        torch, path = sys.modules.get("torch"), os.environ.get("GPU_PEAK")
        if path and torch and torch.cuda.is_initialized():  # for experiment.runner
            with open(path, "a") as file:
                file.write(f"{torch.cuda.max_memory_allocated()}\n")


def _explain_missing(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, ModuleNotFoundError) and not os.environ.get("TRACEBACK"):
        remedy = "or install all packages: pip install -r requirements-dev.txt"
        print_error(f"{error}. Activate the environment, `. .venv/bin/activate`, {remedy}")
    else:
        sys.__excepthook__(kind, error, trace)


sys.excepthook = _explain_missing
