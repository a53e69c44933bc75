"""What calls share: ServiceError becomes a status with details, a lost caller cancels the handler."""

import asyncio
import functools
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import grpc
import structlog
from google.protobuf.message import Message

from flowcontrol.reasons import Reason
from service.errors import ServiceError, abort

_log = structlog.get_logger("penstock.calls")

Servicer = TypeVar("Servicer")
Request = TypeVar("Request")
Response = TypeVar("Response")
Context = grpc.aio.ServicerContext[Any, Any]
Method = Callable[[Servicer, Request, Context], Awaitable[Response]]


async def write(context: Context, message: Message) -> None:
    """Write a message of a stream. CancelledError when the caller is lost, as in any other place.

    grpc.aio lets the write fail first and cancels the handler after that.
    """
    try:
        await context.write(message)
    except grpc.aio.InternalError as error:
        raise asyncio.CancelledError from error


def answering_errors(
    method: Method[Servicer, Request, Response],
) -> Method[Servicer, Request, Response]:
    """Decorate a unary handler that raises ServiceError. Anything else it raises is a defect of ours."""

    @functools.wraps(method)
    async def handler(servicer: Servicer, request: Request, context: Context) -> Response:
        try:
            return await method(servicer, request, context)
        except ServiceError as error:
            await abort(context, error)
        except Exception:
            _log.exception("call failed", call=method.__name__)
            await abort(context, ServiceError(Reason.INTERNAL, "a defect of the server"))

    return handler
