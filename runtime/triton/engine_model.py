"""The model `tensorrt_llm` as Triton's Python backend calls it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from trtcoder.errors import DependencyError, TrtcoderError
from trtcoder.refusals import is_refusal, reason
from trtcoder.runtime.triton.orphan import end_with_server
from trtcoder.runtime.triton.reply import TritonReply, inputs_of
from trtcoder.runtime.triton.settings import FILE_NAME, ModelSettings
from trtcoder.runtime.triton.stub import check_numpy


class EngineModel:
    """An engine, its thread and continuous batching, in one process.

    ``model.py`` of the repository derives `TritonPythonModel` from it and names the ``backend``,
    Triton's module `triton_python_backend_utils`, which only Triton's processes have.
    """

    backend: ClassVar[Any]

    @classmethod
    def auto_complete_config(cls, config: Any) -> Any:
        """Tell Triton what model.yaml says of the model."""
        settings = cls._settings(Path(cls.backend.get_model_dir()))
        config.set_max_batch_size(settings.triton_config.max_batch_size)
        config.set_model_transaction_policy({"decoupled": settings.triton_config.decoupled})
        return config

    def initialize(self, args: dict[str, str]) -> None:
        """Load the engine; what is wrong stands in Triton's log."""
        end_with_server()
        folder = Path(args["model_repository"], args["model_version"])
        try:
            check_numpy()
        except DependencyError as error:
            raise self._refusal(error) from error
        settings = self._settings(folder)
        said = json.loads(args["model_config"]).get("model_transaction_policy", {})
        if bool(said.get("decoupled")) != settings.triton_config.decoupled:
            raise self.backend.TritonModelException(
                f"{folder / FILE_NAME}: Triton was not told of triton_config; start it without "
                "--disable-auto-complete-config, and leave decoupled out of config.pbtxt"
            )
        # Here and not above: the first call of the class needs no engine.
        from trtcoder.runtime.server.loading import load
        from trtcoder.runtime.triton.metrics import Metrics
        from trtcoder.runtime.triton.service import TritonService

        try:
            llm = load(folder / settings.model, settings.engine_settings())
        except Exception as error:
            raise self._refusal(error) from error
        core = llm.engine.thread.core
        self._metrics = Metrics(self.backend, core, args["model_name"], args["model_version"])
        self._service = TritonService(llm, settings, self._metrics.beat)
        self.backend.Logger.log_info(
            f"{args['model_name']}: {llm.manifest.model_name}, context {llm.context}, at most "
            f"{settings.max_batch} answers at a time, runs on {llm.engine.runs_on}"
        )

    def execute(self, requests: Sequence[Any]) -> None:
        """Take requests; each is answered by itself, when it is."""
        for request in requests:
            reply = TritonReply(self.backend, request.get_response_sender())
            try:
                inputs = inputs_of(request)
            except Exception as error:  # one bad request must not end those beside it
                reply.fail(error)
            else:
                self._service.ask(inputs, request.request_id(), reply)

    def is_ready(self) -> bool:
        """Whether the engine answers; newer releases of Triton ask."""
        return self._service.is_ready

    def finalize(self) -> None:
        """End the engine; Triton has no open requests of this model any more."""
        self._service.close()
        self._metrics.close()

    @classmethod
    def _settings(cls, folder: Path) -> ModelSettings:
        try:
            return ModelSettings.read(folder / FILE_NAME)
        except TrtcoderError as error:
            raise cls._refusal(error) from error

    @classmethod
    def _refusal(cls, error: Exception) -> Exception:
        """Return what Triton writes to its log as the reason."""
        if isinstance(error, TrtcoderError):
            said = str(error)
        else:
            said = reason(error) if is_refusal(error) else repr(error)
        refusal: Exception = cls.backend.TritonModelException(said)
        return refusal
