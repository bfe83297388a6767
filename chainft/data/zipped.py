"""One file inside of a zip archive, read in place: nothing is written to the disk, so no name in it leads anywhere."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, cast

from chainft.data.files import Capped, find_file
from chainft.errors import DataError

_ENCRYPTED = 0x1
"""The bit of a member's flags that says so (APPNOTE.TXT of PKWARE, 4.4.4)."""
_MOST_NAMES = 5


@contextmanager
def open_zipped(file: str, *, ending: str, key: str | None = None) -> Iterator[BinaryIO]:
    """The content of the one file in an archive whose name has this ending.

    Raises what `find_file` raises; DataError for a damaged or encrypted archive and where there is not exactly one such
    file; SecurityError for a decompression bomb.
    """
    path = find_file(file, key=key)
    try:
        with zipfile.ZipFile(path) as archive:
            member = _only_member(archive, file, ending, key)
            with archive.open(member) as stream:
                inner = cast(zipfile.ZipExtFile, stream)
                yield io.BufferedReader(Capped(inner, file, path.stat().st_size), buffer_size=1 << 16)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise DataError(
            f"{file!r} cannot be unpacked: {error}",
            slug="damaged-zip",
            where=file,
            key=key,
            help="unpack it with another program and name the file in it",
        ) from None


def _only_member(archive: zipfile.ZipFile, file: str, ending: str, key: str | None) -> zipfile.ZipInfo:
    members = [one for one in archive.infolist() if not one.is_dir() and not one.filename.startswith("__MACOSX/")]
    fitting = [one for one in members if one.filename.lower().endswith(ending)]
    if len(fitting) != 1:
        names = [one.filename for one in fitting or members]
        more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
        raise DataError(
            f"{file!r} holds {len(fitting) or 'no'} {ending} {'files' if fitting else 'file'}, one is wanted; there are: "
            f"{', '.join(names[:_MOST_NAMES]) or 'none'}{more}",
            slug="which-file",
            where=file,
            key=key,
            help="unpack it and name the files that you want",
        )
    if fitting[0].flag_bits & _ENCRYPTED:
        raise DataError(
            f"{file!r} is encrypted", slug="encrypted-zip", where=file, key=key, help="unpack it with its password"
        )
    return fitting[0]
