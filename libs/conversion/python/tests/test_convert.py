import numpy as np
import pytest
import tensorflow as tf

from conftest import NAMES, SIZE
from device_runtime import LIBRARY, agreement
from reef_convert import quantise
from reef_convert.__main__ import convert, evaluate
from reef_convert.events import ConvertError


def interpreter(path):
    made = tf.lite.Interpreter(str(path))
    made.allocate_tensors()
    return made


def answers(path, *rows):
    """The int8 model's answers as real numbers, one row of all inputs after the other."""
    run = interpreter(path)
    out = []
    for row in rows:
        for detail, values in zip(run.get_input_details(), row):
            scale, zero = detail["quantization"]
            limits = np.iinfo(detail["dtype"])
            run.set_tensor(detail["index"], np.clip(np.round(values / scale) + zero, limits.min, limits.max).astype(detail["dtype"]))
        run.invoke()
        out.append([(run.get_tensor(detail["index"]).astype(np.float32) - detail["quantization"][1]) * detail["quantization"][0] for detail in run.get_output_details()])
    return out


def request(source, samples, preprocessing, output, key="calibration", **more):
    return {"source": str(source), "filename": source.name, key: str(samples), f"{key}Filename": samples.name, "preprocessing": preprocessing, "output": str(output), **more}


def failure(call):
    with pytest.raises(ConvertError) as caught:
        call()
    return caught.value


def test_a_saved_model_becomes_int8_and_answers_as_before(colours, pictures, preprocessing, tmp_path):
    made = convert(request(colours, pictures, preprocessing, tmp_path / "out.tflite"), tmp_path)
    assert made["calibrationSamples"] == 30 and made["warnings"] == []
    run = interpreter(tmp_path / "out.tflite")
    [border_in], [border_out] = run.get_input_details(), run.get_output_details()
    assert border_in["dtype"] is np.int8 and border_out["dtype"] is np.int8
    assert border_in["shape_signature"].tolist() == [1, SIZE, SIZE, 3], "nothing is left open"

    held = evaluate(request(colours, pictures, preprocessing, tmp_path / "float.npz", "samples"), tmp_path)
    with np.load(tmp_path / "float.npz") as arrays:
        inputs, expected = arrays["input_0"], arrays["output_0"]
    assert held["samples"] == 30 and inputs.shape == (30, SIZE, SIZE, 3) and inputs.dtype == expected.dtype == np.float32
    got = np.concatenate([row[0] for row in answers(tmp_path / "out.tflite", *([one[None]] for one in inputs))])
    assert np.abs(got - expected).max() < 0.05
    assert [NAMES[index] for index in got.argmax(1)] == held["labels"]


def test_uint8_borders_on_request(colours, pictures, preprocessing, tmp_path):
    convert(request(colours, pictures, preprocessing, tmp_path / "out.tflite", ioType="uint8"), tmp_path)
    assert interpreter(tmp_path / "out.tflite").get_input_details()[0]["dtype"] is np.uint8


def test_few_samples_are_a_warning(colours, pictures, preprocessing, tmp_path):
    few = tmp_path / "few"
    few.mkdir()
    for file in sorted(pictures.glob("*.png"))[:3]:
        (few / file.name).write_bytes(file.read_bytes())
    assert "only 3 samples" in convert(request(colours, few, preprocessing, tmp_path / "out.tflite"), tmp_path)["warnings"][0]


