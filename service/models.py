"""ModelService: the models of this server."""

from typing import Any

import grpc

from engine.contract import Engine, EngineSnapshot, EngineState, ModelInfo
from flowcontrol.reasons import Reason
from penstock.v1 import model_pb2 as pb
from penstock.v1 import model_pb2_grpc
from service.calls import answering_errors
from service.errors import ServiceError, Violation, not_implemented

_STATES = {
    EngineState.STARTING: pb.MODEL_STATE_LOADING,
    EngineState.READY: pb.MODEL_STATE_READY,
    EngineState.SUSPECT: pb.MODEL_STATE_STUCK,
    EngineState.DEAD: pb.MODEL_STATE_LOADING,
    EngineState.STOPPING: pb.MODEL_STATE_READY,
}
Context = grpc.aio.ServicerContext[Any, Any]


def require_model(model: ModelInfo | None, name: str, field: str) -> ModelInfo:
    """The model that `name` means. Raises ServiceError: MODEL_NOT_FOUND, or MODEL_LOADING so far."""
    if model is None:
        raise ServiceError(Reason.MODEL_LOADING, "the model is being loaded")
    if name not in ("", model.name):
        message = f'{field}: there is no model "{name}"; allowed: "{model.name}", or empty for it'
        raise ServiceError(Reason.MODEL_NOT_FOUND, message, violations=[Violation(field, message)])
    return model


def models(snapshot: EngineSnapshot) -> list[pb.Model]:
    """The models of an engine, as messages; none before the first load."""
    if snapshot.model is None:
        return []
    info = snapshot.model
    return [
        pb.Model(
            name=info.name,
            state=_STATES[snapshot.state],
            source=info.source,
            architecture=info.architecture,
            parameters=info.parameters,
            vocab_size=info.vocab_size,
            context_tokens=info.context_tokens,
            has_chat_template=info.has_chat_template,
            is_default=True,
            fingerprint=info.fingerprint,
        )
    ]


class ModelServicer(model_pb2_grpc.ModelServiceServicer):
    """Shows what the engine has loaded."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @answering_errors
    async def ListModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:
        return pb.ListModelsResponse(models=models(self._engine.snapshot()))

    @answering_errors
    async def GetModel(self, request: pb.GetModelRequest, context: Context) -> pb.GetModelResponse:
        snapshot = self._engine.snapshot()
        require_model(snapshot.model, request.name, "name")
        return pb.GetModelResponse(model=models(snapshot)[0])

    @answering_errors
    async def LoadModel(self, request: pb.LoadModelRequest, context: Context) -> pb.LoadModelResponse:
        raise not_implemented("LoadModel")

    @answering_errors
    async def UnloadModel(self, request: pb.UnloadModelRequest, context: Context) -> pb.UnloadModelResponse:
        raise not_implemented("UnloadModel")
