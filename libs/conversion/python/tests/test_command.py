import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from conftest import PACKAGE, run_command

# Made with Keras 2, which has to be chosen before TensorFlow is loaded: in a process of its own.
KERAS_2 = """
import os, sys
os.environ["TF_USE_LEGACY_KERAS"] = "1"
import tensorflow as tf
layers = [tf.keras.layers.Dense(8, activation="relu", input_shape=(4,)), tf.keras.layers.Dense(3, activation="softmax")]
if "lambda" in sys.argv: layers.insert(1, tf.keras.layers.Lambda(lambda x: x * 2))
tf.keras.Sequential(layers).save(sys.argv[1])
"""


def keras_2(path, *options):
    subprocess.run([sys.executable, "-c", KERAS_2, str(path), *options], check=True, capture_output=True)
    return path


@pytest.fixture(scope="module")
def vectors(tmp_path_factory):
    path = tmp_path_factory.mktemp("vectors") / "s.npz"
    np.savez(path, x=np.random.default_rng(0).uniform(-1, 1, (40, 4)).astype(np.float32))
    return path


def test_progress_goes_by_phases_and_ends_in_a_result(colours, pictures, preprocessing, tmp_path):
    run = run_command("convert", {"source": str(colours), "filename": "model", "calibration": str(pictures), "calibrationFilename": "p", "preprocessing": preprocessing, "output": str(tmp_path / "out.tflite")}, tmp_path)
    assert run["status"] == 0 and run["last"]["event"] == "result", run["stderr"]
    steps = [event for event in run["events"] if event["event"] == "progress"]
    phases = list(dict.fromkeys(step["phase"] for step in steps))
    assert phases == ["load", "trace", "convert", "calibrate", "quantise", "check", "write"]
    percents = [step["percent"] for step in steps if step["percent"] is not None]
    assert percents == sorted(percents) and percents[-1] > 90
    assert any(step["message"] == "calibrating, sample 30 of 30" for step in steps)
    assert run["last"]["tools"]["tensorflow"].startswith("2.") and run["last"]["tools"]["network"] in ("none", "reachable")


def test_a_keras_2_file_is_read_by_keras_2(vectors, tmp_path):
    path = keras_2(tmp_path / "m.h5")
    about = {"source": str(path), "filename": path.name, "preprocessing": {"kind": "raw"}}
    run = run_command("convert", {**about, "calibration": str(vectors), "calibrationFilename": "s.npz", "output": str(tmp_path / "out.tflite")}, tmp_path)
    assert run["status"] == 0, run["last"]
    assert "tf_keras" in run["last"]["tools"] and (tmp_path / "out.tflite").read_bytes()[4:8] == b"TFL3"


def test_a_file_as_keras_2_2_wrote_it_is_read(vectors, tmp_path):
    """Functional models were called Model then, initialisers had no module, and the version had TensorFlow in it."""
    import json

    import h5py

    make = KERAS_2.replace("tf.keras.Sequential(layers).save(sys.argv[1])", "x = tf.keras.Input((4,)); y = tf.keras.layers.Dense(3, activation='softmax')(x); tf.keras.Model(x, y).save(sys.argv[1])")
    path = tmp_path / "m.h5"
    subprocess.run([sys.executable, "-c", make, str(path)], check=True, capture_output=True)
    with h5py.File(path, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        config["class_name"] = "Model"
        for layer in config["config"]["layers"]:
            for initialiser in (layer["config"].get("kernel_initializer"), layer["config"].get("bias_initializer")):
                for key in ("module", "registered_name"):
                    (initialiser or {}).pop(key, None)
        file.attrs["model_config"] = json.dumps(config).encode()
        file.attrs["keras_version"] = b"2.2.4-tf"
    run = run_command("inspect-source", {"source": str(path), "filename": path.name}, tmp_path)
    assert run["status"] == 0, run["last"]
    assert run["last"]["kind"] == "keras" and run["last"]["inputs"][0]["shape"] == [None, 4] and "tf_keras" in run["last"]["tools"]


def test_code_in_a_keras_2_file_is_never_run(tmp_path):
    path = keras_2(tmp_path / "m.h5", "lambda")
    run = run_command("inspect-source", {"source": str(path), "filename": "m.h5"}, tmp_path)
    assert run["status"] == 1 and run["last"]["code"] == "source.holds_code"


def test_an_error_is_an_event(tmp_path):
    (tmp_path / "a.h5").write_bytes(b"hello")
    run = run_command("inspect-source", {"source": str(tmp_path / "a.h5"), "filename": "a.h5"}, tmp_path)
    assert run["status"] == 1
    assert {key: run["last"][key] for key in ("event", "code", "kind")} == {"event": "error", "code": "source.not_a_model", "kind": "invalid"}
    assert not [one for one in tmp_path.iterdir() if one.name.startswith("reef-")], "its scratch folder is gone"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="PR_SET_PDEATHSIG is Linux's")
def test_it_ends_with_its_parent(tmp_path):
    code = "import os, time; from reef_convert.__main__ import contain; from reef_convert import events; contain(); print(os.getpid(), flush=True); time.sleep(60)"
    parent = subprocess.Popen([sys.executable, "-c", f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {code!r}]); time.sleep(60)"], stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(PACKAGE)})
    lines = iter(parent.stdout)
    child = next(int(line) for line in lines if line.strip().isdigit())
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    for _ in range(100):
        try:
            os.kill(child, 0)
        except ProcessLookupError:
            return
        with open(f"/proc/{child}/stat") as stat:
            if stat.read().rsplit(")", 1)[1].split()[0] == "Z":  # nobody has waited for it yet
                return
        time.sleep(0.1)
    os.kill(child, signal.SIGKILL)
    pytest.fail("the child outlived its parent")


NETWORK = """
import ctypes, errno, os, socket
from reef_convert.__main__ import shut_network
libc = ctypes.CDLL(None, use_errno=True)
if os.getuid() == 0 and "{who}" == "nobody":
    os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
    libc.prctl(4, 1)  # PR_SET_DUMPABLE: /proc/self is ours again
before = os.getuid()
server = socket.socket(); server.bind(("127.0.0.1", 0)); server.listen()
if not shut_network(libc):
    print("not allowed")
    raise SystemExit
assert os.getuid() == before
try:
    client = socket.socket(); client.settimeout(2)
    client.connect(server.getsockname())
    print("reached")
except OSError as error:
    print(errno.errorcode.get(error.errno, error))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="namespaces are Linux's")
@pytest.mark.parametrize("who", ["we", "nobody"])
def test_a_model_file_reaches_no_network(who):
    done = subprocess.run([sys.executable, "-c", NETWORK.format(who=who)], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(PACKAGE)}, check=False)
    if done.stdout.strip() == "not allowed":
        pytest.skip("this system allows neither network nor user namespaces here")
    assert done.stdout.strip() in ("ENETUNREACH", "EADDRNOTAVAIL"), done.stdout + done.stderr
