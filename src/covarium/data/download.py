"""Files from the network, once: resumable, complete or absent, the same as published or as when they first came."""

from __future__ import annotations

import errno
import hashlib
import http.client
import json
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from covarium import __version__
from covarium.errors import CovariumError
from covarium.files import held, replace_text

LOCK = "downloads.lock.json"  # beside the files: what each was when it came
LOCAL = "local copy"
PART, TAG = ".part", ".part.tag"  # what has come so far; which version of the file it is a part of
PIECE = 2**20  # bytes
ATTEMPTS = 4  # in a row that bring nothing new
PAUSE = 1.0  # seconds before the second of them, doubled each time
SILENCE = 60.0  # seconds without a byte, after which an attempt has failed
RETRIED = (408, 429, 500, 502, 503, 504)
Progress = Callable[[int, int | None], object]


@dataclass(frozen=True)
class Source:
    """One official file.

    Attributes:
        url: where it is.
        name: what it is called here.
        size: about how many bytes, where a source states them.
        md5: where a source states it; empty otherwise.
    """

    url: str
    name: str
    size: int | None = None
    md5: str = ""


@dataclass(frozen=True)
class Arrived:
    """A file that is here and is what it should be.

    Attributes:
        path: of the file.
        sha256, md5: of its content.
        how: where it came from, in words.
    """

    path: Path
    sha256: str
    md5: str
    how: str


def fetch(
    source: Source,
    folder: Path,
    *,
    local: tuple[Path, ...] = (),
    progress: Progress | None = None,
    pause: float = PAUSE,
) -> Arrived:
    """The file of a source: a local copy, what was downloaded before, or downloaded now.

    Args:
        source: what.
        folder: where downloads are kept; made if missing.
        local: files that may be copies of it, looked at first and read where they are.
        progress: called with bytes done and, where it is known, their number.
        pause: seconds before a second attempt.

    Raises:
        CovariumError: there is no network, the server does not have it, it ends early, it is not what a published hash
            or the first download says, or there is no room for it.
    """
    place = folder / source.name
    for path in (*local, place):
        if path.is_file():
            sha256, md5 = _checked(path, source, folder)
            known = path == place and source.name in _lock(folder)
            return Arrived(path, sha256, md5, "downloaded before" if known else LOCAL)
    with held(folder):
        free = shutil.disk_usage(folder).free
        if source.size is not None and free < source.size:
            raise CovariumError(
                f"{source.name} needs {source.size:,} bytes and '{folder}' has {free:,} free; "
                "choose another --out, or set COVARIUM_DATA"
            )
        part = _download(source, place, progress, pause)
        sha256, md5 = _digests(part)
        first = _lock(folder).get(source.name, {}).get("sha256", sha256)
        wrong = remedy = ""
        if source.md5 and md5 != source.md5:
            wrong = f"md5 {md5}, published is {source.md5}"
            remedy = "Try again; if it stays so, the official file has changed"
        elif sha256 != first:
            wrong = f"sha256 {sha256}; when {source.name} first came it had {first} ({folder / LOCK})"
            remedy = "The official file has changed; to take the new one, remove its entry there and try again"
        if wrong:
            part.unlink()
            part.with_name(source.name + TAG).unlink(missing_ok=True)
            raise CovariumError(f"{source.url} gave a file with {wrong}; it was removed. {remedy}")
        part.replace(place)
        part.with_name(source.name + TAG).unlink(missing_ok=True)
        found = Arrived(place, sha256, md5, "downloaded")
        _write(folder, source, found)
    return found


def enter(folder: Path, source: Source, found: Arrived) -> None:
    """Note what a file is, unless that is noted already, so that another one in its place is told from it later."""
    with held(folder):
        if source.name not in _lock(folder):
            _write(folder, source, found)


def _write(folder: Path, source: Source, found: Arrived) -> None:
    entry = {"url": source.url, "bytes": found.path.stat().st_size, "md5": found.md5, "sha256": found.sha256}
    known = {**_lock(folder), source.name: entry}
    replace_text(folder / LOCK, json.dumps(known, indent=1, sort_keys=True) + "\n")


def _checked(path: Path, source: Source, folder: Path) -> tuple[str, str]:
    """sha256 and md5 of a file that is here.

    Raises:
        CovariumError: it is not what it should be.
    """
    sha256, md5 = _digests(path)
    if source.md5 and md5 != source.md5:
        raise CovariumError(
            f"{path} has md5 {md5}, published is {source.md5}: it is damaged or another file; remove it, and it is "
            "downloaded again"
        )
    first = _lock(folder).get(source.name, {}).get("sha256", sha256)
    if sha256 != first:
        raise CovariumError(
            f"{path} has sha256 {sha256}; when {source.name} first came it had {first} ({folder / LOCK}). Remove it, "
            "and it is downloaded again; or remove its entry there if the first was the wrong one"
        )
    return sha256, md5


