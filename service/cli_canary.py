"""`penstock canary`: features that are on for some streams only, and how those streams do."""

from typing import Annotated

import grpc
import typer
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from penstock.aio_stream import translated
from penstock.channel import channel_options
from penstock.v1 import feature_pb2 as pb
from penstock.v1.feature_pb2_grpc import FeatureServiceStub
from service.terminal import TARGET, TargetOption, json_line, run_command

_TIMEOUT_S = 10.0

app = typer.Typer(help="Try a feature on some streams, compare, promote or roll back.", no_args_is_help=True)

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The feature, as in `canary status`.")]
NoteOption = Annotated[
    str, typer.Option("--note", help="Why, for the server's log and for status.", show_default=False)
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")]


@app.command("status")
def show(as_json: JsonOption = False, target: TargetOption = TARGET) -> None:
    """Show every feature, and how the arms of a canary compare."""
    run_command(lambda: _show(target, as_json=as_json), target, as_json=as_json, on_interrupt="")


@app.command("start")
def start(
    name: NameArgument,
    percent: Annotated[float, typer.Option("--percent", help="Share of the streams, above 0 and below 100.")],
    note: NoteOption = "",
    as_json: JsonOption = False,
    target: TargetOption = TARGET,
) -> None:
    """Have a feature on for a share of the streams that begin from now on."""
    request = pb.UpdateFeatureRequest(name=name, canary_percent=percent, note=note)
    _update(request, target, as_json=as_json)


@app.command("promote")
def promote(
    name: NameArgument, note: NoteOption = "", as_json: JsonOption = False, target: TargetOption = TARGET
) -> None:
    """Have a feature on for every stream that begins from now on."""
    _update(pb.UpdateFeatureRequest(name=name, promote=pb.Promote(), note=note), target, as_json=as_json)


@app.command("rollback")
def rollback(
    name: NameArgument, note: NoteOption = "", as_json: JsonOption = False, target: TargetOption = TARGET
) -> None:
    """Have a feature on for no stream that begins from now on."""
    _update(pb.UpdateFeatureRequest(name=name, roll_back=pb.RollBack(), note=note), target, as_json=as_json)


def _update(request: pb.UpdateFeatureRequest, target: str, *, as_json: bool) -> None:
    run_command(lambda: _change(request, target, as_json=as_json), target, as_json=as_json, on_interrupt="")


async def _show(target: str, *, as_json: bool) -> None:
    async with grpc.aio.insecure_channel(target, options=channel_options(None)) as channel:
        with translated():
            answer = await FeatureServiceStub(channel).ListFeatures(
                pb.ListFeaturesRequest(), timeout=_TIMEOUT_S
            )
    if as_json:
        print(json_line(answer, zeros=True))
    else:
        Console(highlight=False).print(features_view(list(answer.features)))


async def _change(request: pb.UpdateFeatureRequest, target: str, *, as_json: bool) -> None:
    async with grpc.aio.insecure_channel(target, options=channel_options(None)) as channel:
        with translated():
            answer = await FeatureServiceStub(channel).UpdateFeature(request, timeout=_TIMEOUT_S)
    if as_json:
        print(json_line(answer, zeros=True))
    else:
        Console(highlight=False).print(features_view([answer.feature]))


def features_view(features: list[pb.Feature]) -> RenderableType:
    """For a terminal of 80 columns or more: the features, then the arms of each that has any."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("Feature", "State", "Canary"):
        table.add_column(name, no_wrap=True)
    for name in ("Tenants", "Last change"):
        table.add_column(name, overflow="fold")
    for feature in features:
        table.add_row(*(Text(cell) for cell in _feature_cells(feature)))
    parts: list[RenderableType] = [table]
    for feature in features:
        if feature.HasField("comparison"):
            verdict = Text(f"{feature.name}: {feature.comparison.verdict}", style="bold")
            parts += [Text(), verdict, arms_table(feature.comparison)]
    return Group(*parts)


def arms_table(comparison: pb.ArmComparison) -> Table:
    """The arms beside each other."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("", no_wrap=True)
    for name in ("Control", "Canary"):
        table.add_column(name, justify="right", no_wrap=True)
    control, canary = _arm_rows(comparison.control), _arm_rows(comparison.canary)
    for name in control:
        table.add_row(name, control[name], canary[name])
    return table


def state_name(feature: pb.Feature) -> str:
    """Where a feature is, in words."""
    if feature.state not in pb.FeatureState.values():
        return f"state {feature.state}"
    return pb.FeatureState.Name(feature.state).removeprefix("FEATURE_STATE_").lower().replace("_", " ")


def _feature_cells(feature: pb.Feature) -> tuple[str, str, str, str, str]:
    in_canary = feature.state == pb.FEATURE_STATE_CANARY
    return (
        feature.name,
        state_name(feature),
        f"{feature.canary_percent:g} %" if in_canary else "-",
        ", ".join(feature.tenants) if in_canary and feature.tenants else "-",
        feature.reason or "-",
    )


def _arm_rows(arm: pb.Arm) -> dict[str, str]:
    return {
        "Streams ended": str(arm.streams),
        "First token p50": _time(arm, "ttft_p50_ms"),
        "First token p95": _time(arm, "ttft_p95_ms"),
        "Next token p95": _time(arm, "inter_token_p95_ms"),
        "Failed": f"{arm.failed} ({arm.failed / arm.streams:.1%})" if arm.streams else "0",
    }


def _time(arm: pb.Arm, field: str) -> str:
    # The typed stubs want a literal name.
    known = arm.HasField(field)  # type: ignore[arg-type]
    return f"{getattr(arm, field):.1f} ms" if known else "-"
