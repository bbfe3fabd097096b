"""Other libraries that compute the same, each as a user of it would call it.

A peer is made inside a process of its own, see `worker`. Its factory takes a number of threads and
returns a function that prepares a call: it takes a task and the arrays, and returns two functions,
one that computes the losses (or loss and gradient) into memory of its own, and one that returns
the sum of the losses from what the first one returns.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Callable
from typing import Any, NamedTuple

import numba
import numpy as np

from numba_xent._bench.calls import our_call
from numba_xent._bench.cases import Task
from numba_xent._bench.operands import Array, Operands

Prepared = tuple[Callable[[], Any], Callable[[Any], float]]
Prepare = Callable[[Task, Operands], Prepared]


class UnsupportedError(Exception):
    """A peer has no function for a task; the message says what it lacks."""


class Peer(NamedTuple):
    """A library to compare with.

    Attributes
    ----------
    name
        Short enough to stand above a column.
    title
        What is called.
    needs
        The modules it is made of.
    factory
        Where its factory is: ``module:function``.
    """

    name: str
    title: str
    needs: tuple[str, ...]
    factory: str

    @property
    def missing(self) -> list[str]:
        """The modules that are not installed."""
        return [name for name in self.needs if importlib.util.find_spec(name) is None]


OURSELVES = Peer("ours", "numba_xent", (), f"{__name__}:ourselves")
PEERS = (
    Peer("TF", "TensorFlow", ("tensorflow",), f"{__name__}:tensorflow"),
    Peer("XLA", "TensorFlow with XLA", ("tensorflow",), f"{__name__}:tensorflow_xla"),
    Peer("torch", "PyTorch", ("torch",), f"{__name__}:torch"),
    Peer("compile", "PyTorch, torch.compile", ("torch",), f"{__name__}:torch_compile"),
    Peer("JAX", "JAX and Optax", ("jax", "optax"), f"{__name__}:jax"),
    Peer("sklearn", "scikit-learn, HalfMultinomialLoss", ("sklearn",), f"{__name__}:sklearn"),
    Peer("SciPy", "SciPy and NumPy", ("scipy",), f"{__name__}:scipy"),
)


def ourselves(threads: int) -> Prepare:
    """Our own library, every gradient in memory of its own."""
    numba.set_num_threads(threads)

    def prepare(task: Task, operands: Operands) -> Prepared:
        call = our_call(task, operands, fresh=True)
        return call, lambda result: _sum(result[0] if task.gradient else result)

    return prepare


def _sum(losses: Any) -> float:
    return float(np.asarray(losses).sum(dtype=np.float64))


# ---- TensorFlow ------------------------------------------------------------------------------


def tensorflow(threads: int, *, xla: bool = False) -> Prepare:
    """A ``tf.function`` around ``tf.nn``."""
    tf = importlib.import_module("tensorflow")
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)

    def prepare(task: Task, operands: Operands) -> Prepared:
        axis = task.case.axis
        last = axis == len(task.case.shape) - 1

        def loss(labels: Any, logits: Any) -> Any:
            if task.labels == "dense":
                return tf.nn.softmax_cross_entropy_with_logits(labels, logits, axis=axis)
            if not last:
                order = [i for i in range(len(task.case.shape)) if i != axis]
                logits = tf.transpose(logits, [*order, axis])
            return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)

        def loss_and_gradient(labels: Any, logits: Any) -> Any:
            with tf.GradientTape() as tape:
                tape.watch(logits)
                losses = loss(labels, logits)
            return losses, tape.gradient(losses, logits)

        function = tf.function(loss_and_gradient if task.gradient else loss, jit_compile=xla)
        labels = tf.constant(operands.labels(task.labels))
        logits = tf.constant(operands.logits)
        call = functools.partial(function, labels, logits)
        return call, lambda result: _sum(result[0] if task.gradient else result)

    return prepare


def tensorflow_xla(threads: int) -> Prepare:
    """The same, compiled by XLA."""
    return tensorflow(threads, xla=True)


# ---- PyTorch ---------------------------------------------------------------------------------


def torch(threads: int, *, compiled: bool = False) -> Prepare:
    """``torch.nn.functional.cross_entropy``, and its sum's ``backward``."""
    pytorch = importlib.import_module("torch")
    pytorch.set_num_threads(threads)
    cross_entropy = importlib.import_module("torch.nn.functional").cross_entropy

    def prepare(task: Task, operands: Operands) -> Prepared:
        logits = pytorch.from_numpy(operands.logits)
        labels = pytorch.from_numpy(operands.labels(task.labels))
        # PyTorch's classes are the second axis: a view, nothing moves in memory.
        x = logits.movedim(task.case.axis, 1).detach().requires_grad_(task.gradient)
        y = labels.movedim(task.case.axis, 1) if task.labels == "dense" else labels

        def losses() -> Any:
            return cross_entropy(x, y, reduction="none")

        def total() -> Any:
            return cross_entropy(x, y, reduction="sum")

        function = total if task.gradient else losses
        if compiled:
            pytorch.compiler.reset()
            function = pytorch.compile(function, dynamic=False)

        def value() -> Any:
            with pytorch.no_grad():
                return function()

        def value_and_gradient() -> Any:
            x.grad = None
            loss = function()
            loss.backward()
            return loss.detach()

        return (value_and_gradient if task.gradient else value), _sum

    return prepare


