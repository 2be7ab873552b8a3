"""Makes every kind of source, converts it with the TensorFlow of this interpreter and holds the int8 model, on the devices' runtime, against the original:
one JSON line a kind, of which test/conversion-table.mjs makes the table in docs/conversion.md. The interpreters given make the sources of each kind: Keras 2
files need TensorFlow 2.15 or tf_keras, ONNX needs onnx2tf."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "libs/conversion/python"
sys.path[:0] = [str(PACKAGE), str(PACKAGE / "tests")]

import numpy as np  # noqa: E402

from device_runtime import agreement  # noqa: E402

#: The same small classifier in every clothing. `generation` chooses the Keras.
MAKE = '''
import os, sys
out, generation = sys.argv[1], sys.argv[2]
if generation == "2" and __import__("importlib.util").util.find_spec("tf_keras"): os.environ["TF_USE_LEGACY_KERAS"] = "1"
import numpy as np, tensorflow as tf
L = tf.keras.layers
def weigh(model, head=3):
    rng = np.random.default_rng(4)
    values = [rng.normal(0, (2 / np.prod(one.shape[:-1])) ** .5, one.shape) if one.ndim > 1 else one for one in model.get_weights()]
    # Answers far enough apart that which is the largest is no toss-up; the last two are the head's.
    values[-2] *= head
    model.set_weights(values)
    return model
image = weigh(tf.keras.Sequential([tf.keras.Input((24, 24, 3)), L.Conv2D(12, 3, strides=2, activation="relu"), L.DepthwiseConv2D(3), L.BatchNormalization(), L.ReLU(6.0), L.Conv2D(24, 1, activation="relu"), L.GlobalAveragePooling2D(), L.Dense(6), L.Softmax()]), 12)
series = {"lstm": L.LSTM(12), "gru": L.GRU(12)}
for kind, layer in series.items():
    weigh(tf.keras.Sequential([tf.keras.Input((10, 6)), layer, L.Dense(4, activation="softmax")])).save(f"{out}/{kind}-{generation}.keras")
image.save(f"{out}/image-{generation}.h5")
image.save(f"{out}/image-{generation}.keras")
function = tf.function(lambda x: image(x, training=False)).get_concrete_function(tf.TensorSpec([None, 24, 24, 3], tf.float32, name="x"))
module = tf.Module()
module.model, module.serve = image, tf.function(lambda x: {"y": image(x, training=False)}, input_signature=[tf.TensorSpec([None, 24, 24, 3], tf.float32, name="x")])
tf.saved_model.save(module, f"{out}/saved-{generation}", signatures={"serving_default": module.serve})
class Hub(tf.Module):
    def __init__(self):
        self.model = image
    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.float32)])
    def __call__(self, x):
        return self.model(x, training=False)
tf.saved_model.save(Hub(), f"{out}/hub-{generation}", signatures={})
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2
frozen = convert_variables_to_constants_v2(function)
open(f"{out}/frozen-{generation}.pb", "wb").write(frozen.graph.as_graph_def().SerializeToString())
open(f"{out}/float-{generation}.tflite", "wb").write(tf.lite.TFLiteConverter.from_concrete_functions([frozen], tf.Module()).convert())
rng = np.random.default_rng(0)
np.savez(f"{out}/image.npz", x=(rng.uniform(-1, 1, (200, 24, 24, 3)) * .4 + rng.normal(0, .5, (200, 1, 1, 3))).clip(-1, 1).astype(np.float32))
np.savez(f"{out}/series.npz", x=rng.normal(0, 1, (200, 10, 6)).astype(np.float32))
'''
ONNX = '''
import sys, onnx, numpy as np
from onnx import helper as h, numpy_helper as nh, TensorProto as T
rng = np.random.default_rng(1)
weights = {"w": rng.normal(0, .3, (12, 3, 3, 3)), "dw": rng.normal(0, .5, (12, 1, 3, 3)), "pw": rng.normal(0, .4, (24, 12, 1, 1)), "fc": rng.normal(0, .5, (6, 24)), "b": rng.normal(0, .1, 6)}
nodes = [h.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1], strides=[2, 2]), h.make_node("Relu", ["c"], ["r"]), h.make_node("Conv", ["r", "dw"], ["d"], pads=[1, 1, 1, 1], group=12),
  h.make_node("Relu", ["d"], ["dr"]), h.make_node("Conv", ["dr", "pw"], ["p"]), h.make_node("GlobalAveragePool", ["p"], ["g"]), h.make_node("Flatten", ["g"], ["f"]),
  h.make_node("Gemm", ["f", "fc", "b"], ["l"], transB=1), h.make_node("Softmax", ["l"], ["y"], axis=1)]
graph = h.make_graph(nodes, "net", [h.make_tensor_value_info("x", T.FLOAT, ["n", 3, 24, 24])], [h.make_tensor_value_info("y", T.FLOAT, ["n", 6])], [nh.from_array(v.astype(np.float32), k) for k, v in weights.items()])
onnx.save(h.make_model(graph, opset_imports=[h.make_opsetid("", 17)], ir_version=8), sys.argv[1])
'''
KINDS = [
    ("SavedModel", "saved-{g}", {}), ("SavedModel without signatures", "hub-{g}", {"inputShape": [1, 24, 24, 3]}), ("frozen graph", "frozen-{g}.pb", {}),
    ("Keras .h5", "image-{g}.h5", {}), ("Keras .keras", "image-{g}.keras", {}), ("float TFLite", "float-{g}.tflite", {}), ("Keras LSTM", "lstm-{g}.keras", {}), ("Keras GRU", "gru-{g}.keras", {}),
]


def child(python: str, *args: str) -> subprocess.CompletedProcess:
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(PACKAGE), "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1", "HOME": os.environ.get("HOME", "/")}
    return subprocess.run([python, *args], capture_output=True, text=True, env=env, check=False)


def command(python: str, name: str, request: dict, folder: Path) -> dict:
    (folder / "request.json").write_text(json.dumps(request))
    done = child(python, "-m", "reef_convert", name, "--request", str(folder / "request.json"))
    return json.loads(done.stdout.strip().splitlines()[-1]) if done.stdout.strip() else {"event": "error", "code": "crashed", "message": done.stderr[-300:]}


def measure(kind: str, generation: str, path: Path, samples: Path, more: dict, folder: Path) -> dict:
    about = {"source": str(path), "filename": path.name, "preprocessing": {"kind": "raw"}, **more}
    made = command(sys.executable, "convert", {**about, "calibration": str(samples), "calibrationFilename": samples.name, "output": str(folder / "out.tflite")}, folder)
    row = {"kind": kind, "writtenBy": generation}
    if made["event"] == "error":
        return {**row, "refused": made["code"], "message": made.get("message", "")[:200]}
    asked = command(sys.executable, "evaluate", {**about, "samples": str(samples), "samplesFilename": samples.name, "limit": 200, "output": str(folder / "float.npz")}, folder)
    assert asked["event"] == "result", asked
    with np.load(folder / "float.npz") as original:
        return {**row, "tensorflow": made["tools"]["tensorflow"], **agreement((folder / "out.tflite").read_bytes(), original)}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--keras2")
    parser.add_argument("--keras3")
    parser.add_argument("--onnx")
    parser.add_argument("--kinds", help="only these, separated by commas")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        makers = [("2", args.keras2), ("3", args.keras3)]
        for generation, python in makers:
            if python is None:
                continue
            done = child(python, "-c", MAKE, str(folder), generation)
            assert done.returncode == 0, done.stderr[-2000:]
            for kind, name, more in KINDS:
                # The others hold a graph, which does not tell which Keras it came from.
                if args.kinds and kind not in args.kinds.split(","):
                    continue
                if generation == "2" and not kind.startswith("Keras"):
                    continue
                samples = folder / ("series.npz" if "LSTM" in kind or "GRU" in kind else "image.npz")
                print(json.dumps(measure(kind, f"Keras {generation}", folder / name.format(g=generation), samples, more, folder)), flush=True)
        if args.onnx:
            done = child(args.onnx, "-c", ONNX, str(folder / "net.onnx"))
            assert done.returncode == 0, done.stderr[-2000:]
            turned = command(args.onnx, "from-onnx", {"source": str(folder / "net.onnx"), "filename": "net.onnx", "output": str(folder / "net.tflite")}, folder)
            assert turned["event"] == "result", turned
            print(json.dumps(measure("ONNX", "onnx", folder / "net.tflite", folder / "image.npz", {}, folder)), flush=True)


if __name__ == "__main__":
    main()
