"""Opens the files that sources read: finds them, refuses what is no plain file, decodes line by line.

A file is named by a path, or by `pkg://package/path` inside an installed package (found without importing
it); `.gz` is unpacked on the way. What is wrong with a file as a whole is raised, what is wrong with one
line comes with the line, so that `data.on_error: skip` can leave it out.
"""

from __future__ import annotations

import codecs
import gzip
import io
import os
import stat
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import BinaryIO, NamedTuple

from chainft.errors import ConfigError, DataError, Problem, SecurityError, did_you_mean

MAX_LINE_BYTES = 64 * 2**20
"""Longest line: more is a wrong file, not a long text, and would fill the memory."""
MAX_UNPACKED_RATIO = 200
"""Most bytes that one byte of gzip may become. Text gives 3 to 30; a bomb of zeros gives 1032."""
FREE_UNPACKED_BYTES = 64 * 2**20
"""Up to this size a gzip file is unpacked whatever its ratio."""

TAB_WORDS = {"tab": "\t", "\\t": "\t"}
"""How a tab is written on a command line, where a real one is hard to type."""

_PACKAGE = "pkg://"
_FORMATS = {
    b"PAR1": ("a parquet file", "read it by data=parquet"),
    b"\x1f\x8b": ("compressed by gzip", "give it a name that ends in .gz"),
    b"PK\x03\x04": ("a zip archive", "unpack it and name the files in it"),
    b"BZh": ("compressed by bzip2", "unpack it, or compress it by gzip"),
    b"\xfd7zXZ": ("compressed by xz", "unpack it, or compress it by gzip"),
    b"\x28\xb5\x2f\xfd": ("compressed by zstd", "unpack it, or compress it by gzip"),
    b"7z\xbc\xaf": ("a 7z archive", "unpack it and name the files in it"),
}
"""What a file is that begins with these bytes, and what to do."""
_TAR = (b"ustar", 257)
"""The mark of a tar archive, and where it stands."""
_MARKS = {  # The longer first: the mark of UTF-16 begins that of UTF-32.
    "utf-32": (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE),
    "utf-16": (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE),
}


class Line(NamedTuple):
    """A line of a text file."""

    number: int
    """From 1; only line feeds end lines (so that U+2028 or a form feed inside a text does not)."""
    text: str
    """Without its end; bytes that are not of the encoding are replaced."""
    end: str
    """Line feed, carriage return and line feed, or nothing at the end of the file."""
    problem: Problem | None = None
    """Why the line cannot be used: wrong encoding, or a NUL."""


def find_file(file: str, *, key: str | None = None) -> Path:
    """The path of a plain file that can be opened.

    Raises DataError when it is missing (with the nearest name that exists), a folder or unreadable, and
    SecurityError when it is a device or a pipe, or leaves its package.
    """
    path = _packaged(file, key) if file.startswith(_PACKAGE) else _plain(file, key)
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise _missing(file, path, key) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise DataError(f"{file!r} cannot be opened: {error}", slug="unreadable-file", where=file, key=key) from None
    if stat.S_ISDIR(mode):
        raise _folder(file, path, key)
    if not stat.S_ISREG(mode):
        raise SecurityError(
            f"{file!r} is a {_kind(mode)}, not a plain file",
            slug="not-a-file",
            where=file,
            key=key,
            help="data are read more than once: write them to a file first",
        )
    if not os.access(path, os.R_OK):
        raise DataError(f"{file!r} may not be read by this user", slug="unreadable-file", where=file, key=key)
    return path


@contextmanager
def open_bytes(file: str, *, key: str | None = None) -> Iterator[BinaryIO]:
    """The content of a file, unpacked if its name ends in `.gz`.

    Raises what `find_file` raises; DataError for damaged gzip; SecurityError for a decompression bomb.
    """
    path = find_file(file, key=key)
    with path.open("rb") as packed:
        if path.suffix.lower() != ".gz":
            yield packed
            return
        capped = Capped(gzip.GzipFile(fileobj=packed), file, path.stat().st_size)
        try:
            yield io.BufferedReader(capped, buffer_size=1 << 16)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise DataError(f"{file!r} is damaged gzip: {error}", slug="damaged-gzip", where=file, key=key) from None


