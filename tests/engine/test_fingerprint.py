"""A fingerprint is that of the files: not of their place, and every file counts."""

import json
from pathlib import Path

import pytest

from engine.mlx_worker.fingerprint import fingerprint

_SAMPLE_BYTES = 64 * 1024


def safetensors(data: bytes, header: dict[str, str] | None = None) -> bytes:
    head = json.dumps(header or {"a": "b"}).encode()
    return len(head).to_bytes(8, "little") + head + data


def model(directory: Path, **files: bytes) -> Path:
    """A directory like a model's. Keyword arguments replace files; "__" stands for a full stop."""
    contents = {
        "config.json": b"{}",
        "tokenizer.json": b"[1]",
        "tokenizer_config.json": b"[2]",
        "model-1.safetensors": safetensors(bytes(range(256)) * 1024),
        "model-2.safetensors": safetensors(b"second"),
    }
    contents |= {name.replace("__", ".").replace("_OF_", "-"): data for name, data in files.items()}
    directory.mkdir(parents=True)
    for name, data in contents.items():
        (directory / name).write_bytes(data)
    return directory


def test_equal_files_in_another_place_are_equal(tmp_path: Path) -> None:
    first = fingerprint(model(tmp_path / "a"))
    assert fingerprint(model(tmp_path / "elsewhere" / "b", README__md=b"differs")) == first
    assert len(first) == 32
    assert set(first) <= set("0123456789abcdef")


@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "tokenizer.model",
        "chat_template.jinja",
        "model-2.safetensors",
    ],
)
def test_every_file_counts(tmp_path: Path, name: str) -> None:
    directory = model(tmp_path / "a")
    before = fingerprint(directory)
    path = directory / name
    path.write_bytes((path.read_bytes() if path.exists() else b"") + b"x")
    assert fingerprint(directory) != before


def test_equal_bytes_in_other_files_differ(tmp_path: Path) -> None:
    one = model(tmp_path / "a", tokenizer__json=b"[2]", tokenizer_config__json=b"[1]")
    assert fingerprint(one) != fingerprint(model(tmp_path / "b"))


@pytest.mark.parametrize("at", [0, _SAMPLE_BYTES - 1, -_SAMPLE_BYTES, -1])
def test_both_ends_of_the_weights_count(tmp_path: Path, at: int) -> None:
    data = bytearray(5 * _SAMPLE_BYTES)
    before = model(tmp_path / "a", model_OF_1__safetensors=safetensors(bytes(data)))
    data[at] = 1
    after = model(tmp_path / "b", model_OF_1__safetensors=safetensors(bytes(data)))
    assert fingerprint(before) != fingerprint(after)


def test_the_header_counts_and_so_does_the_size(tmp_path: Path) -> None:
    data = bytes(5 * _SAMPLE_BYTES)
    variants = [
        safetensors(data),
        safetensors(data, {"a": "c"}),
        # Between the two samples.
        safetensors(data + bytes(_SAMPLE_BYTES)),
    ]
    prints = {
        fingerprint(model(tmp_path / str(n), model_OF_1__safetensors=variant))
        for n, variant in enumerate(variants)
    }
    assert len(prints) == len(variants)


def test_a_file_that_is_no_safetensors_has_one_too(tmp_path: Path) -> None:
    """mlx-lm refuses such a model; that is not told here."""
    prints = {
        fingerprint(model(tmp_path / str(n), model_OF_1__safetensors=content))
        for n, content in enumerate([b"", b"123", b"\xff" * 100])
    }
    assert len(prints) == 3
