"""JSON lines appended while work goes on, held by one process at a time: the next run keeps what a stopped one had."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
from pathlib import Path
from typing import Any

from mm_prm.cli import BadInput, Busy, naming

PARTIAL = ".partial"  # folder of unfinished trees inside the folder of the finished ones
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)  # a file system without locks: go on without


def whole_rows(data: bytes) -> tuple[list[Any], int]:
    """The rows up to the first line that was cut short, and how many bytes they take."""
    rows: list[Any] = []
    whole = 0
    for line in data.splitlines(keepends=True):
        try:
            rows.append(json.loads(line if line.endswith(b"\n") else b""))
        except ValueError:
            break
        whole += len(line)
    return rows, whole


def read_rows(path: str | Path) -> list[Any]:
    """The rows of a journal that another process may be writing."""
    return whole_rows(Path(path).read_bytes())[0]


class Journal:
    """An append-only file of JSON rows under an exclusive lock that ends with the process, however it ends.

    rows: what is there already, up to the first line that a kill or a full disk cut short; the rest is cut off.
    Use as a context. Raises Busy when another process holds it.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.handle = self._open()
        self.rows, whole = whole_rows(self._read())
        os.ftruncate(self.handle, whole)

    def _open(self) -> int:
        while True:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            except FileNotFoundError:  # the folder was removed by a process that had finished
                continue
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Whoever held it may have removed it meanwhile: then this lock is on a file that nobody sees.
                if os.path.exists(self.path) and os.path.samestat(os.fstat(handle), os.stat(self.path)):
                    return handle
            except BlockingIOError:
                os.close(handle)
                raise Busy(f"{self.path}: another process is working on it") from None
            except OSError as error:
                if error.errno in NO_LOCKS:
                    return handle
                os.close(handle)
                raise
            os.close(handle)

    def _read(self) -> bytes:
        os.lseek(self.handle, 0, os.SEEK_SET)
        with open(self.handle, "rb", closefd=False) as file:
            return file.read()

    def keep(self, count: int) -> None:
        """Cut off all but the first `count` rows."""
        lines = self._read().splitlines(keepends=True)[: max(count, 0)]
        os.ftruncate(self.handle, sum(map(len, lines)))
        del self.rows[max(count, 0) :]

    def append(self, *rows: Any) -> None:
        """Write rows and flush them to disk. They are not added to `rows`."""
        data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode("utf-8")
        size = os.fstat(self.handle).st_size
        try:
            with naming(self.path), open(self.handle, "ab", closefd=False) as file:
                file.write(data)
                file.flush()
                os.fsync(self.handle)
        except OSError:
            os.ftruncate(self.handle, size)  # the caller may try again: no row may stand here twice
            raise

    def begin(self, run: dict[str, Any]) -> None:
        """Make {"run": run} the first row. Raises BadInput when results of another run stand here."""
        if self.rows[:1] == [{"run": run}]:
            return
        if len(self.rows) > 1:
            raise BadInput(f"{self.path} was begun with other flags: repeat them, or remove it to begin anew")
        self.clear()
        self.rows = [{"run": run}]
        self.append(*self.rows)

    def clear(self) -> None:
        os.ftruncate(self.handle, 0)
        self.rows = []

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *error: object) -> None:
        """Release the lock; a journal in which nothing stands is removed."""
        if os.fstat(self.handle).st_size == 0:
            self.remove()
        os.close(self.handle)


def remove_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):  # something is left in it, or it was never made
        folder.rmdir()
