"""One file from a server, whole or not at all: resumed where it broke off, checked against what the server says of it.

No sums of the files are published, so a download is compared with its `Content-Length` and, where Amazon S3 gives the MD5 as `ETag`,
with that. SHA-256 sums go into a manifest beside the data, by which later calls know what they have.
"""

from __future__ import annotations

import hashlib
import http.client
import re
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path

from slimbrain.disk.atomic import write_atomic, write_text
from slimbrain.disk.seal import sha256
from slimbrain.disk.tsv import format_tsv, read_tsv
from slimbrain.errors import InputError

MANIFEST_FILE = "downloads.tsv"
_PARTS_FOLDER = ".downloads"

_TRIES, _WAIT_S, _TIMEOUT_S = 4, 2.0, 60.0
"""Attempts per file, seconds before the second (doubled each time), seconds without an answer."""

_CHUNK_BYTES = 1 << 20
_S3_MD5 = re.compile(r'"[0-9a-f]{32}"')
"""ETag of an object that S3 received in one piece: its MD5. Of one in several pieces it ends in their number."""

_ABSENT, _BEYOND_THE_END, _SERVER_ERROR = (403, 404), 416, 500
"""Status codes; S3 says 403 of what is not there to those who may not list."""

_UNREACHABLE = (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError)


class NotOnServerError(InputError):
    """The server has no such file."""


class _IncompleteError(Exception):
    """What came is not what the server said."""


@dataclass(frozen=True)
class _Entry:
    """A row of the manifest: a file below the folder, what it was made from, and when."""

    file: str
    sha256: str
    url: str
    source_bytes: str
    source_sha256: str
    source_etag: str
    retrieved: str


class Downloads:
    """The downloads of a folder, and its manifest.

    Parameters
    ----------
    folder : Path
        Made if missing.

    Raises
    ------
    StoreError
        If the manifest cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / MANIFEST_FILE
        rows = read_tsv(path) if path.is_file() else []
        names = [field.name for field in fields(_Entry)]
        self._entries = {row["file"]: _Entry(**{name: row.get(name, "") for name in names}) for row in rows if row.get("file")}

    def holds(self, file: str) -> bool:
        """Whether a file is there and is what the manifest says, by its SHA-256."""
        entry, path = self._entries.get(file), self.folder / file
        return entry is not None and path.is_file() and sha256(path) == entry.sha256

    def obtain(self, url: str, file: str, convert: Callable[[Path], str] | None = None) -> Path:
        """A file of the folder, downloaded unless it is there and whole.

        Parameters
        ----------
        url : str
            http or https.
        file : str
            Where it goes, relative to the folder.
        convert : callable, optional
            Makes the text of `file` from the download, which is not kept then; else the download is `file`.

        Raises
        ------
        NotOnServerError
            If the server does not have it.
        InputError
            If it cannot be downloaded whole; what came of it is kept, and resumed next time.
        """
        path = self.folder / file
        if self.holds(file):
            return path
        part = self.folder / _PARTS_FOLDER / f"{Path(file).name}.part"
        etag = _download(url, part)
        entry = (url, str(part.stat().st_size), sha256(part), etag, datetime.now(UTC).isoformat(timespec="seconds"))
        if convert is None:
            write_atomic(path, lambda temporary: temporary.write_bytes(part.read_bytes()))
        else:
            write_text(path, convert(part))
        self._entries[file] = _Entry(file, sha256(path), *entry)
        names = [field.name for field in fields(_Entry)]
        write_text(self.folder / MANIFEST_FILE, format_tsv(names, [asdict(self._entries[name]) for name in sorted(self._entries)]))
        _forget(part)
        return path


def _download(url: str, part: Path) -> str:
    """Fetch into `part`, resuming what is there of the same version; the ETag."""
    if not url.startswith(("http://", "https://")):
        raise InputError(f"{url}: is no http or https address; give one.")
    part.parent.mkdir(parents=True, exist_ok=True)
    reason: object = ""
    for attempt in range(_TRIES):
        if attempt:
            time.sleep(_WAIT_S * 2 ** (attempt - 1))
        try:
            return _attempt(url, part)
        except urllib.error.HTTPError as error:
            if error.code in _ABSENT:
                raise NotOnServerError(f"{url}: is not on the server (status {error.code}); leave it out.") from error
            if error.code == _BEYOND_THE_END:
                _forget(part)
            elif error.code < _SERVER_ERROR:
                raise InputError(f"{url}: the server refuses it (status {error.code}, {error.reason}); see whether it moved.") from error
            reason = error
        except _IncompleteError as error:
            reason = error
        except _UNREACHABLE as error:
            reason = getattr(error, "reason", None) or error
    raise InputError(f"{url}: could not be downloaded ({reason}); check the network and run the same again, which resumes.")


def _attempt(url: str, part: Path) -> str:
    tag = _tag_of(part)
    known = tag.read_text(encoding="utf-8") if tag.is_file() and part.is_file() else ""
    have = part.stat().st_size if known else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-", "If-Range": known} if have else {})
    with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response:
        resumed = response.status == http.client.PARTIAL_CONTENT
        length, etag = response.headers.get("Content-Length"), response.headers.get("ETag", "")
        # Before the data: they may break off at any place. A weak tag does not promise the same bytes.
        tag.write_text("" if etag.startswith("W/") else etag, encoding="utf-8")
        with open(part, "ab" if resumed else "wb") as out:
            while chunk := response.read(_CHUNK_BYTES):
                out.write(chunk)
    size, expected = part.stat().st_size, None if length is None else int(length) + (have if resumed else 0)
    if expected is not None and size != expected:
        raise _IncompleteError(f"{size} of {expected} bytes came")
    if response.headers.get("Server") == "AmazonS3" and _S3_MD5.fullmatch(etag):
        with open(part, "rb") as handle:
            if hashlib.file_digest(handle, lambda: hashlib.md5(usedforsecurity=False)).hexdigest() != etag.strip('"'):
                _forget(part)
                raise _IncompleteError("its MD5 is not the one that the server gives")
    return str(etag)


def _tag_of(part: Path) -> Path:
    return part.with_name(f"{part.name}.etag")


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    _tag_of(part).unlink(missing_ok=True)
