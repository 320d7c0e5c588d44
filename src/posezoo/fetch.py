"""The only code that touches the network: downloads that go on where they stopped, and the Hugging Face hub."""

from __future__ import annotations

import hashlib
import os
import sys
import time
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from posezoo import __version__
from posezoo.disk import disk_errors
from posezoo.errors import PoseZooError

HUB_PREFIX = "hf-hub:"
ATTEMPTS = 3
_BLOCK = 1 << 18
_OFF = ("", "0", "false", "no", "off")


def offline() -> str | None:
    """The environment variable that forbids the network, POSEZOO_OFFLINE or HF_HUB_OFFLINE; None when online."""
    names = ("POSEZOO_OFFLINE", "HF_HUB_OFFLINE")
    return next((name for name in names if os.environ.get(name, "").strip().lower() not in _OFF), None)


def sha256(path: Path) -> str:
    """Checksum of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch(url: str, target: Path, checksum: str | None) -> None:
    """Download a file; what an earlier attempt left is kept and continued (HTTP Range).

    Args:
        url: http, https or file.
        target: Where it goes once it is complete and right; beside it lies `.NAME.part` until then.
        checksum: SHA-256 that it must have; None accepts anything.

    Raises:
        PoseZooError: It cannot be fetched, cannot be written, or is not what it should be (then nothing is kept).
    """
    part = target.with_name(f".{target.name}.part")
    with disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        resumed = _download(url, part)
        if checksum is not None and sha256(part) != checksum and resumed:
            part.unlink()  # the beginning was of another file: once more, from zero
            _download(url, part)
        found = sha256(part)
        if checksum is not None and found != checksum:
            part.unlink()
            raise PoseZooError(
                f"{url} is not the file that the catalogue describes (SHA-256 {found[:12]}..., expected "
                f"{checksum[:12]}...): it was not kept; try again, and report it if it stays so."
            )
        part.replace(target)


def _download(url: str, part: Path) -> bool:
    """Complete `part`, in a few attempts; whether an earlier beginning was continued."""
    resumed = part.is_file() and part.stat().st_size > 0
    for attempt in range(1, ATTEMPTS + 1):
        try:
            _continue(url, part)
            return resumed
        except HTTPError as error:
            if error.code not in (408, 429) and error.code < 500:
                raise _unreachable(url, f"{error.code} {error.reason}") from error
            reason: object = f"{error.code} {error.reason}"
        except URLError as error:
            reason = error.reason
        except (ConnectionError, TimeoutError) as error:
            reason = error
        if attempt == ATTEMPTS:
            raise _unreachable(url, reason)
        time.sleep(0.2 * attempt)
    raise AssertionError("unreachable")


def _unreachable(url: str, reason: object) -> PoseZooError:
    return PoseZooError(
        f"cannot fetch {url} ({reason}): type the same again to go on, or download its folder on another machine and "
        "give that."
    )


def _continue(url: str, part: Path) -> None:
    """One request for what is missing.

    Raises:
        ConnectionError: The connection ended early.
    """
    have = part.stat().st_size if part.is_file() else 0
    request = Request(url, headers={"User-Agent": f"posezoo/{__version__}"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        response = urlopen(request, timeout=60)
    except HTTPError as error:
        if error.code == 416 and have:  # nothing is missing, or it is another file: the checksum tells
            return
        raise
    with response:
        start = have if getattr(response, "status", None) == 206 else 0
        length = response.headers.get("Content-Length")
        total = start + int(length) if length else None
        with part.open("r+b" if start else "wb") as file:
            file.seek(start)
            for block in iter(lambda: response.read(_BLOCK), b""):
                file.write(block)
                _show(part.name, file.tell(), total)
        done = part.stat().st_size
    if total is not None and done < total:
        raise ConnectionError(f"the connection ended after {done} of {total} bytes")


def _show(name: str, done: int, total: int | None) -> None:
    """A running line on a terminal, nothing elsewhere."""
    if total and total > 4 * _BLOCK and sys.stderr.isatty():
        end = "\n" if done >= total else ""
        print(f"\r{name[1:-5]}: {done / 2**20:.1f} of {total / 2**20:.1f} MiB", end=end, file=sys.stderr, flush=True)


def parse_hub(source: str) -> tuple[str, str | None]:
    """(org/name, revision or None) of `hf-hub:org/name@revision`.

    Raises:
        PoseZooError: It is not of that form.
    """
    repository, _, revision = source.removeprefix(HUB_PREFIX).partition("@")
    if repository.count("/") != 1 or not all(repository.split("/")):
        raise PoseZooError(f"'{source}' is not a hub id: type {HUB_PREFIX}ORGANISATION/NAME@REVISION.")
    return repository, revision or None


def fetch_hub(source: str, files: tuple[str, ...]) -> Path:
    """Folder with files of a repository of the Hugging Face hub, from its own cache where they are there.

    Args:
        source: `hf-hub:org/name@revision`; without a revision, the main branch.
        files: Names inside the repository.

    Raises:
        PoseZooError: No such repository, revision or file, no network, or it is switched off.
    """
    from huggingface_hub import hf_hub_download

    repository, revision = parse_hub(source)
    switch = offline()
    options: dict[str, Any] = {"revision": revision, "local_files_only": switch is not None}
    if os.environ.get("HF_ENDPOINT"):  # a mirror
        options["endpoint"] = os.environ["HF_ENDPOINT"].rstrip("/")
    try:
        paths = [Path(hf_hub_download(repository, name, **options)) for name in files]
    except Exception as error:  # the hub's client has a dozen kinds, and passes others through
        if switch is not None:
            raise PoseZooError(
                f"{source} is not in the hub's cache and {switch} is set: unset it, or type "
                f"`posezoo download {source}` where there is a network and give the folder that it prints."
            ) from error
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise PoseZooError(
            f"cannot fetch {source} ({type(error).__name__}: {reason[:160].rstrip('.')}): check organisation, name and "
            "revision, or give a local folder."
        ) from error
    return paths[0].parent
