"""A call that comes from another machine, as a servicer sees it."""

from typing import Any, NoReturn

from google.rpc import error_details_pb2, status_pb2


class AbortedError(Exception):
    """How the double of a call ends, as abort does in a real one."""

    def __init__(self, status: Any) -> None:
        super().__init__()
        self.code = status.code
        [(_, value)] = status.trailing_metadata
        self.info = error_details_pb2.ErrorInfo()
        assert status_pb2.Status.FromString(value).details[0].Unpack(self.info)


class CallFrom:
    """What the servicer sees of a call from elsewhere."""

    def __init__(self, peer: str) -> None:
        self._peer = peer
        self.written: list[Any] = []

    def peer(self) -> str:
        return self._peer

    async def write(self, message: Any) -> None:
        self.written.append(message)

    async def abort_with_status(self, status: Any) -> NoReturn:
        raise AbortedError(status)
