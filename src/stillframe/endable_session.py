"""ONNX Runtime sessions whose runs another thread can end, such as those of an endless Loop."""

from collections.abc import Mapping, Sequence
from typing import Any

import onnxruntime
from onnxruntime import InferenceSession  # bound at import: callers may replace it by ReuseSession

from stillframe.native_calls import RunEndedError, native_call

SILENT = 4
"""Severity of messages: what goes wrong is raised."""


class EndableSession:
    """An InferenceSession whose runs `end` ends, in any thread.

    ONNX Runtime asks before each node whether to go on, within bodies of Loop, Scan and If too. A
    node that takes for ever by itself is not ended. title: how errors name the model. The other
    parameters are those of InferenceSession.
    """

    def __init__(
        self,
        model: str | bytes,
        options: onnxruntime.SessionOptions,
        providers: Sequence[Any],
        title: str,
    ) -> None:
        self.title = title
        with native_call(f"loading {title}"):
            self.session = InferenceSession(model, options, providers=list(providers))
        self._ended = False
        self._running: set[onnxruntime.RunOptions] = set()

    def run(
        self,
        names: Sequence[str] | None,
        feeds: Mapping[str, Any],
        run_options: onnxruntime.RunOptions | None = None,
    ) -> list[Any]:
        """The outputs. Raises RunEndedError once ended, else what ONNX Runtime raises.

        run_options: the caller's own; setting its `terminate` ends the run too.
        """
        options = run_options
        if options is None:
            options = onnxruntime.RunOptions()
            options.log_severity_level = SILENT

        def end() -> None:
            options.terminate = True

        was_set = options.terminate
        with native_call(self.title, end) as call:
            self._running.add(options)
            try:
                if self._ended:  # asked only now: from here on `end` finds the run
                    call.ended = True
                    raise RuntimeError("its session was ended before this run")
                outputs: list[Any] = self.session.run(names, feeds, options)
                return outputs
            except Exception as error:
                if call.ended or self._ended or options.terminate:
                    raise RunEndedError(
                        f"{self.title}: a run was ended before it had a result"
                    ) from error
                raise
            finally:
                self._running.discard(options)
                if call.ended or self._ended:  # the options may be the caller's
                    options.terminate = was_set

    def end(self) -> None:
        """End the runs in progress and every later one with RunEndedError. From any thread."""
        self._ended = True
        for options in list(self._running):
            options.terminate = True
