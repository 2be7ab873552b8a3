"""What the parent hears: one JSON object per line on the process's original standard output."""

import json
import os
import sys
from typing import Any, NoReturn, Optional

_channel = None


def open_channel() -> None:
    """Keeps the real standard output for events and sends everything else that prints (TensorFlow, absl) to standard error."""
    global _channel
    _channel = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)


def emit(event: str, **fields: Any) -> None:
    stream = _channel or sys.stdout
    stream.write(json.dumps({"event": event, **fields}, default=str) + "\n")
    stream.flush()


def progress(phase: str, percent: Optional[float] = None, message: Optional[str] = None) -> None:
    emit("progress", phase=phase, percent=percent, message=message or phase)


def log(message: str, level: str = "info") -> None:
    emit("log", level=level, message=message)


class ConvertError(Exception):
    """An expected failure with a stable code. `kind` is invalid unless trying again may help (unavailable)."""

    def __init__(self, code: str, message: str, kind: str = "invalid", **detail: Any) -> None:
        super().__init__(message)
        self.code = code
        self.kind = kind
        self.detail = detail


def refuse(code: str, message: str, **detail: Any) -> NoReturn:
    raise ConvertError(code, message, **detail)
