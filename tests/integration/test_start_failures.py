"""What keeps a server from starting is one clear line and an exit status."""

from pathlib import Path
from typing import Any

import pytest

from tests.integration.processes import ServerProcess, penstock


def serve(*args: str, **env: Any) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of a server that cannot start."""
    done = penstock("serve", "--env", "test", *args, **env)
    return done.returncode, done.stdout, done.stderr


def one_line(stderr: str) -> str:
    lines = stderr.strip().splitlines()
    assert len(lines) == 1, stderr
    assert lines[0].startswith("penstock: ")
    return lines[0]


def test_a_port_in_use(grpc_server: ServerProcess) -> None:
    address = grpc_server.address
    status, stdout, stderr = serve("--port", address.rpartition(":")[2])
    assert (status, stdout) == (1, "")
    # gRPC's core may have its say before, on a line of its own.
    ours = [line for line in stderr.splitlines() if "add_port.cc" not in line]
    assert ours == [f"penstock: cannot listen on {address}: is the port in use?"]


def test_a_model_that_does_not_exist(tmp_path: Path) -> None:
    model = tmp_path / "model"
    status, _, stderr = serve("--port", "0", "--model", str(model))
    assert status == 1
    assert str(model) in one_line(stderr)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PENSTOCK_SERVER__PORT", "70000"),
        ("PENSTOCK_NO_SUCH_OPTION", "1"),
    ],
)
def test_bad_configuration(name: str, value: str) -> None:
    status, stdout, stderr = serve(**{name: value})
    assert (status, stdout) == (2, "")
    option = name.removeprefix("PENSTOCK_").lower().replace("__", ".")
    assert option in stderr.lower()
    assert "Traceback" not in stderr


def test_a_blas_library_that_does_not_load() -> None:
    status, _, stderr = serve("--port", "0", PENSTOCK_ENGINE__CPU_BLAS="/no/such/library.so")
    assert status == 1
    assert "/no/such/library.so" in one_line(stderr)


def test_options_that_mlx_lm_cannot_batch() -> None:
    status, _, stderr = serve("--port", "0", PENSTOCK_ENGINE__KV_BITS="8")
    assert status == 1
    line = one_line(stderr)
    assert "engine.kv_bits" in line
    assert "engine.max_batch_rows 1" in line
