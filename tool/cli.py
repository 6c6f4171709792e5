"""Command line of every script: flags, one-line errors, words of messages."""

import argparse
import difflib
import math
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

_PLURAL = re.compile(r"^((?:[A-Za-z]+ )?[a-z]+)s(?![a-z])")


class UserError(Exception):
    """Bad input or environment. The message is one line: `<file or flag>: <problem>. <remedy>.`"""


class BadPhoto(UserError):
    """Bad input of one photo; --skip_errors skips it."""


class Help(argparse.RawDescriptionHelpFormatter):
    """Show the description as written, and each flag's default where it has one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is False or action.default in (None, "", argparse.SUPPRESS):  # 0 is shown
            return action.help
        return f"{action.help} (default: %(default)s)"


class Parser(argparse.ArgumentParser):
    """Argument parser that shows the script's docstring as it is written."""

    def __init__(self, description: str | None) -> None:
        super().__init__(description=description, formatter_class=Help)


def number(kind: type, least: float = -math.inf, most: float = math.inf) -> Callable[[str], int | float]:
    """Return an argparse type: a finite `int` or `float` in least..most."""

    def parse(text: str) -> int | float:
        value = kind(text)  # argparse words the error: "invalid int value"
        if not (least <= value <= most and math.isfinite(value)):
            wanted = f"at most {most}" if value > most else f"at least {least}" if math.isfinite(least) else "a number"
            raise argparse.ArgumentTypeError(f"{text}, where {wanted} was expected")
        return value

    parse.__name__ = kind.__name__
    return parse


def count(least: int = 0) -> Callable[[str], int | float]:
    """Return an argparse type: a whole number of at least `least`."""
    return number(int, least, 2**31 - 1)


def plain_name(text: str) -> str:
    """Argparse type: a name that is safe as part of a file name."""
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.+=,-]{0,99}", text):
        raise argparse.ArgumentTypeError(f"{text!r}, where letters, digits and _ . + = , - were expected")
    return text


def warn_unused_flags(args: argparse.Namespace, parser: argparse.ArgumentParser, names: list[str], when: str) -> None:
    """Print which of the flags `names` differ from their defaults although they have no effect `when`."""
    if given := [f"--{name}" for name in names if getattr(args, name) != parser.get_default(name)]:
        print(f"note: {', '.join(given)}: no effect {when}", file=sys.stderr)


def print_error(error: Exception | str) -> None:
    """Print `<script>: error: <message>` to stderr, in one line, after the traceback if TRACEBACK is set."""
    if isinstance(error, Exception) and os.environ.get("TRACEBACK"):
        traceback.print_exception(error)
    print(f"{Path(sys.argv[0]).name}: error: {' '.join(str(error).split())}", file=sys.stderr, flush=True)


def counted(number: int, things: str) -> str:
    """Return the number with its plural noun: "1 photo of the list", "2 photos of the list"."""
    return f"{number} {_PLURAL.sub(lambda found: found[1], things) if number == 1 else things}"


def summarize_ids(items: Sequence[str]) -> str:
    """Return the first ten ids and the number of the others."""
    more = f" and {len(items) - 10} more" if len(items) > 10 else ""
    return f"{', '.join(items[:10])}{more}"


def nearest(word: str, known: Iterable[str]) -> str:
    """Return ` (did you mean ...?)` if one of the known words is similar, else ""."""
    near = difflib.get_close_matches(word, known, 1)
    return f" (did you mean {near[0]}?)" if near else ""


def nearest_path(path: str | Path) -> str:
    """Return `nearest` for a missing path among the names in its folder, or ` (a file)` if it is a file."""
    folder, name = Path(path).absolute().parent, Path(path).name
    if Path(path).is_file():
        return " (a file)"
    return nearest(name, {*os.listdir(folder)} - {name}) if folder.is_dir() else ""
