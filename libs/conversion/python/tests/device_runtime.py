"""TensorFlow Lite 2.9, the runtime on devices, through its C API: what TensorFlow's own interpreter runs may not load there, or answer garbage."""

import ctypes
import platform
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[4]
LIBRARY = ROOT / "node_modules/tfjs-tflite-node/cc_deps" / ("linux_arm64" if platform.machine() == "aarch64" else "linux_amd64") / "libtensorflowlite_c.so"
TYPES = {1: np.float32, 3: np.uint8, 9: np.int8}


class Quantisation(ctypes.Structure):
    _fields_ = [("scale", ctypes.c_float), ("zero_point", ctypes.c_int32)]


def library() -> ctypes.CDLL:
    lib = ctypes.CDLL(str(LIBRARY))
    for name in ("ModelCreate", "InterpreterOptionsCreate", "InterpreterCreate", "InterpreterGetInputTensor", "InterpreterGetOutputTensor", "TensorData"):
        getattr(lib, f"TfLite{name}").restype = ctypes.c_void_p
    lib.TfLiteTensorByteSize.restype = ctypes.c_size_t
    lib.TfLiteTensorQuantizationParams.restype = Quantisation
    return lib


class DeviceRuntime:
    """Raises ValueError where the runtime cannot load the model; its reason is on standard error."""

    def __init__(self, model: bytes) -> None:
        self.lib = library()
        self.bytes = model  # must outlive the interpreter
        made = self.lib.TfLiteModelCreate(model, ctypes.c_size_t(len(model)))
        self.interpreter = made and self.lib.TfLiteInterpreterCreate(ctypes.c_void_p(made), ctypes.c_void_p(self.lib.TfLiteInterpreterOptionsCreate()))
        if not self.interpreter or self.lib.TfLiteInterpreterAllocateTensors(ctypes.c_void_p(self.interpreter)) != 0:
            raise ValueError("TensorFlow Lite 2.9 cannot load the model")

    def tensors(self, side: str) -> list:
        count = getattr(self.lib, f"TfLiteInterpreterGet{side}TensorCount")(ctypes.c_void_p(self.interpreter))
        return [ctypes.c_void_p(getattr(self.lib, f"TfLiteInterpreterGet{side}Tensor")(ctypes.c_void_p(self.interpreter), index)) for index in range(count)]

    def about(self, tensor) -> tuple:
        kind = TYPES[self.lib.TfLiteTensorType(tensor)]
        shape = [self.lib.TfLiteTensorDim(tensor, index) for index in range(self.lib.TfLiteTensorNumDims(tensor))]
        params = self.lib.TfLiteTensorQuantizationParams(tensor)
        return kind, shape, params.scale, params.zero_point

    def __call__(self, *inputs) -> list:
        """Real numbers in, real numbers out."""
        for tensor, values in zip(self.tensors("Input"), inputs):
            kind, shape, scale, zero = self.about(tensor)
            if kind is not np.float32:
                limits = np.iinfo(kind)
                values = np.clip(np.round(values / scale) + zero, limits.min, limits.max)
            data = np.ascontiguousarray(values, dtype=kind).reshape(shape)
            assert self.lib.TfLiteTensorCopyFromBuffer(tensor, data.ctypes.data_as(ctypes.c_void_p), ctypes.c_size_t(data.nbytes)) == 0
        if self.lib.TfLiteInterpreterInvoke(ctypes.c_void_p(self.interpreter)) != 0:
            raise ValueError("TensorFlow Lite 2.9 cannot run the model")
        answers = []
        for tensor in self.tensors("Output"):
            kind, shape, scale, zero = self.about(tensor)
            data = np.empty(shape, kind)
            assert self.lib.TfLiteTensorCopyToBuffer(tensor, data.ctypes.data_as(ctypes.c_void_p), ctypes.c_size_t(data.nbytes)) == 0
            answers.append(data if kind is np.float32 else (data.astype(np.float32) - zero) * scale)
        return answers


def agreement(model: bytes, original: "np.lib.npyio.NpzFile") -> dict:
    """An int8 model against what `evaluate` wrote: share of the same top answer, and cosine and largest difference of the first output."""
    run = DeviceRuntime(model)
    columns = sorted(name for name in original.files if name.startswith("input_"))
    expected = original["output_0"]
    got = np.stack([run(*(original[name][row : row + 1] for name in columns))[0].reshape(expected.shape[1:]) for row in range(len(expected))])
    flat, other = got.reshape(len(got), -1), expected.reshape(len(got), -1)
    cosine = float(np.mean(np.sum(flat * other, 1) / np.maximum(np.linalg.norm(flat, axis=1) * np.linalg.norm(other, axis=1), 1e-9)))
    return {"samples": len(got), "agreement": float(np.mean(got.argmax(-1) == expected.argmax(-1))), "cosine": cosine, "maxError": float(np.abs(got - expected).max())}
