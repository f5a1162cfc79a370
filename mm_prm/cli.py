"""How every script ends: one clear line on stderr and an exit code that says what happened.

0 all done; 1 a fault; 2 bad arguments or bad input; 3 some problems could not be finished.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import math
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn


class BadInput(Exception):
    """Input a person must correct. `problems` holds one line for every bad record."""

    def __init__(self, *problems: str):
        super().__init__("\n".join(problems))
        self.problems = problems


class Fault(Exception):
    """Something outside the input went wrong (a server died, the disk is full); said in one line."""


class Busy(Exception):
    """Another process is working on this."""


class Unfinished(Exception):
    """Some problems could not be finished; the same command resumes them."""


def fail(code: int, *lines: str) -> NoReturn:
    for line in lines:
        print(f"error: {line}", file=sys.stderr)
    raise SystemExit(code)


@contextlib.contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Give an OSError raised inside, such as a full disk, the name of the file where it has none."""
    try:
        yield
    except OSError as error:
        error.filename = str(path) if error.filename is None else error.filename
        raise


def first_line(error: BaseException) -> str:
    """Its type, and the first line of what it says: libraries write whole pages."""
    return f"{type(error).__name__}: {error}".splitlines()[0]


@contextlib.contextmanager
def refusing(what: str) -> Iterator[None]:
    """Whatever a library raises over a file becomes BadInput `what (the error)`: each of its fields may be wrong in
    ways that raise anything."""
    try:
        yield
    except (BadInput, Fault, MemoryError):
        raise
    except Exception as error:
        raise BadInput(f"{what} ({first_line(error)})") from None


def end_of_check() -> None:
    """With MM_PRM_CHECK in the environment a script ends here, its flags and input read."""
    if os.environ.get("MM_PRM_CHECK"):
        raise SystemExit(0)


def die_with_parent() -> None:
    """Ask Linux for SIGTERM when the parent dies, so that even SIGKILL of it leaves nothing running."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # 1 is PR_SET_PDEATHSIG


def run(main: Callable[[], object]) -> NoReturn:
    """Run a script's main() and turn what it raises into the documented exit codes.

    With MM_PRM_DIE_WITH_PARENT set, the script stops when the process that started it is gone.
    """
    if os.environ.get("MM_PRM_DIE_WITH_PARENT"):
        die_with_parent()
    sys.setrecursionlimit(10_000)  # json reads and writes a deep tree by recursion
    try:
        main()
    except BadInput as error:
        fail(2, *error.problems)
    except Unfinished as error:
        fail(3, str(error))
    except (Busy, Fault) as error:
        fail(1, str(error))
    except OSError as error:  # disk full, permission denied, a file that vanished: the text names the path
        fail(1, f"{type(error).__name__}: {error}")
    except MemoryError:
        fail(1, "out of memory")
    except RecursionError:  # read, but not written: the limit came nearer
        fail(2, "a record is nested too deeply")
    except (KeyboardInterrupt, asyncio.CancelledError):
        fail(130, "interrupted; run the same command again to continue")
    raise SystemExit(0)


class Parser(argparse.ArgumentParser):
    """argparse with the script's docstring as description, every default shown, and abbreviations refused."""

    def __init__(self, doc: str | None):
        super().__init__(
            description=doc,
            formatter_class=HelpFormatter,
            allow_abbrev=False,
            epilog="Exit codes: see docs/pipeline.md.",
        )

    def parse_args(self, *args: Any) -> Any:  # type: ignore[override]
        """Refuses an --output_file that is a folder, or the input itself: it would be lost."""
        found = super().parse_args(*args)
        output, read = getattr(found, "output_file", None), getattr(found, "input_file", None)
        if output and (os.path.isdir(output) or not Path(output).name):
            self.error(f"--output_file {output}: is a folder")
        if output and read and os.path.realpath(output) == os.path.realpath(read):
            self.error(f"--output_file {output}: is --input_file, which would be lost")
        return found


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """The docstring as it is, each flag once (transformers' parser also takes --a-flag for --a_flag), its default."""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        names = [name for name in action.option_strings if "-" not in name.strip("-")] or action.option_strings
        if not names or action.nargs == 0:
            return ", ".join(names) or super()._format_action_invocation(action)
        return f"{', '.join(names)} {self._format_args(action, action.dest.upper())}"

    def _metavar_formatter(self, action: argparse.Action, default_metavar: str):
        if action.choices and len(",".join(map(str, action.choices))) > 50:
            return lambda count: (default_metavar,) * count
        return super()._metavar_formatter(action, default_metavar)

    def _get_help_string(self, action: argparse.Action) -> str:
        shown = action.default not in (None, argparse.SUPPRESS) and action.default is not False
        return (action.help or "") + (" (default: %(default)s)" if shown else "")


def number(kind: type[int] | type[float], least: int, most: float = math.inf) -> Callable[[str], Any]:
    """argparse type: a finite number from `least` to `most`."""

    def parse(text: str) -> Any:
        value = kind(text)
        if not least <= value <= most or value == math.inf:
            limits = f"at least {least}" if most == math.inf else f"between {least} and {most}"
            raise argparse.ArgumentTypeError(f"must be {limits}, got {text}")
        return value

    parse.__name__ = kind.__name__  # argparse says so where the text is no number
    return parse


positive_int, whole_number = number(int, 1), number(int, 0)
non_negative, fraction = number(float, 0), number(float, 0, 1)
