"""Recurrent Keras models. A loop over time steps becomes control flow that neither the Edge TPU nor the quantiser takes (TensorFlow
crashes in calibration); the same layers unrolled over a fixed number of steps become plain dense, add and multiply operators."""

from typing import Any, List, Sequence

from .events import refuse

#: Layers with the option `unroll`.
RECURRENT = {"LSTM", "GRU", "SimpleRNN", "RNN"}
#: Recurrent layers that Keras can only loop over.
LOOPS_ONLY = {"ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D"}
#: What loops are made of in a frozen graph.
LOOP_OPS = {"While", "StatelessWhile", "TensorListReserve", "TensorListFromTensor", "Enter", "LoopCond"}
#: Each step is a handful of operators: past this the graph takes longer to convert than anybody waits.
MOST_STEPS = 1_000


def is_recurrent(model: Any) -> bool:
    return bool(_classes(model.get_config()) & (RECURRENT | LOOPS_ONLY)) if hasattr(model, "get_config") else False


def unrolled(model: Any, shapes: Sequence[Sequence[int]]) -> Any:
    """The same model with the same weights for inputs of exactly these shapes, batch 1 and without loops. Raises ConvertError `source.recurrent_layer`."""
    import tensorflow as tf

    loops = sorted(_classes(model.get_config()) & LOOPS_ONLY)
    if loops:
        refuse("source.recurrent_layer", f"The model holds {', '.join(loops)}, which Keras cannot unroll, and loops cannot be quantised. Replace it by convolutions over the stacked frames, or by TimeDistributed convolutions and an LSTM.", layers=loops)
    longest = max((shape[1] for shape in shapes if len(shape) > 2), default=0)
    if longest > MOST_STEPS:
        refuse("source.recurrent_layer", f"The model's recurrent layers run over {longest} steps; at most {MOST_STEPS} can be unrolled. Give shorter windows with --input-shape, or export the model for them.")
    inputs = [tf.keras.Input(batch_shape=tuple(shape), dtype=tensor.dtype, name=_plain(tensor.name)) for shape, tensor in zip(shapes, model.inputs)]
    try:
        clone = tf.keras.models.clone_model(model, input_tensors=inputs if len(inputs) > 1 else inputs[0], clone_function=_unrolled_layer)
        clone.set_weights(model.get_weights())
        _part_gates(clone)
        return clone
    except Exception as error:  # Keras raises many types
        refuse("source.recurrent_layer", f"The model's recurrent layers cannot be unrolled: {' '.join(str(error).split())[:400]}")


def refuse_loops(graph: Any) -> None:
    """Raises ConvertError `source.loop`."""
    found = sorted({node.op for where in (graph.node, *(function.node_def for function in graph.library.function)) for node in where} & LOOP_OPS)
    if found:
        refuse(
            "source.loop",
            f"The model loops while it runs ({', '.join(found)}), as recurrent layers do in a SavedModel or frozen graph, and loops cannot be quantised. Push the Keras file (.keras or .h5) instead: its "
            "recurrent layers are unrolled; or export the model with unroll=True.",
            operators=found,
        )


def _unrolled_layer(layer: Any) -> Any:
    return layer.__class__.from_config(_set_unroll(layer.get_config(), layer.__class__.__name__))


def _set_unroll(node: Any, name: Any = None) -> Any:
    """A layer's description with every recurrent layer in it unrolled, and starting afresh on each call."""
    if isinstance(node, list):
        return [_set_unroll(one) for one in node]
    if not isinstance(node, dict):
        return node
    inner = node.get("class_name")
    changed = {key: _set_unroll(value, inner if key == "config" else None) for key, value in node.items()}
    return {**changed, "unroll": True, "stateful": False} if name in RECURRENT else changed


def _part_gates(model: Any) -> None:
    """Each gate by itself, not one product that is split: the first step leaves a part of that split unused, which the quantiser then leaves in
    float; and each gate gets a weight scale of its own. Set on the layers, since Keras 3 does not take it from their description."""
    for layer in model._flatten_layers():
        cell = getattr(layer, "cell", None)
        for one in (cell, *getattr(cell, "cells", [])):
            if hasattr(one, "implementation"):
                one.implementation = 1
        if hasattr(layer, "use_cudnn"):
            layer.use_cudnn = False


def _classes(node: Any) -> set:
    if isinstance(node, list):
        return set().union(*map(_classes, node))
    if not isinstance(node, dict):
        return set()
    names: List[Any] = [node.get("class_name")] if isinstance(node.get("class_name"), str) else []
    return set(names).union(*map(_classes, node.values()))


def _plain(name: str) -> str:
    return name.split(":")[0]
