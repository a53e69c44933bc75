"""Features through the real server: arms that follow the request id, promotion, roll-back, two canaries."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from flowcontrol.features import CANARY, FeatureName, FeatureTable
from penstock.v1 import feature_pb2 as pb
from penstock.v1.feature_pb2_grpc import FeatureServiceStub
from penstock.v1.status_pb2 import Status
from tests.integration.processes import SCRIPTED, penstock, running_server
from tests.service.calls import endless, generate
from tests.service.feature_subjects import ROLLOUT, canary
from tests.service.servers import Stubs, stubs_of

STORY = "Lily and her brown dog walked along the river to see the red boat. " * 8
STREAMS = 16
IDS = [f"story-{number}" for number in range(STREAMS)]


def canary_options(name: FeatureName, percent: float = 50.0) -> dict[str, str]:
    section = f"FEATURES__{name.name}__"
    return {f"{section}ENABLED": "false", f"{section}CANARY_PERCENT": str(percent)}


def in_canary(name: FeatureName) -> list[bool]:
    """Of `IDS`, as this process deals them."""
    table = FeatureTable({**ROLLOUT.features, name: canary(50.0)}, 0.0)
    return [table.of(one, "").arm == CANARY for one in IDS]


async def cached(stubs: Stubs, ids: list[str]) -> list[bool]:
    """Whether the prompt of each stream began from the cache; all have the same one."""
    found = []
    for one in ids:
        answer = await generate(stubs.generation, endless(4, prompt=STORY, request_id=one))
        found.append(answer.end.usage.cached_prompt_tokens > 0)
    return found


async def update(stubs: Stubs, request: pb.UpdateFeatureRequest) -> None:
    channel: FeatureServiceStub = FeatureServiceStub(stubs.channel)
    await channel.UpdateFeature(request)  # type: ignore[misc]


async def test_half_of_the_streams_use_the_prefix_cache_and_changes_are_for_new_ones(tmp_path: Path) -> None:
    options = {"ENGINE__CPU_BLAS": "none", **canary_options(FeatureName.PREFIX_CACHE)}
    dealt = in_canary(FeatureName.PREFIX_CACHE)
    first = dealt.index(True)
    with running_server(tmp_path / "stderr", options) as server:
        async with stubs_of(server.address) as stubs:
            # The first of the canary arm finds nothing and leaves its prompt, those of control neither.
            expected = [tried and place > first for place, tried in enumerate(dealt)]
            assert await cached(stubs, IDS) == expected
            assert sum(expected) >= 4 <= STREAMS - sum(dealt)
            # An id that comes again is in the arm that it was in.
            assert await cached(stubs, IDS) == dealt
            await update(stubs, pb.UpdateFeatureRequest(name="prefix_cache", promote=pb.Promote()))
            assert await cached(stubs, IDS[:4]) == [True] * 4
            await update(stubs, pb.UpdateFeatureRequest(name="prefix_cache", roll_back=pb.RollBack()))
            assert await cached(stubs, IDS[:4]) == [False] * 4
            status: Status = await stubs.status()
            states = {feature.name: feature.state for feature in status.features}
            assert states["prefix_cache"] == pb.FEATURE_STATE_ROLLED_BACK


async def test_only_the_canary_arm_leases_messages(tmp_path: Path) -> None:
    with running_server(tmp_path / "stderr", canary_options(FeatureName.POOLING), **SCRIPTED) as server:
        async with stubs_of(server.address) as stubs:
            leases = [0]
            for one in IDS:
                await generate(stubs.generation, endless(2, request_id=one))
                pool = (await stubs.status()).message_pool
                leases.append(pool.hits + pool.misses)
    gained = [after > before for before, after in pairwise(leases)]
    assert gained == in_canary(FeatureName.POOLING)


def test_the_command_begins_a_canary_and_hears_of_a_second_one(tmp_path: Path) -> None:
    with running_server(tmp_path / "stderr", {"LOGGING__LEVEL": "info"}, **SCRIPTED) as server:
        target: dict[str, Any] = {"PENSTOCK_TARGET": server.address}
        begun = penstock("canary", "start", "pooling", "--percent", "5", "--note", "to see", **target)
        assert begun.returncode == 0, begun.stderr
        second = penstock("canary", "start", "coalescing", "--percent", "5", **target)
        assert (second.returncode, second.stdout) == (1, "")
        assert "coalescing cannot be in canary while pooling is" in second.stderr
        assert "pooling: too few samples" in penstock("canary", "status", **target).stdout
        assert penstock("canary", "rollback", "pooling", **target).returncode == 0
        log = server.stderr()
    assert log.count("feature changed") == 2
    assert "to see" in log


@pytest.mark.parametrize("command", [("config", "check"), ("serve", "--port", "0")])
def test_two_canaries_in_the_configuration_are_refused(command: tuple[str, ...]) -> None:
    options: dict[str, Any] = {
        **canary_options(FeatureName.POOLING),
        **canary_options(FeatureName.COALESCING),
    }
    environ = {f"PENSTOCK_{name}": value for name, value in options.items()}
    refused = penstock(*command, **environ)
    assert (refused.returncode, refused.stdout) == (2, "")
    for key in ("features.pooling.canary_percent", "features.coalescing.canary_percent"):
        assert key in refused.stderr
