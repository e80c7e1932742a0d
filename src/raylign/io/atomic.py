"""Files are written whole or not at all, and through to the disk before they get their name."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from raylign.errors import InputError


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """A temporary name in the folder of ``path`` that becomes ``path`` when the block ends well.

    The temporary name ends like ``path`` does, since libraries choose a format by the suffix. When the block raises (Ctrl-C
    included), the temporary file is removed and what was at ``path`` before is untouched. The folder is made where absent.

    Raises
    ------
    InputError: the folder cannot be made or written to, ``path`` is a folder, the disk is full.
    """
    target = Path(path)
    if target.is_dir():
        raise InputError("is a folder, not a file that can be written", file=target, remedy="give a file name")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        suffix = "".join(target.suffixes[-2:])
        handle, name = tempfile.mkstemp(prefix=f".{target.name[:40]}.", suffix=suffix, dir=target.parent)
        os.close(handle)
    except OSError as error:
        raise _unwritable(target, error) from None
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())  # mkstemp makes files that only the owner may read
        _synced(temporary)  # the name must not outlive a power cut that the content does not
        os.replace(temporary, target)
        with suppress(OSError):  # not every system lets a folder be written through
            _synced(target.parent)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise _unwritable(target, error) from error
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


def write_text(path: str | Path, text: str) -> None:
    """Write ``text`` (UTF-8) to ``path``, whole or not at all; raises InputError where it cannot be written."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def _synced(path: Path) -> None:
    """Written through to the disk."""
    # Windows wants a file that may be written to, others a folder that may not
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a file system that knows nothing of it
            raise
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def _unwritable(target: Path, error: OSError) -> InputError:
    reason = error.strerror or str(error)
    return InputError(f"cannot be written ({reason})", file=target, remedy="choose a folder you may write to with free space")