def test_several_inputs_and_outputs_keep_their_order(tmp_path):
    class Two(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, 3], tf.float32, name="zebra"), tf.TensorSpec([None, 2], tf.float32, name="ant")])
        def serve(self, zebra, ant):
            return {"wide": zebra * 2, "narrow": ant * 300, "sum": tf.reduce_sum(zebra, 1, keepdims=True)}

    model = Two()
    tf.saved_model.save(model, str(tmp_path / "m"), signatures={"serving_default": model.serve})
    rng = np.random.default_rng(5)
    np.savez(tmp_path / "s.npz", zebra=rng.uniform(-1, 1, (40, 3)).astype(np.float32), ant=rng.uniform(-9, 9, (40, 2)).astype(np.float32))
    raw = {"kind": "raw"}
    convert(request(tmp_path / "m", tmp_path / "s.npz", raw, tmp_path / "out.tflite"), tmp_path)
    evaluate(request(tmp_path / "m", tmp_path / "s.npz", raw, tmp_path / "float.npz", "samples", limit=8), tmp_path)
    with np.load(tmp_path / "float.npz") as arrays:
        rows = [[arrays["input_0"][index : index + 1], arrays["input_1"][index : index + 1]] for index in range(8)]
        expected = [arrays["output_0"], arrays["output_1"], arrays["output_2"]]
    assert [one.shape[1] for one in rows[0]] == [2, 3], "in the order of their names"
    for index, got in enumerate(answers(tmp_path / "out.tflite", *rows)):
        for column, values in enumerate(got):
            assert values.shape == expected[column][index : index + 1].shape
            assert np.abs(values - expected[column][index]).max() < np.abs(expected[column]).max() / 25, "each calibrated by its own samples"


def keras_sources(tmp_path, *layers):
    model = tf.keras.Sequential([tf.keras.Input((8, 8, 3), batch_size=1), tf.keras.layers.Conv2D(4, 3), *layers, tf.keras.layers.GlobalAveragePooling2D(), tf.keras.layers.Dense(3)])
    model.save(tmp_path / "m.keras")
    np.savez(tmp_path / "s.npz", x=np.random.default_rng(0).uniform(-1, 1, (25, 8, 8, 3)).astype(np.float32))
    return model, tmp_path / "m.keras", tmp_path / "s.npz"


def test_float_operators_left_over_are_refused_and_named(tmp_path):
    _, model, samples = keras_sources(tmp_path, tf.keras.layers.Activation("elu"))
    wanted = request(model, samples, {"kind": "raw"}, tmp_path / "out.tflite")
    error = failure(lambda: convert(wanted, tmp_path))
    assert error.code == "convert.float_ops" and error.detail["operators"] == ["ELU"]
    assert not (tmp_path / "out.tflite").exists(), "nothing half right is left behind"
    assert "ELU" in convert({**wanted, "allowFloatOps": True}, tmp_path)["warnings"][0]


def test_float_inputs_and_outputs_are_refused_or_named_in_a_warning(tmp_path):
    keras, _, samples = keras_sources(tmp_path)
    converter = tf.lite.TFLiteConverter.from_keras_model(keras)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    with np.load(samples) as arrays:
        data = arrays["x"]
    converter.representative_dataset = lambda: ([one[None]] for one in data)
    converter._experimental_disable_per_channel_quantization_for_dense_layers = True
    model = converter.convert()
    assert failure(lambda: quantise.check(model, "int8", False)).code == "convert.float_border"
    first, last = quantise.check(model, "int8", True)
    assert "[1, 8, 8, 3]" in first and "[1, 3]" in last


def test_dense_layers_have_one_weight_scale(tmp_path):
    keras, model, samples = keras_sources(tmp_path)
    convert(request(model, samples, {"kind": "raw"}, tmp_path / "out.tflite"), tmp_path)
    converter = tf.lite.TFLiteConverter.from_keras_model(keras)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    with np.load(samples) as arrays:
        data = arrays["x"]
    converter.representative_dataset = lambda: ([one[None]] for one in data)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    # As TensorFlow does it by itself: what older runtimes compute wrongly without a word.
    assert failure(lambda: quantise.check(converter.convert(), "int8", False)).code == "convert.per_channel_dense"


