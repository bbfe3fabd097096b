"""The public functions on a real GPU, where there is one: ``pytest -m gpu``."""

import numpy as np
import pytest
from strategies import DTYPES

import numba_xent as xent
from numba_xent._dispatch import why_no_cuda

V2 = xent.nn.softmax_cross_entropy_with_logits_v2
SPARSE = xent.nn.sparse_softmax_cross_entropy_with_logits
TOLERANCE = {"float64": 1e-13, "float32": 2e-6, "float16": 2e-3, "bfloat16": 2e-2}

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(bool(why_no_cuda()), reason=f"no GPU: {why_no_cuda()}"),
]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("shape", "axis"),
    [((9, 1), 1), ((9, 57), 1), ((9, 1000), 1), ((4, 5000), 1), ((2, 50_257), 1), ((2, 21, 70), 1)],
)
def test_as_on_the_cpu(dtype, shape, axis):
    """Values and gradients of both kinds of labels, and a reduction."""
    from numba import cuda  # noqa: PLC0415

    def close(found, wanted):
        for got, want in zip(found, wanted, strict=True):
            np.testing.assert_allclose(
                got.copy_to_host().astype(np.float64),
                np.asarray(want).astype(np.float64),
                rtol=TOLERANCE[dtype.name],
                atol=TOLERANCE[dtype.name],
            )

    rng = np.random.default_rng(0)
    logits = rng.normal(size=shape).astype(dtype)
    labels = rng.random(shape).astype(dtype)
    x, y = cuda.to_device(logits), cuda.to_device(labels)
    close(
        xent.value_and_grad(V2)(y, x, axis=axis), xent.value_and_grad(V2)(labels, logits, axis=axis)
    )
    if axis == len(shape) - 1:
        classes = rng.integers(0, shape[-1], shape[:-1])
        c = cuda.to_device(classes)
        close(
            xent.value_and_grad(SPARSE)(labels=c, logits=x),
            xent.value_and_grad(SPARSE)(labels=classes, logits=logits),
        )
        loss = xent.losses.sparse_softmax_cross_entropy
        close(xent.value_and_grad(loss)(c, x), xent.value_and_grad(loss)(classes, logits))
