"""`penstock models`, run as a user runs it: as a process."""

import asyncio
import errno
import json
import os
import pty
import re
from pathlib import Path

import pytest_asyncio

from penstock.v1 import model_pb2 as pb
from tests.client.commands import Penstock
from tests.client.doubles import MIB, ScriptedServer


@pytest_asyncio.fixture
async def penstock(grpc_addr: str) -> Penstock:
    return Penstock(grpc_addr)


def show(server: ScriptedServer, *models: pb.Model) -> None:
    del server.status.models[:]
    server.status.models.extend(models)


async def test_a_table_of_models(penstock: Penstock, grpc_servicer: ScriptedServer) -> None:
    show(
        grpc_servicer,
        pb.Model(
            name="penstock-tiny",
            state=pb.MODEL_STATE_READY,
            source="embedded",
            parameters=918_656,
            context_tokens=2048,
            is_default=True,
            streams=3,
            memory_bytes=121 * MIB,
        ),
        pb.Model(
            name="mine",
            aliases=["small", "little"],
            state=pb.MODEL_STATE_LOADING,
            loading=pb.LoadProgress(stage="weights", done_bytes=MIB, total_bytes=4 * MIB),
            source="/models/mine",
        ),
        pb.Model(name="broken", state=pb.MODEL_STATE_FAILED, source="org/broken", message="no tensors"),
    )
    result = await penstock("models")
    assert (result.code, result.err) == (0, "")
    lines = [" ".join(line.split()) for line in result.out.splitlines()]
    assert max(len(line) for line in result.out.splitlines()) <= 80
    assert lines[0] == "Model State Parameters Context Memory Streams Source"
    assert lines[1] == "penstock-tiny ready 919 K 2048 121.0 MiB 3 embedded"
    assert lines[2] == "(default)"
    assert lines[3].startswith("mine loading,")
    assert "(small," in result.out
    assert lines[-2] == "broken failed - - - 0 org/broken"
    assert lines[-1] == "broken: no tensors"


async def test_no_model_yet_and_json(penstock: Penstock, grpc_servicer: ScriptedServer) -> None:
    as_json = json.loads((await penstock("models", "--json")).out)
    assert [model["name"] for model in as_json["models"]] == ["tiny"]
    show(grpc_servicer)
    assert (await penstock("models")).out == "No model yet\n"


async def test_loading_without_a_terminal_is_a_line_for_each_stage(
    penstock: Penstock, grpc_servicer: ScriptedServer
) -> None:
    result = await penstock("models", "load", "./tiny", "--alias", "a", "--alias", "b")
    assert result.code == 0
    assert re.fullmatch(r"tiny ready in \d+\.\d s\n", result.out)
    assert result.err.splitlines() == ["weights 0 B of 3.0 MiB", "warm-up"]
    assert list(grpc_servicer.loads[0].aliases) == ["a", "b"]


async def test_loading_on_a_terminal_shows_a_bar(grpc_addr: str) -> None:
    ours, theirs = pty.openpty()
    process = await Penstock(grpc_addr, (("TERM", "xterm"),)).start("models", "load", "./tiny", stderr=theirs)
    os.close(theirs)
    shown = await asyncio.to_thread(read_terminal, ours)
    out, _ = await process.communicate()
    assert process.returncode == 0
    assert out.decode().startswith("tiny ready in ")
    assert "\N{BOX DRAWINGS HEAVY HORIZONTAL}" in shown
    assert "starting" in shown or "weights" in shown or "warm-up" in shown


def read_terminal(terminal: int) -> str:
    """What was written to it until its other side was closed."""
    shown = b""
    try:
        while data := os.read(terminal, 65536):
            shown += data
    except OSError as error:
        if error.errno != errno.EIO:  # How Linux says that the other side is closed.
            raise
    finally:
        os.close(terminal)
    return shown.decode()


async def test_loading_as_json_lines(penstock: Penstock) -> None:
    result = await penstock("models", "load", "./tiny", "--json")
    lines = [json.loads(line) for line in result.out.splitlines()]
    last = lines.pop()
    assert [line["progress"]["stage"] for line in lines] == ["weights", "weights", "warm-up"]
    assert (last["model"]["name"], result.err) == ("tiny", "")


async def test_a_directory_is_named_from_the_root(
    penstock: Penstock, grpc_servicer: ScriptedServer, tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    result = await penstock("models", "load", f"{tmp_path}/../{tmp_path.name}/mine")
    assert (result.code, result.out) == (1, "")
    assert "no such model" in result.err
    await penstock("models", "load", "embedded")
    assert [request.source for request in grpc_servicer.loads] == [str(tmp_path / "mine"), "embedded"]


async def test_unloading(penstock: Penstock, grpc_servicer: ScriptedServer) -> None:
    show(grpc_servicer, pb.Model(name="tiny", streams=2, aliases=["small"]))
    result = await penstock("models", "unload", "tiny")
    assert (result.code, result.out) == (0, "tiny unloaded, 2 streams waited for\n")
    assert result.err == "waiting for 2 streams of tiny; --now cuts them\n"
    result = await penstock("models", "unload", "tiny", "--now")
    assert (result.code, result.out, result.err) == (0, "tiny unloaded, 2 streams cut\n", "")
    assert [request.now for request in grpc_servicer.unloads] == [False, True]
    assert json.loads((await penstock("models", "unload", "tiny", "--json")).out) == {"streams": 2}
    result = await penstock("models", "unload", "other")
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith("penstock: there is no model other")