def _lock(folder: Path) -> dict[str, Any]:
    path = folder / LOCK
    if not path.is_file():
        return {}
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CovariumError(f"{path} is damaged ({error}); remove it to accept the files as they are") from error
    if not isinstance(known, dict):
        raise CovariumError(f"{path} holds no mapping; remove it to accept the files as they are")
    return known


def _digests(path: Path) -> tuple[str, str]:
    """sha256 and md5; the latter tells damage from an intact file, no more."""
    sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            sha256.update(piece)
            md5.update(piece)
    return sha256.hexdigest(), md5.hexdigest()


class _Broken(Exception):
    """An attempt that ended early; another may go on."""


def _download(source: Source, place: Path, progress: Progress | None, pause: float) -> Path:
    """Everything of a file under its name with ``.part``; attempts go on where the last one ended."""
    part = place.with_name(place.name + PART)
    failed, before = 0, -1
    while True:
        try:
            _attempt(source, part, progress)
            return part
        except (_Broken, OSError, http.client.HTTPException) as error:
            if isinstance(error, urllib.error.HTTPError) and error.code not in RETRIED:
                raise CovariumError(
                    f"{source.url} answers {error.code} {error.reason}. {_by_hand(source, place)}"
                ) from error
            if _local(error):
                raise CovariumError(f"cannot write {part}: {error}; what came so far is kept") from error
            have = part.stat().st_size if part.exists() else 0
            failed = 1 if have > before >= 0 else failed + 1
            before = have
            if failed >= ATTEMPTS or isinstance(getattr(error, "reason", None), OSError) and have == 0:
                kept = f" {have:,} bytes are kept, and the same command goes on there." if have else ""
                reason = getattr(error, "reason", None) or error
                raise CovariumError(f"cannot get {source.url}: {reason}.{kept} {_by_hand(source, place)}") from error
            time.sleep(pause * 2 ** (failed - 1))


def _local(error: Exception) -> bool:
    """Whether an error is of the disk, not of the network: it names a file, or there is no room."""
    if isinstance(error, urllib.error.URLError) or not isinstance(error, OSError):
        return False
    return error.filename is not None or error.errno in (errno.ENOSPC, errno.EDQUOT)


def _by_hand(source: Source, place: Path) -> str:
    return (
        f"Without a network: download it elsewhere, put it at {place}, or into a folder that COVARIUM_DATA names, and "
        "give the command again"
    )


def _attempt(source: Source, part: Path, progress: Progress | None) -> None:
    """Ask for what is missing and append it.

    Raises:
        _Broken: the connection ended before the file did.
        OSError: of the network or the disk.
    """
    if urlsplit(source.url).scheme not in ("http", "https"):
        raise CovariumError(f"'{source.url}' is not an http or https address")
    tag = part.with_name(part.name.removesuffix(PART) + TAG)
    have = part.stat().st_size if part.exists() else 0
    known = tag.read_text(encoding="utf-8") if tag.exists() else ""
    headers = {"User-Agent": f"covarium/{__version__}", "Accept-Encoding": "identity"}
    if have and known:
        headers |= {"Range": f"bytes={have}-", "If-Range": known}
    request = urllib.request.Request(source.url, headers=headers)
    try:
        answer = urllib.request.urlopen(request, timeout=SILENCE)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing lies behind what is here: begin anew, its length is not to be trusted
            part.unlink()
            raise _Broken("the server has no such part") from error
        raise
    with answer:
        start = _start(answer.headers) if answer.status == 206 else 0
        if start not in (0, have):
            part.unlink()
            raise _Broken(f"the server began at byte {start}, asked was {have}")
        total = _total(answer.headers, start)
        if start == 0:
            tag.write_text(_version(answer.headers), encoding="utf-8")
        done = start
        with part.open("r+b" if start else "wb") as file:
            file.seek(start)
            while piece := answer.read(PIECE):
                file.write(piece)
                done += len(piece)
                if progress is not None:
                    progress(done, total or source.size)
    if total is not None and done != total:
        raise _Broken(f"it ended after {done:,} of {total:,} bytes")


def _version(headers: Mapping[str, str]) -> str:
    """What names this version of the file to the server: a strong ETag, else the date; empty where neither is."""
    tag = headers.get("ETag", "")
    return tag if tag and not tag.startswith("W/") else headers.get("Last-Modified", "")


def _start(headers: Mapping[str, str]) -> int:
    """Of ``Content-Range: bytes 100-199/200``; -1 where it is not understood."""
    first = headers.get("Content-Range", "").removeprefix("bytes ").partition("-")[0]
    return int(first) if first.isdigit() else -1


def _total(headers: Mapping[str, str], start: int) -> int | None:
    length = headers.get("Content-Length", "")
    return start + int(length) if length.isdigit() else None
