"""Rules of the repository that no linter holds."""

import ast
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ["penstock", "flowcontrol", "engine", "service", "config"]
FOLDERS = [*PACKAGES, "tests", "benchmarks", "training"]
GENERATED = ROOT / "penstock" / "v1"
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
MAX_WEIGHTS_BYTES = 4_000_000


def own_files() -> Iterator[Path]:
    for folder in FOLDERS:
        yield from (file for file in (ROOT / folder).rglob("*.py") if GENERATED not in file.parents)


def functions(file: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    yield from (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


@pytest.mark.parametrize("name", PACKAGES)
def test_no_other_distribution_owns_a_top_level_name(name: str) -> None:
    assert set(packages_distributions().get(name, ["penstock"])) == {"penstock"}


def test_files_are_short() -> None:
    lengths = {file.relative_to(ROOT): len(file.read_bytes().splitlines()) for file in own_files()}
    assert lengths
    assert {file: lines for file, lines in lengths.items() if lines > MAX_FILE_LINES} == {}


def test_functions_are_short() -> None:
    long = {
        f"{file.relative_to(ROOT)}:{function.lineno} {function.name}": lines
        for file in own_files()
        for function in functions(file)
        if (lines := (function.end_lineno or 0) - function.lineno + 1) > MAX_FUNCTION_LINES
    }
    assert long == {}


def test_embedded_weights_are_small() -> None:
    weights = list((ROOT / "engine" / "embedded").glob("*.safetensors"))
    assert weights
    assert sum(file.stat().st_size for file in weights) <= MAX_WEIGHTS_BYTES
