"""What the parent hears: one JSON object per line on the process's original standard output."""

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any, Callable, NoReturn, Optional

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


def answer(request: Path, work: Callable[[dict, Path], dict], out_of_memory: str) -> int:
    """Runs `work` on the request and a scratch folder, and tells how it ended. `out_of_memory`: what to do about that. Returns the exit status."""
    try:
        wanted = json.loads(request.read_text(encoding="utf-8"))
        with tempfile.TemporaryDirectory(prefix="reef-") as scratch:
            result = work(wanted, Path(scratch))
        emit("result", **result)
        return 0
    except ConvertError as error:
        emit("error", code=error.code, kind=error.kind, message=str(error), detail=error.detail)
        return 1
    except MemoryError:
        emit("error", code="convert.out_of_memory", kind="invalid", message=f"The worker ran out of memory; {out_of_memory}", detail={})
        return 1
    except OSError as error:
        full = error.errno == 28
        emit("error", code="disk.full" if full else "convert.io", kind="unavailable", message="The worker's disk is full; free some space and retry." if full else str(error), detail={})
        return 1
