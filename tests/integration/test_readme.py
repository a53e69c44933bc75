"""What the README shows works as it stands."""

import re
import sys

import pytest

from tests.integration.processes import ROOT, run

EXAMPLES = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)


def test_the_readme_has_examples() -> None:
    assert len(EXAMPLES) >= 2


@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
def test_python_examples_stream_text(example: str, grpc_addr: str) -> None:
    code = example.replace("127.0.0.1:50051", grpc_addr)
    assert code != example
    result = run(sys.executable, "-c", code)
    assert (result.returncode, result.stderr) == (0, "")
    assert len(result.stdout.split()) > 10
