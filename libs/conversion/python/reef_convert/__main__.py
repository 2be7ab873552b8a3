"""`python -m reef_convert {inspect-source,convert,evaluate,from-onnx} --request request.json`.

Events go to standard output, one JSON object a line; the last is `result` or `error`. Exit status 0 only after `result`.
"""

import argparse
import ctypes
import os
import resource
import signal
import sys
from pathlib import Path

from . import __version__, events


#: For the lineage: whether a model file could have reached the network.
_network = "reachable"


def contain() -> None:
    """Model files come from strangers. We end with our parent, leave no core dump, and have no network where the system lets us say so."""
    global _network
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None, use_errno=True)
    # Named by the parent itself: it may have died before this line.
    parent = int(os.environ.get("REEF_PARENT") or os.getppid())
    libc.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)
    if shut_network(libc):
        _network = "none"
    else:
        events.log("the network stays reachable for this child: the system allows neither network nor user namespaces to this worker", "debug")


def shut_network(libc) -> bool:
    """An empty network namespace: for root at once, for others inside a user namespace of their own, where the system has those."""
    user, network = 0x10000000, 0x40000000  # CLONE_NEWUSER, CLONE_NEWNET
    if libc.unshare(network) == 0:
        return True
    uid, gid = os.getuid(), os.getgid()
    if libc.unshare(user | network) != 0:
        return False
    try:
        # Who we are stays as it was; without this we would be nobody to ourselves.
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
        Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
    except OSError:
        pass
    return True


def main() -> int:
    parser = argparse.ArgumentParser(prog="reef_convert")
    parser.add_argument("command", choices=["inspect-source", "convert", "evaluate", "from-onnx"])
    parser.add_argument("--request", required=True, type=Path)
    args = parser.parse_args()
    events.open_channel()
    contain()
    return events.answer(args.request, COMMANDS[args.command], "give it more, or a smaller model.")


def inspect_source(request: dict, scratch: Path) -> dict:
    from .sources import open_source

    source = open_source(request, scratch)
    source.static_shapes(request.get("inputShape"))
    return {
        "kind": source.kind, "description": source.description, "signature": source.signature,
        "inputs": [vars(one) for one in source.inputs], "outputs": [vars(one) for one in source.outputs], "tools": tools(),
    }


def convert(request: dict, scratch: Path) -> dict:
    from . import quantise
    from .sources import open_source

    events.progress("load", 0, "loading TensorFlow")
    source = open_source(request, scratch)
    shapes = source.static_shapes(request.get("inputShape"))
    samples = samples_of(request, "calibration", "calibrationFilename", source, shapes, scratch, 500)
    warnings = quantise.convert(source, shapes, samples, Path(request["output"]), request.get("ioType") or "int8", bool(request.get("allowFloatOps")))
    return {"output": request["output"], "calibrationSamples": samples.count, "warnings": warnings, "tools": tools()}


def evaluate(request: dict, scratch: Path) -> dict:
    from . import quantise
    from .sources import open_source

    events.progress("load", 0, "loading TensorFlow")
    source = open_source(request, scratch)
    shapes = source.static_shapes(request.get("inputShape"))
    samples = samples_of(request, "samples", "samplesFilename", source, shapes, scratch, request.get("limit"))
    quantise.evaluate(source, shapes, samples, Path(request["output"]))
    return {"output": request["output"], "samples": samples.count, "labels": samples.labels, "names": samples.names, "tools": tools()}


def samples_of(request: dict, key: str, filename: str, source, shapes, scratch: Path, limit):
    from .samples import open_samples

    path = Path(request[key])
    return open_samples(path, request.get(filename) or path.name, request["preprocessing"], shapes, [one.name for one in source.inputs], scratch, limit, key)


def tools() -> dict:
    versions = {"reef-convert": __version__, "python": ".".join(map(str, sys.version_info[:3])), "network": _network}
    for name in ("tensorflow", "keras", "tf_keras", "onnx", "onnxruntime", "onnx2tf"):
        version = getattr(sys.modules.get(name), "__version__", None)
        if version:
            versions[name] = version
    return versions


def from_onnx(request: dict, scratch: Path) -> dict:
    from . import onnx_source

    error = onnx_source.convert(Path(request["source"]), request.get("filename") or "model.onnx", request.get("inputShape"), Path(request["output"]), scratch)
    return {"output": request["output"], "maxError": error, "tools": tools()}


COMMANDS = {"inspect-source": inspect_source, "convert": convert, "evaluate": evaluate, "from-onnx": from_onnx}

if __name__ == "__main__":
    status = main()
    sys.stderr.flush()
    # TensorFlow's threads and graphs take seconds to take apart, which the end of the process does at once.
    os._exit(status)
