"""ModelService: the models of this server, shown, loaded and unloaded."""

from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import unquote

import grpc
import structlog

from engine.contract import EngineError
from engine.hosted_model import LoadProgress, ModelSnapshot, ModelState
from engine.model_host import ModelHost
from flowcontrol.reasons import Reason
from penstock.v1 import model_pb2 as pb
from penstock.v1 import model_pb2_grpc
from service.calls import answering_errors, write
from service.errors import ServiceError, abort
from service.identity import is_local

STATES = {
    ModelState.LOADING: pb.MODEL_STATE_LOADING,
    ModelState.READY: pb.MODEL_STATE_READY,
    ModelState.STUCK: pb.MODEL_STATE_STUCK,
    ModelState.UNLOADING: pb.MODEL_STATE_UNLOADING,
    ModelState.FAILED: pb.MODEL_STATE_FAILED,
}
Context = grpc.aio.ServicerContext[Any, Any]

_log = structlog.get_logger("penstock.models")


def model(snapshot: ModelSnapshot) -> pb.Model:
    """A model as a message."""
    info, loading = snapshot.info, snapshot.loading
    return pb.Model(
        name=snapshot.name,
        state=STATES[snapshot.state],
        source=snapshot.source,
        architecture=info.architecture if info is not None else "",
        parameters=info.parameters if info is not None else 0,
        vocab_size=info.vocab_size if info is not None else 0,
        context_tokens=info.context_tokens if info is not None else 0,
        has_chat_template=info is not None and info.has_chat_template,
        is_default=snapshot.is_default,
        fingerprint=info.fingerprint if info is not None else "",
        aliases=snapshot.aliases,
        streams=snapshot.streams,
        memory_bytes=snapshot.memory_bytes,
        loading=progress(loading) if loading is not None else None,
        message=snapshot.message,
    )


def progress(loading: LoadProgress) -> pb.LoadProgress:
    return pb.LoadProgress(stage=loading.stage, done_bytes=loading.done, total_bytes=loading.total)


class ModelServicer(model_pb2_grpc.ModelServiceServicer):
    """Shows and changes what a host has loaded.

    remote_control: whether a caller on another machine may load and unload.
    """

    def __init__(self, models: ModelHost, *, remote_control: bool) -> None:
        self._models = models
        self._remote_control = remote_control

    @answering_errors
    async def ListModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:
        return pb.ListModelsResponse(models=[model(each) for each in self._models.models()])

    @answering_errors
    async def GetModel(self, request: pb.GetModelRequest, context: Context) -> pb.GetModelResponse:
        try:
            return pb.GetModelResponse(model=model(self._models.model(request.name)))
        except EngineError as error:
            raise ServiceError.from_engine(error, "") from error

    async def LoadModel(self, request: pb.LoadModelRequest, context: Context) -> None:  # type: ignore[override]
        try:
            self._check_caller(context)
            _log.info("model asked for", peer=unquote(context.peer()), source=request.source)
            async for told in self._load(request):
                await write(context, told)
        except ServiceError as error:
            await abort(context, error)
        except Exception:
            _log.exception("call failed", call="LoadModel")
            await abort(context, ServiceError(Reason.INTERNAL, "a defect of the server"))

    async def _load(self, request: pb.LoadModelRequest) -> AsyncIterator[pb.LoadModelResponse]:
        try:
            async for told in self._models.load(request.source, request.aliases):
                if isinstance(told, LoadProgress):
                    yield pb.LoadModelResponse(progress=progress(told))
                else:
                    yield pb.LoadModelResponse(model=model(told))
        except EngineError as error:
            raise ServiceError.from_engine(error, "") from error

    @answering_errors
    async def UnloadModel(self, request: pb.UnloadModelRequest, context: Context) -> pb.UnloadModelResponse:
        self._check_caller(context)
        _log.info("model to be unloaded", peer=unquote(context.peer()), model=request.name, now=request.now)
        try:
            streams = await self._models.unload(request.name, now=request.now)
        except EngineError as error:
            raise ServiceError.from_engine(error, "") from error
        return pb.UnloadModelResponse(streams=streams)

    def _check_caller(self, context: Context) -> None:
        if not self._remote_control and not is_local(context.peer()):
            message = (
                "models.remote_control is off: models are loaded and unloaded from the server's own machine"
            )
            raise ServiceError(Reason.NOT_ALLOWED, message + " only")
