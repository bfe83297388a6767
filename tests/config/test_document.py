"""YAML files are read strictly, with places, and hostile ones are refused at once."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from chainft.config.document import read_yaml, to_yaml
from chainft.errors import ConfigError, Problem


def write(folder: Path, content: str | bytes) -> Path:
    file = folder / "x.yaml"
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return file


def refused(file: Path) -> Problem:
    with pytest.raises(ConfigError) as caught:
        read_yaml(file)
    return caught.value.problems[0]


def test_plain_values_follow_yaml_1_2(tmp_path: Path) -> None:
    text = "a: 1e-5\nb: no\nc: 2020-01-01\nd: [1_000, 0x1f, .5, -1.5e3, ~, null, true, '1', 12:30]\ne: ${x}\nf:\n"
    assert read_yaml(write(tmp_path, text)).data == {
        "a": 1e-5,
        "b": "no",
        "c": "2020-01-01",
        "d": [1000, 31, 0.5, -1500.0, None, None, True, "1", "12:30"],
        "e": "${x}",
        "f": None,
    }


def test_places_of_keys_are_known(tmp_path: Path) -> None:
    document = read_yaml(write(tmp_path, "a: 1\nb:\n  c:\n    d: 2\n"))
    assert document.where("b.c.d") == f"{tmp_path / 'x.yaml'}:4:5"
    assert document.where("b.x") is None


def test_byte_order_mark_is_dropped(tmp_path: Path) -> None:
    assert read_yaml(write(tmp_path, b"\xef\xbb\xbfa: 1\n")).data == {"a": 1}


@pytest.mark.parametrize(
    ("content", "place", "word"),
    [
        ("a:\n\tb: 1\n", ":2:1", "cannot start any token"),
        ("a: 1\nb:\n  c: 2\n  c: 3\n", ":4:3", "'c' is there twice"),
        ("- 1\n", ":1:1", "must be a mapping"),
        ("", "", "empty"),
        ("# only a comment\n", "", "empty"),
        (b"a: 1\nb: \xff\n", ":2", "byte 0xff at offset 8"),
        ("a: b: c\n", ":1:5", "mapping values are not allowed"),
        ("a: [1\n", ":2:1", "expected"),
        ("a: \x00\n", ":1", "not allowed in YAML"),
        ("a: 1\n---\nb: 2\n", ":2:1", "another document"),
        ("a: !!python/object/apply:os.system [id]\n", ":1:4", "constructor"),
        ("a: &x [*x]\n", ":1:4", "contains itself"),
    ],
)
def test_broken_yaml_is_refused_with_its_place(tmp_path: Path, content: str | bytes, place: str, word: str) -> None:
    """fault 3"""
    problem = refused(write(tmp_path, content))
    assert problem.where == f"{tmp_path / 'x.yaml'}{place}"
    assert word in problem.message


def test_missing_file_and_folder_are_refused(tmp_path: Path) -> None:
    """fault 3"""
    assert "No such file" in refused(tmp_path / "none.yaml").message
    assert refused(tmp_path).slug == "not-a-file"


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/stdin"])
def test_device_is_refused(device: str) -> None:
    assert refused(Path(device)).slug == "not-a-file"


def _bomb() -> str:
    lines = ["a0: &a0 [x,x,x,x,x,x,x,x,x]"]
    lines += [f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("content", "slug"),
    [
        (_bomb(), "alias-bomb"),
        ("a: 1\n" * 20_000_000, "config-too-large"),
        ("a: " + "[" * 200_000, "config-too-deep"),
        ("a: " + "{b: " * 100_000, "config-too-deep"),
        ("a: [" + "1," * 400_000 + "1]", "config-too-large"),
    ],
    ids=["aliases", "100 MB", "deep list", "deep mapping", "many values"],
)
def test_bomb_is_refused_within_a_second(tmp_path: Path, content: str, slug: str) -> None:
    """fault 4"""
    file = write(tmp_path, content)
    started = time.perf_counter()
    assert refused(file).slug == slug
    assert time.perf_counter() - started < 1.0


@pytest.mark.parametrize("text", ["no", "yes", "on", "y", "=", "2020-01-01", "12:30", "1e-5", "1_000", "", "~", "0o7"])
def test_written_text_stays_text_for_any_reader(text: str, tmp_path: Path) -> None:
    written = to_yaml({"a": text})
    assert yaml.safe_load(written) == {"a": text}
    assert read_yaml(write(tmp_path, written)).data == {"a": text}


_SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
_PLAIN = st.recursive(
    _SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(min_size=1), inner, max_size=3)
)


@given(data=st.dictionaries(st.text(min_size=1, max_size=8), _PLAIN, min_size=1, max_size=4))
def test_written_yaml_reads_back_the_same(data: dict[str, object], tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.mktemp("yaml") / "x.yaml"
    file.write_text(to_yaml(data), encoding="utf-8", newline="")
    assert read_yaml(file).data == data
