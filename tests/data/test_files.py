"""Files: found or refused with advice, decoded line by line, unpacked only so far."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chainft.data import files
from chainft.data.files import find_file, open_bytes, read_lines, suffix_of
from chainft.errors import ChainftError, ConfigError, DataError, SecurityError


def write(folder: Path, content: bytes, name: str = "train.txt") -> str:
    (folder / name).write_bytes(content)
    return str(folder / name)


def texts(file: str, encoding: str = "utf-8") -> list[str]:
    return [line.text for line in read_lines(file, encoding=encoding)]


# Lines ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", []),
        (b"\xef\xbb\xbf", []),
        (b"\n", [""]),
        (b"a", ["a"]),
        (b"a\nb\n", ["a", "b"]),
        (b"a\r\nb\r\n", ["a", "b"]),
        (b"\xef\xbb\xbfa\n\xef\xbb\xbfb", ["a", "\ufeffb"]),
        ("a\u2028b\x0cc\x85d\n".encode(), ["a\u2028b\x0cc\x85d"]),
    ],
)
def test_only_line_feeds_end_lines_and_a_leading_mark_is_dropped(
    tmp_path: Path, content: bytes, expected: list[str]
) -> None:
    """fault 9: BOM and CRLF."""
    assert texts(write(tmp_path, content)) == expected


@given(lines=st.lists(st.text(st.characters(exclude_characters="\0\r\n", exclude_categories=["Cs"])), min_size=1))
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-16-le", "utf-32"])
def test_any_text_survives_with_its_line_numbers(
    tmp_path_factory: pytest.TempPathFactory, encoding: str, lines: list[str]
) -> None:
    if lines[0].startswith("\ufeff"):
        lines = ["a", *lines]
    file = write(tmp_path_factory.mktemp("lines"), "".join(f"{line}\n" for line in lines).encode(encoding))
    found = list(read_lines(file, encoding=encoding))
    assert [line.text for line in found] == lines
    assert [line.number for line in found] == list(range(1, len(lines) + 1))
    assert all(line.problem is None and line.end == "\n" for line in found)


def test_a_wrong_byte_spoils_its_line_only_and_is_placed(tmp_path: Path) -> None:
    """fault 9: wrong encoding."""
    file = write(tmp_path, "\ufeffgood\ncaf".encode() + b"\xe9 noir\ngood\n")
    first, second, third = read_lines(file)
    assert (first.problem, third.problem, third.text) == (None, None, "good")
    assert second.problem is not None
    assert second.problem.where == f"{file}:2"
    assert "0xE9 at byte offset 11 " in second.problem.message
    assert "data.encoding" in (second.problem.help or "")


def test_a_nul_is_reported_with_its_column(tmp_path: Path) -> None:
    """fault 9: NUL."""
    file = write(tmp_path, b"ok\nab\0c\n")
    problems = [line.problem for line in read_lines(file)]
    assert problems[0] is None
    assert problems[1] is not None
    assert (problems[1].slug, problems[1].where) == ("nul-byte", f"{file}:2:3")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
def test_another_encodings_mark_is_named(tmp_path: Path, encoding: str) -> None:
    file = write(tmp_path, "word\n".encode(encoding))
    with pytest.raises(DataError) as caught:
        texts(file)
    assert f"data.encoding={encoding}" in caught.value.render()


def test_broken_utf_16_is_a_data_error_at_its_line(tmp_path: Path) -> None:
    file = write(tmp_path, "a\nb\n".encode("utf-16") + b"\x00")
    with pytest.raises(DataError) as caught:
        texts(file, "utf-16")
    assert caught.value.problems[0].where == f"{file}:3"


def test_a_declared_encoding_is_used(tmp_path: Path) -> None:
    assert texts(write(tmp_path, "café\n".encode("latin-1")), "latin-1") == ["café"]


@pytest.mark.parametrize("encoding", ["utf8x", "base64", "undefined", "latin 1 \0", ""])
def test_what_is_no_text_encoding_is_a_config_error(tmp_path: Path, encoding: str) -> None:
    with pytest.raises(ConfigError) as caught:
        texts(write(tmp_path, b"a\n"), encoding)
    assert caught.value.problems[0].key == "data.encoding"


@pytest.mark.parametrize("name", ["train.txt", "train.txt.gz"])
@pytest.mark.parametrize("encoding", ["latin-1", "utf-16-le"])
def test_an_endless_line_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str, name: str) -> None:
    monkeypatch.setattr(files, "MAX_LINE_BYTES", 100)
    content = ("short\n" + "a" * 101).encode(encoding)
    file = write(tmp_path, gzip.compress(content) if name.endswith(".gz") else content, name)
    with pytest.raises(DataError) as caught:
        texts(file, encoding)
    assert caught.value.problems[0].where == f"{file}:2"


# Names ----------------------------------------------------------------------------------------------


def test_a_missing_file_names_the_nearest_and_its_key(tmp_path: Path) -> None:
    write(tmp_path, b"", "train.csv")
    with pytest.raises(DataError) as caught:
        find_file(str(tmp_path / "trian.csv"), key="data.train")
    problem = caught.value.problems[0]
    assert (problem.key, problem.help) == ("data.train", "did you mean 'train.csv'?")


def test_a_missing_folder_is_named_instead_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    with pytest.raises(DataError) as caught:
        find_file(str(tmp_path / "corpsu" / "deep" / "train.csv"))
    assert "did you mean 'corpus'?" in caught.value.render()
    assert repr(str(tmp_path / "corpsu")) in caught.value.render()


def test_an_empty_name_and_a_nul_are_data_errors(tmp_path: Path) -> None:
    for name in ("", "a\0b", "x" * 5000):
        with pytest.raises(DataError):
            find_file(name)


def test_a_folder_is_refused_with_the_files_in_it(tmp_path: Path) -> None:
    """fault 18."""
    write(tmp_path, b"", "dev.csv")
    with pytest.raises(DataError) as caught:
        find_file(str(tmp_path))
    assert "dev.csv" in caught.value.render()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no pipes with names")
def test_a_pipe_is_refused_without_waiting_for_a_writer(tmp_path: Path) -> None:
    """fault 18."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SecurityError, match="pipe"):
        find_file(str(tmp_path / "pipe"))


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="the system has no /dev/zero")
def test_a_device_is_refused_also_behind_a_link(tmp_path: Path) -> None:
    """fault 18."""
    (tmp_path / "train.csv").symlink_to("/dev/zero")
    for file in ("/dev/zero", str(tmp_path / "train.csv")):
        with pytest.raises(SecurityError, match="device"):
            find_file(file)