@pytest.mark.parametrize("shape", [(8, 8, 3), (None, None, 3)])
def test_a_float_tflite_model_is_closed_and_quantised_for_the_devices_runtime(shape, tmp_path):
    layers = [tf.keras.layers.Conv2D(4, 3, activation="relu"), tf.keras.layers.GlobalAveragePooling2D(), tf.keras.layers.Dense(8, activation="relu"), tf.keras.layers.Dense(3)]
    keras = tf.keras.Sequential([tf.keras.Input(shape), *layers])
    # Of a colour each, with noise: noise alone averages out to answers that hardly differ from nothing.
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "s.npz", x=(0.7 * rng.uniform(-1, 1, (60, 1, 1, 3)) + 0.3 * rng.uniform(-1, 1, (60, 8, 8, 3))).astype(np.float32))
    (tmp_path / "float.tflite").write_bytes(tf.lite.TFLiteConverter.from_keras_model(keras).convert())
    wanted = request(tmp_path / "float.tflite", tmp_path / "s.npz", {"kind": "raw"}, tmp_path / "out.tflite", inputShape=[1, 8, 8, 3])
    assert interpreter(tmp_path / "float.tflite").get_input_details()[0]["shape_signature"][0] == -1, "open, as exports are"
    convert(wanted, tmp_path)
    made = interpreter(tmp_path / "out.tflite")
    for tensor in made.get_tensor_details():
        assert -1 not in tensor["shape_signature"], tensor["name"]
    dense = [op for op in made._get_ops_details() if op["op_name"] == "FULLY_CONNECTED"]
    assert [len(made._get_tensor_details(op["inputs"][1], 0)["quantization_parameters"]["scales"]) for op in dense] == [1, 1]
    evaluate({**wanted, "samples": str(tmp_path / "s.npz"), "samplesFilename": "s.npz", "output": str(tmp_path / "float.npz")}, tmp_path)
    if LIBRARY.exists():
        with np.load(tmp_path / "float.npz") as original:
            found = agreement((tmp_path / "out.tflite").read_bytes(), original)
        assert found["agreement"] >= 0.9 and found["cosine"] > 0.99, found


def test_labels_of_another_model(colours, pictures, preprocessing, tmp_path):
    folder = tmp_path / "labelled"
    folder.mkdir()
    (folder / "00.png").write_bytes((pictures / "00.png").read_bytes())
    (folder / "labels.csv").write_text("file,label\n00.png,3\n")
    error = failure(lambda: evaluate(request(colours, folder, preprocessing, tmp_path / "x.npz", "samples"), tmp_path))
    assert error.code == "samples.labels_mismatch" and error.detail["classes"] == 3


def test_samples_of_another_size(colours, tmp_path):
    np.savez(tmp_path / "s.npz", images=np.zeros((30, 8, 8, 3), np.float32))
    assert failure(lambda: convert(request(colours, tmp_path / "s.npz", {"kind": "raw"}, tmp_path / "x"), tmp_path)).code == "calibration.shape_differs"


def test_a_frozen_graph_with_slashes_in_its_names(tmp_path):
    with tf.Graph().as_default() as graph:
        a = tf.compat.v1.placeholder(tf.float32, [None, 3], name="in/b")
        b = tf.compat.v1.placeholder(tf.float32, [None, 3], name="in/a")
        tf.identity(a * 2.0 + b, name="out/y")
        (tmp_path / "m.pb").write_bytes(graph.as_graph_def().SerializeToString())
    rng = np.random.default_rng(4)
    np.savez(tmp_path / "s.npz", **{"in/b": rng.uniform(-1, 1, (40, 3)).astype(np.float32), "in/a": rng.uniform(-5, 5, (40, 3)).astype(np.float32)})
    raw = {"kind": "raw"}
    convert(request(tmp_path / "m.pb", tmp_path / "s.npz", raw, tmp_path / "out.tflite"), tmp_path)
    evaluate(request(tmp_path / "m.pb", tmp_path / "s.npz", raw, tmp_path / "float.npz", "samples"), tmp_path)
    with np.load(tmp_path / "float.npz") as arrays:
        got = answers(tmp_path / "out.tflite", [arrays["input_0"][:1], arrays["input_1"][:1]])[0][0]
        assert np.abs(got - arrays["output_0"][:1]).max() < 0.3
