import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from conftest import run_command
from device_runtime import LIBRARY, agreement
from reef_convert.__main__ import convert, evaluate
from reef_convert.events import ConvertError
from reef_convert.sources import open_source

on_device_runtime = pytest.mark.skipif(not LIBRARY.exists(), reason="the devices' runtime comes with npm ci")

# Weights wide enough that answers differ.
MAKE = """
import numpy as np, tensorflow as tf
def make(kind, path):
    L = tf.keras.layers
    layers = {
        "lstm": [L.LSTM(12, return_sequences=True), L.LSTM(8)], "gru": [L.GRU(12)], "both-ways": [L.Bidirectional(L.LSTM(6))],
        "cells": [L.RNN([L.LSTMCell(8), L.LSTMCell(8)])], "remembering": [L.LSTM(8, stateful=True)],
    }[kind]
    size = 1 if kind == "remembering" else None
    model = tf.keras.Sequential([tf.keras.Input(batch_shape=(size, 10, 6)), *layers, L.Dense(3, activation="softmax")])
    rng = np.random.default_rng(4)
    model.set_weights([rng.normal(0, 0.6, one.shape) if one.ndim > 1 else one for one in model.get_weights()])
    model.save(path)
"""
exec(MAKE)


def command(name, request, folder):
    run = run_command(name, request, folder)
    assert run["status"] == 0, run["last"]
    return run["last"]


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    path = tmp_path_factory.mktemp("series") / "s.npz"
    np.savez(path, x=np.random.default_rng(0).normal(0, 1, (100, 10, 6)).astype(np.float32))
    return path


@on_device_runtime
@pytest.mark.parametrize("kind,file", [("lstm", "3.keras"), ("gru", "3.keras"), ("both-ways", "3.h5"), ("remembering", "3.keras"), ("lstm", "2.h5"), ("cells", "2.keras")])
def test_recurrent_layers_are_unrolled_and_agree_on_the_devices_runtime(kind, file, series, tmp_path):
    path = tmp_path / file
    about = {"source": str(path), "filename": file, "preprocessing": {"kind": "raw"}}
    wanted = {**about, "calibration": str(series), "calibrationFilename": "s.npz", "output": str(tmp_path / "out.tflite")}
    asked = {**about, "samples": str(series), "samplesFilename": "s.npz", "output": str(tmp_path / "float.npz")}
    if file.startswith("3"):
        make(kind, path)  # noqa: F821 (made by MAKE)
        made = convert(wanted, tmp_path)
        evaluate(asked, tmp_path)
    else:
        # The generation of Keras is chosen before TensorFlow is loaded: processes of their own.
        subprocess.run([sys.executable, "-c", f"import os; os.environ['TF_USE_LEGACY_KERAS'] = '1'\n{MAKE}\nmake({kind!r}, {str(path)!r})"], check=True, capture_output=True)
        made = command("convert", wanted, tmp_path)
        command("evaluate", asked, tmp_path)
    assert any("unrolled" in one for one in made["warnings"])
    model = (tmp_path / "out.tflite").read_bytes()
    with np.load(tmp_path / "float.npz") as original:
        assert len(np.unique(original["output_0"].argmax(1))) == 3
        found = agreement(model, original)
    assert found["agreement"] >= 0.9 and found["cosine"] > 0.98, found
    used = {op["op_name"] for op in tf.lite.Interpreter(model_content=model)._get_ops_details()}
    assert "FULLY_CONNECTED" in used and not used & {"WHILE", "UNIDIRECTIONAL_SEQUENCE_LSTM", "SPLIT", "DEQUANTIZE"}, used


def keras_file(path, *layers, shape=(10, 6)):
    tf.keras.Sequential([tf.keras.Input(shape), *layers]).save(path)
    return path


def refused(call):
    with pytest.raises(ConvertError) as caught:
        call()
    return caught.value


def opened(path, tmp_path):
    return open_source({"source": str(path), "filename": path.name}, tmp_path / "scratch")


def test_open_length_is_asked_for_and_then_unrolled(tmp_path):
    source = opened(keras_file(tmp_path / "m.keras", tf.keras.layers.GRU(4), shape=(None, 6)), tmp_path)
    assert refused(lambda: source.static_shapes(None)).code == "source.shape_unknown"
    assert "While" not in {node.op for node in source.concrete(source.static_shapes([1, 5, 6])).function.graph.as_graph_def().node}


def test_what_cannot_be_unrolled_is_named(tmp_path):
    source = opened(keras_file(tmp_path / "m.keras", tf.keras.layers.ConvLSTM2D(2, 3), shape=(4, 8, 8, 3)), tmp_path)
    error = refused(lambda: source.concrete([[1, 4, 8, 8, 3]]))
    assert error.code == "source.recurrent_layer" and "ConvLSTM2D" in str(error)
    source = opened(keras_file(tmp_path / "long.keras", tf.keras.layers.GRU(2), shape=(None, 2)), tmp_path)
    assert "5000 steps" in str(refused(lambda: source.concrete([[1, 5000, 2]])))


def test_a_loop_in_a_saved_model_is_refused_with_the_way_out(tmp_path):
    tf.keras.Sequential([tf.keras.Input((10, 6)), tf.keras.layers.SimpleRNN(4)]).export(tmp_path / "m")
    source = opened(tmp_path / "m", tmp_path)
    error = refused(lambda: source.concrete([[1, 10, 6]]))
    assert error.code == "source.loop" and error.detail["operators"] and ".keras" in str(error)
