import os
import tarfile
import zipfile

import numpy as np
import pytest
import tensorflow as tf

from conftest import SIZE
from reef_convert.events import ConvertError
from reef_convert.sources import open_source


def opened(path, tmp_path, **request):
    return open_source({"source": str(path), "filename": path.name, **request}, tmp_path / "scratch")


def failure(call):
    with pytest.raises(ConvertError) as caught:
        call()
    assert caught.value.kind == "invalid"
    return caught.value


def saved(folder, shape, signatures=("serving_default",), dtype=tf.float32):
    """A SavedModel that doubles its input."""
    module = tf.Module()
    module.double = tf.function(lambda x: {"y": x * 2}, input_signature=[tf.TensorSpec(shape, dtype, name="x")])
    tf.saved_model.save(module, str(folder), signatures={name: module.double for name in signatures})
    return folder


def test_a_saved_model_as_folder_and_as_archives(colours, tmp_path):
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        archive.add(colours, "some/where")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for file in colours.rglob("*"):
            archive.write(file, file.relative_to(colours))
    for path in (colours, tmp_path / "a.tar.gz", tmp_path / "a.zip"):
        source = opened(path, tmp_path / f"of-{path.name}")
        assert (source.kind, source.signature) == ("saved_model", "serving_default")
        assert [vars(one) for one in source.inputs] == [{"name": "images", "shape": [None, SIZE, SIZE, 3], "dtype": "float32"}]
        assert [one.name for one in source.outputs] == ["scores"]
        assert source.static_shapes(None) == [[1, SIZE, SIZE, 3]]


def test_several_signatures_are_asked_for_by_name(tmp_path):
    path = saved(tmp_path / "m", [None, 4], ("encode", "decode"))
    error = failure(lambda: opened(path, tmp_path))
    assert error.code == "source.signature_unknown" and error.detail["signatures"] == ["decode", "encode"] and "encode" in str(error)
    assert opened(path, tmp_path, signature="encode").signature == "encode"
    assert failure(lambda: opened(path, tmp_path, signature="nope")).code == "source.signature_unknown"


def test_one_signature_of_any_name_is_taken(tmp_path):
    assert opened(saved(tmp_path / "m", [None, 4], ("mine",)), tmp_path).signature == "mine"


def test_no_signature_and_nothing_to_call(tmp_path):
    tf.saved_model.save(tf.Module(), str(tmp_path / "m"))
    assert failure(lambda: opened(tmp_path / "m", tmp_path)).code == "source.no_signature"


class Hub(tf.Module):
    """As TensorFlow Hub has them: called, with a trace for training and one for inference."""

    def __init__(self, spec):
        super().__init__()
        self.factor = tf.Variable(2.0)
        for training in (True, False):
            self.__call__.get_concrete_function(spec, training=training)

    @tf.function
    def __call__(self, x, training=False):
        return x * self.factor + (100.0 if training else 0.0)


@pytest.mark.parametrize("shape,given", [([None, 4], None), ([None, None], [1, 4]), (None, [1, 4])])
def test_a_saved_model_without_signatures_is_called(shape, given, tmp_path):
    tf.saved_model.save(Hub(tf.TensorSpec(shape, tf.float32, name="x")), str(tmp_path / "m"), signatures={})
    source = opened(tmp_path / "m", tmp_path)
    assert source.kind == "saved_model" and source.inputs[0].name == "x"
    if given:
        error = failure(lambda: source.static_shapes(None))
        assert error.code == "source.shape_unknown" and "--input-shape" in str(error)
    shapes = source.static_shapes(given)
    assert shapes == [[1, 4]]
    assert np.asarray(source.concrete(shapes).function(tf.constant([[1.0, 2, 3, 4]]))).ravel().tolist() == [2, 4, 6, 8], "as for inference"


def test_open_sizes_are_asked_for_and_filled(tmp_path):
    source = opened(saved(tmp_path / "m", [None, None, None, 3]), tmp_path)
    error = failure(lambda: source.static_shapes(None))
    assert error.code == "source.shape_unknown" and error.detail["shape"] == "[1, ?, ?, 3]" and "--input-shape" in str(error)
    assert source.static_shapes([1, 8, 8, 3]) == source.static_shapes([8, 8, 3]) == source.static_shapes([4, 8, 8, 3]) == [[1, 8, 8, 3]]
    for wrong in ([1, 8, 8, 4], [1, 8, 8, 3, 1], [8, 3]):
        assert failure(lambda wrong=wrong: source.static_shapes(wrong)).code == "source.shape_differs"
    assert failure(lambda: source.static_shapes([1, None, 8, 3])).code == "source.shape_unknown"


def test_an_unknown_rank_is_asked_for(tmp_path):
    source = opened(saved(tmp_path / "m", None), tmp_path)
    assert failure(lambda: source.static_shapes(None)).code == "source.shape_unknown"
    assert source.static_shapes([1, 5]) == [[1, 5]]


