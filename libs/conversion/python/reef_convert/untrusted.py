"""Model files come from strangers. What in them is code, or reaches for files, is refused before anything is loaded."""

import json
import zipfile
from pathlib import Path
from typing import Any, Iterable

from .events import refuse

#: Operators that read or write any file they like, or call back into Python. A model needs none of them to answer.
FILE_OPERATORS = {"ReadFile", "WriteFile", "MatchingFiles", "PyFunc", "PyFuncStateless", "EagerPyFunc", "LoadLibrary", "WholeFileReader", "WholeFileReaderV2", "FixedLengthRecordReaderV2", "TextLineReaderV2", "TFRecordReaderV2"}


def refuse_file_operators(graphs: Iterable[Any]) -> None:
    """Of TensorFlow graphs with their functions. Raises ConvertError `source.holds_code`."""
    found = sorted({node.op for graph in graphs for nodes in (graph.node, *(function.node_def for function in graph.library.function)) for node in nodes} & FILE_OPERATORS)
    if found:
        refuse("source.holds_code", f"The graph reads or writes files, or calls Python ({', '.join(found)}), which is not run here. Export the model without it.", operators=found)


def refuse_keras_code(path: Path, suffix: str) -> None:
    """Lambda layers are Python bytecode. Safe mode does not cover the older of the two formats, so the description is read first."""
    if suffix == ".h5":
        import h5py

        with h5py.File(path, "r") as file:
            config = file.attrs.get("model_config", b"")
        text = config.decode(errors="replace") if isinstance(config, bytes) else str(config)
    else:
        with zipfile.ZipFile(path) as archive:
            text = archive.read("config.json").decode(errors="replace")

    def holds_lambda(node: Any) -> bool:
        if isinstance(node, dict):
            return node.get("class_name") in ("Lambda", "__lambda__") or any(map(holds_lambda, node.values()))
        return isinstance(node, list) and any(map(holds_lambda, node))

    try:
        found = holds_lambda(json.loads(text))
    except ValueError:
        refuse("source.not_a_model", "The Keras file's description of its layers is damaged.")
    if found:
        refuse("source.holds_code", "The Keras file holds Python code (a Lambda layer), which is not run here. Replace the layer by one of Keras's own, or export a SavedModel.")