def torch_compile(threads: int) -> Prepare:
    """The same, the loss compiled by ``torch.compile``."""
    return torch(threads, compiled=True)


# ---- JAX -------------------------------------------------------------------------------------


def jax(_threads: int) -> Prepare:
    """Optax's functions under ``jax.jit``; XLA takes its threads from the process's processors."""
    jax_ = importlib.import_module("jax")
    optax = importlib.import_module("optax")

    def prepare(task: Task, operands: Operands) -> Prepared:
        labels = operands.labels(task.labels)
        if task.labels == "dense":
            function = functools.partial(optax.softmax_cross_entropy, axis=task.case.axis)
        else:
            labels = labels.astype(np.int32)
            function = functools.partial(
                optax.softmax_cross_entropy_with_integer_labels, axis=task.case.axis
            )
        if task.gradient:
            compiled = jax_.jit(jax_.value_and_grad(lambda x, y: function(x, y).sum()))
        else:
            compiled = jax_.jit(function)
        x, y = jax_.device_put(operands.logits), jax_.device_put(labels)

        def call() -> Any:
            return jax_.block_until_ready(compiled(x, y))

        return call, lambda result: _sum(result[0] if task.gradient else result)

    return prepare


# ---- scikit-learn and SciPy ------------------------------------------------------------------


def sklearn(threads: int) -> Prepare:
    """The loss of scikit-learn's gradient boosting and logistic regression."""
    loss_of = importlib.import_module("sklearn._loss.loss").HalfMultinomialLoss

    def prepare(task: Task, operands: Operands) -> Prepared:
        if task.labels == "dense":
            raise UnsupportedError("takes class indices only")
        if task.case.axis != 1 or len(task.case.shape) != 2:  # noqa: PLR2004 - rows and columns
            raise UnsupportedError("takes arrays of [examples, classes] only")
        model = loss_of(n_classes=task.case.classes)
        function = model.loss_gradient if task.gradient else model.loss
        call = functools.partial(
            function,
            y_true=operands.sparse.astype(operands.dtype),
            raw_prediction=operands.logits,
            n_threads=threads,
        )
        return call, lambda result: _sum(result[0] if task.gradient else result)

    return prepare


def scipy(_threads: int) -> Prepare:
    """``scipy.special`` and NumPy; these run on one thread."""
    special = importlib.import_module("scipy.special")

    def prepare(task: Task, operands: Operands) -> Prepared:
        axis, logits = task.case.axis, operands.logits

        def dense() -> Array:
            losses: Array = -(operands.dense * special.log_softmax(logits, axis=axis)).sum(axis)
            return losses

        def sparse() -> Array:
            labels = np.expand_dims(operands.sparse, axis)
            chosen = np.take_along_axis(logits, labels, axis).squeeze(axis)
            losses: Array = special.logsumexp(logits, axis=axis) - chosen
            return losses

        def gradient() -> Array:
            probabilities: Array = special.softmax(logits, axis=axis)
            if task.labels == "dense":
                probabilities -= operands.dense
                return probabilities
            labels = np.expand_dims(operands.sparse, axis)
            chosen = np.take_along_axis(probabilities, labels, axis) - 1
            np.put_along_axis(probabilities, labels, chosen, axis)
            return probabilities

        value = dense if task.labels == "dense" else sparse
        if task.gradient:
            return lambda: (value(), gradient()), lambda result: _sum(result[0])
        return value, _sum

    return prepare