def read_lines(file: str, *, encoding: str = "utf-8", key: str | None = None) -> Iterator[Line]:
    """All lines of a text file. Raises what `open_bytes` raises, and ConfigError for an unknown encoding.

    >>> [line.text for line in read_lines("pkg://chainft.starter/ner/train.conll")][0] != ""
    True
    """
    with open_bytes(file, key=key) as data:
        yield from decode_lines(data, file, encoding=encoding, key=key)


def decode_lines(data: BinaryIO, file: str, *, encoding: str = "utf-8", key: str | None = None) -> Iterator[Line]:
    """All lines of a text that is read from `data`; `file` only names it in messages. Raises what `read_lines` raises."""
    codec = _codec(encoding)
    if _ends_lines_as_ascii(codec):
        yield from _byte_lines(data, file, codec, key)
    else:
        yield from _decoded_lines(data, file, codec, key)


def suffix_of(file: str) -> str:
    """The extension in lower case, without `.gz`: `.csv` for `a/b.CSV.gz`."""
    name = file.lower().removesuffix(".gz")
    return os.path.splitext(name)[1]  # noqa: PTH122  (`file` may be pkg://, which is no path)


# Names ----------------------------------------------------------------------------------------------


def _plain(file: str, key: str | None) -> Path:
    if "://" in file:
        raise DataError(
            f"{file!r} is an address, not a file",
            slug="not-a-path",
            where=file,
            key=key,
            help="download it first, or use data=hub for a data set of the Hugging Face hub",
        )
    return Path.home() / file[2:] if file.startswith("~/") else Path(file)


def _packaged(file: str, key: str | None) -> Path:
    """The path of `pkg://package.sub/file`; a package is located, never imported, so none of its code runs."""
    package, _, inside = file.removeprefix(_PACKAGE).partition("/")
    top, *below = package.split(".")
    if not inside or ".." in inside.split("/") or inside.startswith("/") or not all((top, *below)):
        raise SecurityError(
            f"{file!r} does not stay inside a package",
            slug="leaves-package",
            where=file,
            key=key,
            help="write pkg://package/path/to/file",
        )
    folders = [Path(folder, *below) for folder in _locations(top)]
    if not folders:
        raise DataError(f"package {top!r} is not installed", slug="no-package", where=file, key=key)
    candidates = [folder / inside for folder in folders]
    return next((path for path in candidates if path.exists()), candidates[0])


def _locations(package: str) -> Iterable[str]:
    try:
        spec = find_spec(package)
    except (ImportError, ValueError):
        return ()
    return (spec.submodule_search_locations or ()) if spec else ()


def _missing(file: str, path: Path, key: str | None) -> DataError:
    folder = path.parent
    while not folder.is_dir() and folder != folder.parent:
        path, folder = folder, folder.parent
    what = f"file {file!r} does not exist" if path.name == Path(file).name else f"{file!r}: no folder {str(path)!r}"
    names = _names(folder)
    near = did_you_mean(path.name, names)
    there = f"in {str(folder)!r} there are: {', '.join(names[:10])}" if names else f"{str(folder)!r} is empty"
    return DataError(what, slug="no-file", where=file, key=key, help=near or there)


def _folder(file: str, path: Path, key: str | None) -> DataError:
    names = [name for name in _names(path) if (path / name).is_file()][:10]
    return DataError(
        f"{file!r} is a folder, not a file",
        slug="not-a-file",
        where=file,
        key=key,
        help=f"name a file in it: {', '.join(names)}" if names else "name a file",
    )


