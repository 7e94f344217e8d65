"""Write files so that at every instant either the old content or the new one is there, complete."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

from graphopt.errors import UsageError
from graphopt.ir.tensors import CHUNK, FileRef

__all__ = ["Replacement", "require_writable"]

_NO_KERNEL_COPY = {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.EBADF}
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}


class Replacement:
    """A file under a temporary name beside its target. `commit` moves it there; leaving the block removes it.

    Errors of the operating system become UsageError, and the target stays as it was.
    """

    def __init__(self, target: Path) -> None:
        self.target = target
        self._temporary = target.parent / f".graphopt-{secrets.token_hex(6)}.tmp"
        self._fd = -1
        self._size = 0

    def __enter__(self) -> Replacement:
        with self._reported():
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            mode = None
            with contextlib.suppress(FileNotFoundError):
                mode = stat.S_IMODE(self.target.stat().st_mode)
            self._fd = os.open(self._temporary, flags, 0o666)
        try:
            if mode is not None:
                with self._reported():
                    os.fchmod(self._fd, mode)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            with contextlib.suppress(OSError):
                self._temporary.unlink()

    @property
    def size(self) -> int:
        """Bytes written so far, gaps included."""
        return self._size

    def write(self, data: bytes | memoryview) -> None:
        """Append bytes."""
        with self._reported():
            view = memoryview(data)
            while view:
                count = os.write(self._fd, view)
                view = view[count:]
                self._size += count

    def seek(self, offset: int) -> None:
        """Leave a gap of zeros up to `offset`."""
        with self._reported():
            os.lseek(self._fd, offset, os.SEEK_SET)
            self._size = offset

    def copy(self, source: FileRef, offset: int, length: int) -> None:
        """Append a range of another file, inside the kernel where it can; holes stay holes."""
        source.require(offset + length)
        end = offset + length
        with self._reported():
            while offset < end:
                start, stop = _extent(source.fileno(), offset, end)
                if start > offset:
                    self.seek(self._size + start - offset)
                self._copy(source, start, stop)
                offset = stop

    @property
    def temporary(self) -> Path:
        """Where the bytes are until they take the target's place."""
        return self._temporary

    def finish(self) -> None:
        """Set the length, and see the bytes safely on the disk if there is a file that they replace."""
        with self._reported():
            os.ftruncate(self._fd, self._size)
            if self.target.exists():
                os.fsync(self._fd)

    def commit(self) -> None:
        """Take the target's place."""
        with self._reported():
            self._temporary.replace(self.target)
            os.close(self._fd)
            self._fd = -1

    def _copy(self, source: FileRef, offset: int, end: int) -> None:
        while offset < end:
            count = self._kernel_copy(source, offset, end - offset)
            if count == 0:
                chunk = memoryview(bytearray(min(CHUNK, end - offset)))
                source.read_into(chunk, offset)
                self.write(chunk)
                count = len(chunk)
            else:
                self._size += count
            offset += count

    def _kernel_copy(self, source: FileRef, offset: int, length: int) -> int:
        """How many bytes the kernel copied; 0 if it cannot copy between these files."""
        if not hasattr(os, "copy_file_range"):
            return 0
        try:
            return os.copy_file_range(source.fileno(), self._fd, min(length, 1 << 30), offset)
        except OSError as error:
            if error.errno in _NO_KERNEL_COPY:
                return 0
            raise

    @contextlib.contextmanager
    def _reported(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise _explain(error, self.target) from error


def require_writable(target: Path) -> None:
    """Raise UsageError if no file can be made at `target`."""
    folder = target.parent
    if not folder.is_dir():
        what = "its folder is a file" if folder.exists() else "its folder does not exist"
        raise UsageError(f"cannot be written: {what}", where=str(target), hint=f"create {folder} first")
    if target.is_dir():
        raise UsageError("cannot be written: it is a directory", where=str(target), hint="name a file in it")
    if target.exists() and not target.is_file():
        raise UsageError("cannot be written: it is not a regular file", where=str(target))


def _extent(fd: int, offset: int, end: int) -> tuple[int, int]:
    """The next run of data in [offset, end); an empty one at the end if only a hole is left."""
    try:
        start = os.lseek(fd, offset, os.SEEK_DATA)
        if start >= end:
            return end, end
        return start, min(end, os.lseek(fd, start, os.SEEK_HOLE))
    except OSError as error:
        if error.errno == errno.ENXIO:
            return end, end
        return offset, end  # a file system without holes
    except AttributeError:
        return offset, end  # a platform without them


def _explain(error: OSError, target: Path) -> UsageError:
    reason = error.strerror or str(error)
    if error.errno in _FULL:
        hint = f"make room in {target.parent}, or write to another disk; the previous file is untouched"
    elif error.errno in _DENIED:
        hint = f"check the permissions of {target.parent}, or write elsewhere"
    else:
        hint = "the previous file is untouched"
    return UsageError(f"cannot be written: {reason}", where=str(target), hint=hint)
