"""A softmax layer on embeddings: Adam, classes weighted alike, stopped when the validation loss no longer falls."""

from typing import Callable, Dict, List, NamedTuple

import numpy as np

RATE, DECAY = 1e-2, 1e-3
BATCH = 32
#: Epochs without a loss lower by this share of it.
PATIENCE, LEAST = 10, 5e-3


class Trained(NamedTuple):
    kernel: np.ndarray  # [features, classes], on embeddings as they are
    bias: np.ndarray
    epochs: List[Dict[str, float]]
    best: int
    why: str


def train(features, truth, weighed, checked, checked_truth, epochs: int, seed: int, told: Callable[[Dict[str, float]], None]) -> Trained:
    """`truth` are class numbers, `weighed` one weight per class. Best = lowest loss on `checked`."""
    mean = features.mean(axis=0)
    # One scale for all. Each feature by its own would give those that hardly change huge weights; int8 has one step size for all weights,
    # which would then leave nothing of the others.
    spread = max(float((features - mean).std()), 1e-6)
    x, y = (features - mean) / spread, (checked - mean) / spread
    classes = len(weighed)
    rng = np.random.default_rng(seed)
    kernel, bias = np.zeros((x.shape[1], classes)), np.zeros(classes)
    moments = [np.zeros_like(kernel), np.zeros_like(kernel), np.zeros_like(bias), np.zeros_like(bias)]
    target = np.eye(classes)[truth]
    sample_weights = np.asarray(weighed)[truth]
    history: List[Dict[str, float]] = []
    best = (np.inf, 0, kernel, bias)
    step = 0
    why = "all epochs were used"
    for epoch in range(1, epochs + 1):
        order = rng.permutation(len(x))
        for start in range(0, len(x), BATCH):
            chosen = order[start : start + BATCH]
            wrong = (softmax(x[chosen] @ kernel + bias) - target[chosen]) * sample_weights[chosen, None] / len(chosen)
            step += 1
            kernel = kernel - RATE * (_adam(moments, 0, x[chosen].T @ wrong, step) + DECAY * kernel)
            bias = bias - RATE * _adam(moments, 2, wrong.sum(axis=0), step)
        loss, accuracy = score(x, truth, kernel, bias)
        checked_loss, checked_accuracy = score(y, checked_truth, kernel, bias)
        history.append({"epoch": epoch, "loss": loss, "accuracy": accuracy, "validationLoss": checked_loss, "validationAccuracy": checked_accuracy})
        told(history[-1])
        if checked_loss < best[0] * (1 - LEAST):
            best = (checked_loss, epoch, kernel, bias)
        elif epoch - best[1] >= PATIENCE:
            why = f"the validation loss has not fallen for {PATIENCE} epochs"
            break
    _, at, kernel, bias = best
    folded = kernel / spread
    return Trained(folded.astype(np.float32), (bias - mean @ folded).astype(np.float32), history, at, why)


def _adam(moments, at: int, gradient, step: int):
    moments[at] = 0.9 * moments[at] + 0.1 * gradient
    moments[at + 1] = 0.999 * moments[at + 1] + 0.001 * gradient**2
    return (moments[at] / (1 - 0.9**step)) / (np.sqrt(moments[at + 1] / (1 - 0.999**step)) + 1e-8)


def softmax(logits):
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    return raised / raised.sum(axis=1, keepdims=True)


def score(x, truth, kernel, bias):
    scores = softmax(x @ kernel + bias)
    return round(float(-np.log(np.maximum(scores[np.arange(len(truth)), truth], 1e-12)).mean()), 5), round(float((scores.argmax(axis=1) == truth).mean()), 5)