def test_several_models_in_one_archive(tmp_path):
    saved(tmp_path / "both/a", [None, 4])
    saved(tmp_path / "both/b", [None, 4])
    assert failure(lambda: opened(tmp_path / "both", tmp_path)).code == "source.several_models"


@pytest.mark.parametrize("name,content,code", [
    ("empty.h5", b"", "source.not_a_model"), ("a.pb", b"\x00garbage", "source.not_a_model"), ("a.keras", b"hello", "source.not_a_model"),
    ("a.h5", b"\x89HDF\r\n\x1a\n" + b"\0" * 64, "source.not_a_model"), ("a.tflite", b"\x1c\0\0\0TFL3" + b"\xff" * 32, "source.not_a_model"), ("a.onnx", b"\x08\x07onnx", "source.onnx"),
])
def test_what_is_no_model(tmp_path, name, content, code):
    (tmp_path / name).write_bytes(content)
    assert failure(lambda: opened(tmp_path / name, tmp_path)).code == code


def test_a_damaged_saved_model_and_a_folder_without_one(colours, tmp_path):
    (tmp_path / "m").mkdir()
    (tmp_path / "m/readme.txt").write_text("hello")
    assert failure(lambda: opened(tmp_path / "m", tmp_path)).code == "source.not_a_model"
    (tmp_path / "m/saved_model.pb").write_bytes((colours / "saved_model.pb").read_bytes()[:500])
    assert failure(lambda: opened(tmp_path / "m", tmp_path)).code == "source.not_a_model"


def keras_model(*layers):
    return tf.keras.Sequential([tf.keras.Input((6,), name="x"), *layers])


@pytest.mark.parametrize("suffix", ["keras", "h5"])
def test_keras_3(tmp_path, suffix):
    path = tmp_path / f"m.{suffix}"
    keras_model(tf.keras.layers.Dense(2)).save(path)
    source = opened(path, tmp_path)
    assert source.kind == "keras" and "Keras 3" in source.description
    assert source.static_shapes(None) == [[1, 6]] and source.outputs[0].shape == [None, 2]


@pytest.mark.parametrize("suffix", ["keras", "h5"])
def test_code_in_a_keras_file_is_never_run(tmp_path, suffix, monkeypatch):
    path = tmp_path / f"m.{suffix}"
    keras_model(tf.keras.layers.Lambda(lambda x: __import__("os").environ.update(REEF_RAN="1") or x)).save(path)
    monkeypatch.delenv("REEF_RAN")
    assert failure(lambda: opened(path, tmp_path)).code == "source.holds_code"
    assert "REEF_RAN" not in os.environ


def test_a_graph_that_touches_files_is_refused_before_it_is_loaded(tmp_path):
    class Writes(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32, name="x")])
        def serve(self, x):
            tf.io.write_file(str(tmp_path / "written"), "by a model")
            return {"y": x}

    model = Writes()
    tf.saved_model.save(model, str(tmp_path / "m"), signatures={"serving_default": model.serve})
    error = failure(lambda: opened(tmp_path / "m", tmp_path))
    assert error.code == "source.holds_code" and error.detail["operators"] == ["WriteFile"]
    with tf.Graph().as_default() as graph:
        tf.io.read_file("/etc/passwd", name="y")
        (tmp_path / "a.pb").write_bytes(graph.as_graph_def().SerializeToString())
    assert failure(lambda: opened(tmp_path / "a.pb", tmp_path)).code == "source.holds_code"
    assert not (tmp_path / "written").exists()


def test_weights_without_a_model(tmp_path):
    keras_model(tf.keras.layers.Dense(2)).save_weights(tmp_path / "m.weights.h5")
    assert failure(lambda: opened(tmp_path / "m.weights.h5", tmp_path)).code == "source.weights_only"


def frozen_pb(path):
    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(tf.float32, [None, 4], name="x")
        tf.nn.relu(x * 2.0, name="y")
        path.write_bytes(graph.as_graph_def().SerializeToString())
    return path


def test_a_frozen_graph(tmp_path):
    path = frozen_pb(tmp_path / "a.pb")
    source = opened(path, tmp_path)
    assert (source.kind, [one.name for one in source.inputs], [one.name for one in source.outputs]) == ("frozen_graph", ["x"], ["y"])
    answer = source.concrete([[1, 4]]).function(tf.constant([[-1.0, 0, 1, 2]]))
    assert np.asarray(answer[0] if isinstance(answer, list) else answer).tolist() == [[0, 0, 2, 4]]
    assert opened(path, tmp_path, inputName="x:0", outputNames=["y:0"]).kind == "frozen_graph"
    assert failure(lambda: opened(path, tmp_path, outputNames=["z"])).code == "source.tensor_unknown"