def _names(folder: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError:
        return []


def _kind(mode: int) -> str:
    if stat.S_ISFIFO(mode):
        return "pipe"
    return "socket" if stat.S_ISSOCK(mode) else "device"


# Lines ----------------------------------------------------------------------------------------------


def _codec(encoding: str) -> str:
    """The codec's own name. Raises ConfigError for names that are no text encoding."""
    try:
        codec = codecs.lookup(encoding).name
        "\n".encode(codec)  # LookupError: a codec of bytes such as base64
    except (LookupError, UnicodeError, ValueError):
        raise ConfigError(
            f"data.encoding={encoding!r} is no text encoding",
            slug="unknown-encoding",
            key="data.encoding",
            help=did_you_mean(encoding, ("utf-8", "utf-16", "latin-1", "cp1252")) or "for example utf-8 or latin-1",
        ) from None
    return "utf-8" if codec == "utf-8-sig" else codec


def _ends_lines_as_ascii(codec: str) -> bool:
    return "\n".encode(codec) == b"\n"


def _byte_lines(data: BinaryIO, file: str, codec: str, key: str | None) -> Iterator[Line]:
    offset, number = 0, 0
    while raw := data.readline(MAX_LINE_BYTES + 1):
        number += 1
        if number == 1:
            _check_format(raw, file, key)
            offset = _check_mark(raw, file, codec, key)
        if len(raw) > MAX_LINE_BYTES:
            raise _too_long(file, number, key)
        if line := raw[offset:] if number == 1 else raw:
            yield _line(line, number, file, codec, offset)
        offset += len(line)


def _check_format(start: bytes, file: str, key: str | None) -> None:
    """Raise DataError for a file that is no text by its first bytes; archives are never unpacked."""
    found = next((facts for mark, facts in _FORMATS.items() if start.startswith(mark)), None)
    if start[_TAR[1] :].startswith(_TAR[0]):
        found = ("a tar archive", "unpack it and name the files in it")
    if found is not None:
        raise DataError(f"{file!r} is {found[0]}, not text", slug="not-text", where=file, key=key, help=found[1])


def _check_mark(start: bytes, file: str, codec: str, key: str | None) -> int:
    """How many bytes the byte-order mark takes. Raises DataError when it is that of another encoding."""
    for name, marks in _MARKS.items():
        if start.startswith(marks):
            raise DataError(
                f"{file!r} is {name.upper()} by its byte-order mark, not {codec}",
                slug="wrong-encoding",
                where=f"{file}:1",
                key=key,
                help=f"set data.encoding={name}",
            )
    return len(codecs.BOM_UTF8) if codec == "utf-8" and start.startswith(codecs.BOM_UTF8) else 0


def _line(raw: bytes, number: int, file: str, codec: str, offset: int) -> Line:
    problem = None
    try:
        text = raw.decode(codec)
    except UnicodeDecodeError as error:
        text = raw.decode(codec, errors="replace")
        problem = Problem(
            "wrong-encoding",
            f"byte 0x{raw[error.start]:02X} at byte offset {offset + error.start} is not {codec}",
            f"{file}:{number}",
            help="set data.encoding to the encoding of the file, for example data.encoding=cp1252",
        )
    return _split_end(text, number, file, problem)


def _split_end(text: str, number: int, file: str, problem: Problem | None = None) -> Line:
    bare = text.rstrip("\r\n")
    if problem is None and (column := bare.find("\0")) >= 0:
        problem = Problem("nul-byte", "the line holds a NUL character", f"{file}:{number}:{column + 1}")
    return Line(number, bare, text[len(bare) :], problem)


def _decoded_lines(data: BinaryIO, file: str, codec: str, key: str | None) -> Iterator[Line]:
    """Lines in UTF-16 or UTF-32, where a line feed is several bytes: a wrong byte spoils the rest of the file."""
    stream = io.TextIOWrapper(data, encoding=codec, newline="\n")
    number = 0
    try:
        while text := stream.readline(MAX_LINE_BYTES + 1):
            number += 1
            if len(text) > MAX_LINE_BYTES:
                raise _too_long(file, number, key)
            yield _split_end(text.removeprefix("\ufeff") if number == 1 else text, number, file)
    except UnicodeError as error:
        raise DataError(
            f"{file!r} is not {codec}: {error}", slug="wrong-encoding", where=f"{file}:{number + 1}", key=key
        ) from None
    finally:
        stream.detach()


def _too_long(file: str, number: int, key: str | None) -> DataError:
    return DataError(
        f"the line is longer than {MAX_LINE_BYTES} bytes", slug="line-too-long", where=f"{file}:{number}", key=key
    )


class Capped(io.RawIOBase):
    """Unpacked bytes of `inner`, up to a sane multiple of the `packed` ones. Raises SecurityError beyond it."""

    def __init__(self, inner: io.BufferedIOBase, file: str, packed: int) -> None:
        self.inner = inner
        self.file = file
        self.left = max(FREE_UNPACKED_BYTES, packed * MAX_UNPACKED_RATIO)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        count = self.inner.readinto(buffer)  # type: ignore[arg-type]  # a writable buffer, in typeshed's own words
        self.left -= count
        if self.left < 0:
            raise SecurityError(
                f"{self.file!r} unpacks to more than {MAX_UNPACKED_RATIO} times its size",
                slug="decompression-bomb",
                where=self.file,
                help="unpack it yourself if you trust it",
            )
        return count
