"""Files that are written whole or not at all, and one sentence for what a disk complains about."""

from __future__ import annotations

import secrets
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.error import URLError

from posezoo.errors import PoseZooError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@contextmanager
def disk_errors(path: Path, action: str = "write") -> Iterator[None]:
    """Turn the disk's complaints (full, no permission, not a folder) into one sentence about `path`.

    Raises:
        PoseZooError: Instead of an OSError.
    """
    try:
        yield
    except (URLError, TimeoutError, BrokenPipeError):  # network trouble is an OSError too
        raise
    except OSError as error:
        raise PoseZooError(
            f"cannot {action} {error.filename or path} ({error.strerror or error}): make room, mend its permissions or "
            "choose another folder."
        ) from error


@contextmanager
def replaced(target: Path) -> Iterator[Path]:
    """A new file beside `target` to write to, which takes its place at the end; if that fails, nothing is left of it.

    Args:
        target: Its folder is made where it is missing.

    Raises:
        OSError: The disk is full, or the folder may not be written; the target is as it was.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    temporary.touch(exist_ok=False)
    mode = temporary.stat().st_mode  # as the user's umask has it; what safetensors puts there instead is private
    try:
        yield temporary
        temporary.chmod(mode)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def replace_file(target: Path, write: Callable[[Path], Any]) -> Path:
    """Write a file in one step; returns the target.

    Args:
        target: Its folder is made where it is missing.
        write: Is given the path to write to.

    Raises:
        PoseZooError: The disk is full, or the folder may not be written; the target is as it was.
    """
    with disk_errors(target), replaced(target) as path:
        write(path)
    return target