def test_a_link_to_a_plain_file_is_followed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(write(tmp_path, b"a\n"))
    assert texts(str(tmp_path / "link")) == ["a"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read every file")
def test_a_file_without_permission_is_a_data_error(tmp_path: Path) -> None:
    file = write(tmp_path, b"a\n")
    Path(file).chmod(0)
    with pytest.raises(DataError, match="may not be read"):
        find_file(file)


def test_an_address_is_no_file() -> None:
    with pytest.raises(DataError, match="address"):
        find_file("https://example.org/train.csv")


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path, b"a\n", "train.csv")
    assert texts("~/train.csv") == ["a"]


# Packages -------------------------------------------------------------------------------------------


def test_a_packaged_file_is_read() -> None:
    assert texts("pkg://chainft.starter/ner/train.conll")


def test_no_code_of_the_package_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """fault 18."""
    (tmp_path / "evil_package" / "sub").mkdir(parents=True)
    for folder in ("evil_package", "evil_package/sub"):
        (tmp_path / folder / "__init__.py").write_text("raise SystemExit('ran')", encoding="utf-8")
    write(tmp_path / "evil_package" / "sub", b"a\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert texts("pkg://evil_package.sub/train.txt") == ["a"]
    assert "evil_package" not in sys.modules


@pytest.mark.parametrize(
    "file",
    [
        "pkg://chainft/../../x",
        "pkg://chainft.starter/ner/../../../x",
        "pkg://chainft//etc/passwd",
        "pkg:///etc/passwd",
        "pkg://chainft",
        "pkg://chainft..starter/x",
    ],
)
def test_a_packaged_name_stays_in_its_package(file: str) -> None:
    """fault 18."""
    with pytest.raises(SecurityError):
        find_file(file)


@pytest.mark.parametrize("file", ["pkg://no_such_package_at_all/x", "pkg://__main__/x", "pkg://chainft/ner.conl"])
def test_an_absent_package_or_file_is_a_data_error(file: str) -> None:
    with pytest.raises(DataError):
        find_file(file)


# Gzip -----------------------------------------------------------------------------------------------


def test_gzip_is_unpacked_and_its_inner_suffix_counts(tmp_path: Path) -> None:
    file = write(tmp_path, gzip.compress(b"a\n") + gzip.compress(b"b\n"), "train.CSV.gz")
    assert texts(file) == ["a", "b"]
    assert suffix_of(file) == ".csv"
    assert suffix_of("pkg://a.b/c") == ""


def test_a_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """fault 18: the content is 1000 times the file."""
    monkeypatch.setattr(files, "FREE_UNPACKED_BYTES", 1000)
    file = write(tmp_path, gzip.compress(b"0" * 3_000_000), "bomb.gz")
    with pytest.raises(SecurityError, match="unpacks"), open_bytes(file) as content:
        content.read()
    with pytest.raises(SecurityError, match="unpacks"):
        texts(file)


@pytest.mark.parametrize("damage", ["truncated", "not gzip", "flipped"])
def test_damaged_gzip_is_a_data_error(tmp_path: Path, damage: str) -> None:
    whole = gzip.compress(os.urandom(5000))
    spoiled = {
        "truncated": whole[:-20],
        "not gzip": b"plain text\n",
        "flipped": whole[:2000] + bytes([whole[2000] ^ 255]) + whole[2001:],
    }
    with pytest.raises(DataError, match="damaged gzip"):
        texts(write(tmp_path, spoiled[damage], "train.gz"), "latin-1")


@given(content=st.binary(max_size=200))
def test_any_bytes_give_lines_or_an_error_of_ours(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = tmp_path_factory.mktemp("bytes")
    for name in ("a.txt", "a.gz"):
        for encoding in ("utf-8", "utf-16", "shift_jis", "utf-7"):
            try:
                texts(write(folder, content, name), encoding)
            except ChainftError as error:
                assert error.problems[0].where is not None


@pytest.mark.parametrize("kind", ["zip", "tar", "gzip", "tar.gz", "bz2", "xz", "parquet"])
def test_archives_and_binary_formats_are_named_not_unpacked(tmp_path: Path, kind: str) -> None:
    """fault 18: nothing of an archive is written, wherever its entries point."""
    inner = tmp_path / "inner.txt"
    inner.write_text("text,label\n", encoding="utf-8")
    path = tmp_path / ("data.csv.gz" if kind == "tar.gz" else "data.csv")
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.write(inner, "../../escaped.txt")
    elif kind.startswith("tar"):
        with tarfile.open(path, "w:gz" if kind == "tar.gz" else "w") as packed:
            packed.add(inner, "../../escaped.txt")
    elif kind == "parquet":
        path.write_bytes(b"PAR1" + bytes(20))
    else:
        content = inner.read_bytes()
        packed_by = {"gzip": gzip.compress(content), "bz2": bz2.compress(content), "xz": lzma.compress(content)}
        path.write_bytes(packed_by[kind])
    with pytest.raises(DataError, match="not text"):
        list(read_lines(str(path)))
    assert not list(tmp_path.parent.glob("escaped.txt")) and not list(tmp_path.parent.parent.glob("escaped.txt"))
