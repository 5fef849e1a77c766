"""Files and folders that are written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

__all__ = ["atomic_write", "path_of"]


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str], *, overwrite: bool = True) -> Iterator[Path]:
    """A path beside `path`, at which to write a file or a folder that takes its place at the end.

    When the block ends, what it wrote is on the disk (`fsync`), and one rename puts it at `path`:
    whoever reads sees the older file or the newer one, whole, also after a crash. If the block
    raises, or writing fails, what it wrote is removed and `path` is as before; a process that is
    killed leaves a hidden file that begins with ".tmp-" beside it.

    A link is followed, an older file's permissions are kept, and one that must not be written is
    not replaced. An older folder is moved aside before the newer one is moved in, and then removed.
    What is neither file nor folder, as `/dev/null`, is written as it stands.

    Args:
      path: where the file or folder is to be; its folder must exist.
      overwrite: whether to replace what is there.

    Yields:
      A path that ends as `path` does, at which there is nothing yet.

    Raises:
      FileExistsError: there is something at `path`, and `overwrite` is false.
      IsADirectoryError: a file was written, and there is a folder at `path`.
      NotADirectoryError: a folder was written, and there is a file at `path`.
      FileNotFoundError: the folder in which it is to be does not exist.
      OSError: that folder cannot be written; the disk is full.

    Example:
      >>> with atomic_write("table.csv") as file:
      ...     file.write_text("a,b\\n1,2\\n")
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not (target.is_file() or target.is_dir()):
        yield target
        return
    _check(target, path, overwrite)
    part = target.with_name(f".tmp-{secrets.token_hex(4)}-{target.name[-40:]}")
    try:
        yield part
        if target.is_file():
            os.chmod(part, stat.S_IMODE(target.stat().st_mode))
        _sync(part)
        _check(target, path, overwrite)
        if target.is_dir() and not part.is_dir():
            raise IsADirectoryError(f"{str(path)!r} is a folder, and what is written a file.")
        if target.is_file() and part.is_dir():
            raise NotADirectoryError(f"{str(path)!r} is a file, and what is written a folder.")
        _move(part, target)
    finally:
        _remove(part)
    _sync_entry(target.parent)


def path_of(filepath: str | os.PathLike[str]) -> str:
    """The path as text; raise a TypeError unless it is one."""
    if not isinstance(filepath, str | bytes | os.PathLike):
        raise TypeError(f"`filepath` must be a path. Received: filepath={filepath!r}")
    return os.fsdecode(filepath)


def _check(target: Path, path: str | os.PathLike[str], overwrite: bool) -> None:
    if not target.parent.is_dir():
        raise FileNotFoundError(f"There is no folder for {str(path)!r}.")
    if target.exists():
        if not overwrite:
            raise FileExistsError(f"{str(path)!r} exists, and `overwrite` is false.")
        if not os.access(target, os.W_OK):
            raise PermissionError(f"{str(path)!r} must not be written.")


def _move(part: Path, target: Path) -> None:
    if not target.is_dir():
        os.replace(part, target)
        return
    aside = part.with_name(f"{part.name}.old")
    os.rename(target, aside)
    try:
        os.rename(part, target)
    except OSError:
        os.rename(aside, target)
        raise
    shutil.rmtree(aside)


def _remove(part: Path) -> None:
    if part.is_dir():
        shutil.rmtree(part, ignore_errors=True)
    else:
        part.unlink(missing_ok=True)


def _sync(part: Path) -> None:
    for entry in sorted(part.rglob("*")) if part.is_dir() else ():
        if not entry.is_symlink():
            _sync_entry(entry)
    _sync_entry(part)


def _sync_entry(path: Path) -> None:
    """Have the operating system write a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
