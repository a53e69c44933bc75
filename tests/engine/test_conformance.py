"""The conformance suite, over every implementation of Engine."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.engine import (
    conformance,
    conformance_controls,
    conformance_flow,
    conformance_parts,
    conformance_resume,
)
from tests.engine.subjects import MAKERS, Subject, started

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=MAKERS)
async def subject(request: pytest.FixtureRequest) -> AsyncIterator[Subject]:
    """One engine for all tests of the module: its process is started once."""
    async with started(request.param) as engine:
        yield engine


@pytest.fixture(params=MAKERS)
def unstarted(request: pytest.FixtureRequest) -> Subject:
    return Subject(*MAKERS[request.param]())


@pytest_asyncio.fixture(loop_scope="module", params=MAKERS)
async def fresh(request: pytest.FixtureRequest) -> AsyncIterator[Subject]:
    async with started(request.param) as engine:
        yield engine


class TestEndings(conformance.Endings):
    pass


class TestRefusals(conformance.Refusals):
    pass


class TestCancelling(conformance.Cancelling):
    pass


class TestPausing(conformance_flow.Pausing):
    pass


class TestCrowds(conformance_flow.Crowds):
    pass


class TestResuming(conformance_resume.Resuming):
    pass


class TestRefusedResumes(conformance_resume.RefusedResumes):
    pass


class TestParts(conformance_parts.Parts):
    pass


class TestLongTexts(conformance_parts.LongTexts):
    pass


class TestLeavingParts(conformance_parts.LeavingParts):
    pass


class TestTuning(conformance_controls.Tuning):
    pass


class TestRestarting(conformance_controls.Restarting):
    pass


class TestLifecycle(conformance.Lifecycle):
    pass


class TestRestartingOutOfTurn(conformance_controls.RestartingOutOfTurn):
    pass
