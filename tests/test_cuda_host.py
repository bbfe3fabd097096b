"""The host's part of the CUDA half, run to the end under a stand-in for the driver.

Arrays, streams, checks and launches are the library's and those of Numba and ``cuda.core``; only
``libcuda`` is a stub, which executes launches with the PTX interpreter.
"""

import subprocess
import sys
import textwrap

import pytest
from calls import Cuda
from stub import session

import numba_xent as xent

START = """
import contextlib
import numpy as np, ml_dtypes, pytest
import numba_xent as xent
from numba import cuda
from stub import foreign, session

V1 = xent.nn.softmax_cross_entropy_with_logits
V2 = xent.nn.softmax_cross_entropy_with_logits_v2
SPARSE = xent.nn.sparse_softmax_cross_entropy_with_logits
WEIGHTED = xent.losses.compute_weighted_loss
LOSS, SPARSE_LOSS = xent.losses.softmax_cross_entropy, xent.losses.sparse_softmax_cross_entropy
rng = np.random.default_rng(0)
logits = rng.normal(size=(4, 10)).astype(np.float32)
labels = rng.dirichlet(np.ones(10), 4).astype(np.float32)
classes = rng.integers(0, 10, 4)
weights = np.array([1, 0, 2, 0.5], np.float32)
def dev(a):
    a = np.array(a, order="C")
    return foreign.Exchanged(a) if a.dtype.name == "bfloat16" else cuda.to_device(a)
x, y, c, w = dev(logits), dev(labels), dev(classes), dev(weights)

def close(got, want, **tolerance):
    for a, b in zip(got, want, strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape, (a.dtype, b.dtype, a.shape, b.shape)
        a = a.copy_to_host().astype(np.float64)
        np.testing.assert_allclose(a, b.astype(np.float64), **({"rtol": 1e-6, "atol": 3e-7} | tolerance))

def refused(kind, match, f, *args, **kwargs):
    before = len(session.launches)
    with pytest.raises(kind, match=match):
        f(*args, **kwargs)
    assert len(session.launches) == before
"""


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    """Runs code in a process that has the stub for a driver."""
    pytest.importorskip("numba_cuda", reason="the CUDA half needs numba-cuda")
    reason = session.why_not()
    if reason:
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("driver")
    session.build(folder)

    def run(code, devices=1):
        done = session.run(folder, START + textwrap.dedent(code), devices=devices)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    return run


def test_every_function(driver):
    """Values and gradients are those of the CPU, for each function and reduction."""
    driver("""
    for f, host, gpu in [
        (V1, dict(labels=labels, logits=logits), dict(labels=y, logits=x)),
        (V2, dict(labels=labels, logits=logits), dict(labels=y, logits=x)),
        (SPARSE, dict(labels=classes, logits=logits), dict(labels=c, logits=x)),
    ]:
        close([f(**gpu)], [f(**host)])
        close(xent.value_and_grad(f)(**gpu), xent.value_and_grad(f)(**host))
    value, (dx, dy) = xent.value_and_grad(V2, ("logits", "labels"))(y, x)
    want, (wx, wy) = xent.value_and_grad(V2, ("logits", "labels"))(labels, logits)
    close([value, dx, dy], [want, wx, wy])
    for reduction in xent.losses.Reduction.all():
        for weight in (1.0, 0.25, weights, np.zeros(4, np.float32)):
            gpu_weight = dev(weight) if np.ndim(weight) else weight
            for f, host, gpu in ((LOSS, labels, y), (SPARSE_LOSS, classes, c)):
                a = f(gpu, x, gpu_weight, reduction=reduction)
                b = f(host, logits, weight, reduction=reduction)
                close([a], [np.asarray(b)])
                a = xent.value_and_grad(f)(gpu, x, gpu_weight, reduction=reduction)
                b = xent.value_and_grad(f)(host, logits, weight, reduction=reduction)
                close(a, [np.asarray(b[0]), b[1]])
    close([LOSS(y, x, label_smoothing=0.1)], [np.asarray(LOSS(labels, logits, label_smoothing=0.1))])
    """)


def test_upstream_and_outputs(driver):
    """`upstream` of each kind, and `out`, also in place."""
    driver("""
    up = rng.normal(size=4).astype(np.float32)
    close(xent.value_and_grad(V2)(y, x, upstream=dev(up)),
          xent.value_and_grad(V2)(labels, logits, upstream=up))
    for one in (2.0, dev(np.array(2, np.float32))):
        for weight in (w, 0.5):
            got = xent.value_and_grad(LOSS)(y, x, weight, upstream=one)
            host = weights if weight is w else weight
            want = xent.value_and_grad(LOSS)(labels, logits, host, upstream=2.0)
            close(got, [np.asarray(want[0]), want[1]])
    want = xent.value_and_grad(SPARSE)(labels=classes, logits=logits)
    out = cuda.device_array((4, 10), np.float32)
    value, gradient = xent.value_and_grad(SPARSE)(labels=c, logits=x, out=out)
    assert gradient is out
    close([value, gradient], want)
    again = dev(logits)
    session.launches.clear()
    assert xent.value_and_grad(SPARSE)(labels=c, logits=again, out=again)[1] is again
    close([again], want[1:])
    assert len(session.launches) == 1
    """)


def test_shapes(driver):
    """A class axis in the middle, views, broadcast labels, a vector, long rows, nothing at all."""
    driver("""
    z = rng.normal(size=(2, 7, 5)).astype(np.float32)
    l = rng.dirichlet(np.ones(7), (2, 5)).astype(np.float32).transpose(0, 2, 1).copy()
    close(xent.value_and_grad(V2)(dev(l), dev(z), axis=1), xent.value_and_grad(V2)(l, z, axis=1))
    close([V2(dev(l[:1, :, :1]), dev(z), 1)], [V2(l[:1, :, :1], z, 1)])
    close([V2(y[1:, 2:], x[1:, 2:])], [V2(labels[1:, 2:], logits[1:, 2:])])
    f = xent.value_and_grad(V2)
    close(f(y[1:, 1:], x[1:, 1:]), f(labels[1:, 1:], logits[1:, 1:]))
    close([V2(y[1:, 1:9], x[1:, 2:])], [V2(labels[1:, 1:9], logits[1:, 2:])])
    for turned in (z, np.asfortranarray(z)):
        got = f(dev(l), cuda.to_device(turned), axis=1)
        assert got[1].strides == turned.strides
        close(got, f(l, turned, axis=1))
    one = V2(y[0], x[0])
    assert one.shape == ()
    np.testing.assert_allclose(one.copy_to_host(), V2(labels[0], logits[0]), rtol=1e-6)
    long, at = rng.normal(size=(1, 20000)).astype(np.float32), np.array([77])
    close(xent.value_and_grad(SPARSE)(labels=dev(at), logits=dev(long)),
          xent.value_and_grad(SPARSE)(labels=at, logits=long))
    assert session.launches[-1]["cluster"] > 1
    none = np.zeros((0, 3), np.float32)
    assert V2(dev(none), dev(none)).shape == (0,)
    assert LOSS(dev(none), dev(none)).copy_to_host() == 0
    """)


def test_gradients_by_weights(driver):
    """Of every shape and dtype of weights, reduction and kind of upstream, as on the CPU."""
    driver("""
    f, g = (xent.value_and_grad(h, ("logits", "weights")) for h in (SPARSE_LOSS, LOSS))
    shape = (3, 5, 4)
    z = rng.normal(size=(*shape, 7)).astype(np.float32)
    at = rng.integers(0, 7, shape)
    l = rng.dirichlet(np.ones(7), shape).astype(np.float32)
    Z, A, L = dev(z), dev(at), dev(l)
    for of in ((), (3, 5, 4), (3, 1, 4), (1, 5, 1), (1, 1, 1)):
        factors = rng.normal(size=of).astype(np.float32)
        for reduction in set(xent.losses.Reduction.all()):
            up = rng.normal(size=shape if reduction == "none" else ()).astype(np.float32)
            a = f(A, Z, dev(factors), reduction=reduction, upstream=dev(up))
            b = f(at, z, factors, reduction=reduction, upstream=up)
            close([a[0], *a[1]], [np.asarray(b[0]), *map(np.asarray, b[1])], rtol=2e-5, atol=2e-6)
        if of == ():
            a, b = g(L, Z, 2.0), g(l, z, 2.0)
            close([a[0], *a[1]], [np.asarray(b[0]), *map(np.asarray, b[1])], rtol=2e-5)
    for dtype in (np.float64, np.float16, ml_dtypes.bfloat16, np.int32, bool):
        factors = np.arange(5).reshape(1, 5, 1).astype(dtype)
        value, (dx, dw) = f(A, Z, dev(factors))
        want, (wx, ww) = f(at, z, factors)
        close([value, dx], [np.asarray(want), wx])
        if ww is None:
            assert dw is None
        else:
            close([dw], [ww], rtol=1e-2, atol=1e-3)
    out = cuda.device_array((1, 5, 1), np.float32)
    some = dev(np.ones((1, 5, 1), np.float32))
    grad = xent.value_and_grad(SPARSE_LOSS, "weights")
    assert grad(A, Z, some, out=out)[1] is out
    close([out], [xent.value_and_grad(SPARSE_LOSS, "weights")(at, z, np.ones((1, 5, 1), np.float32))[1]])
    assert grad(A, Z, some, out=some)[1] is some
    close([some], [out.copy_to_host()])
    """)


def test_given_losses(driver):
    """`compute_weighted_loss`, of every dtype, and both of its gradients."""
    driver("""
    f = xent.value_and_grad(WEIGHTED, ("losses", "weights"))
    dtypes = (np.float32, np.float64, np.float16, ml_dtypes.bfloat16, np.int32, np.uint8, np.int64)
    kinds = (1.5, weights[:, None], weights[:1, None], rng.random((4, 3)))
    reductions = sorted(set(xent.losses.Reduction.all()))
    for i, dtype in enumerate(dtypes):
        a = (10 * rng.random((4, 3))).astype(dtype)
        loose = dict(rtol=1e-2) if a.dtype.itemsize == 2 else {}
        for factors in kinds if i == 0 else (kinds[i % 4],):
            for reduction in reductions if i == 0 else ("none", reductions[1 + i % 4]):
                given = dev(factors) if np.ndim(factors) else factors
                up = rng.normal(size=a.shape if reduction == "none" else ())
                got = f(dev(a), given, reduction=reduction, upstream=dev(up))
                want = f(a, factors, reduction=reduction, upstream=up)
                pairs = [(got[0], want[0]), *zip(got[1], want[1])]
                assert [p[0] is None for p in pairs] == [p[1] is None for p in pairs]
                pairs = [(g, np.asarray(w)) for g, w in pairs if g is not None]
                close([p[0] for p in pairs], [p[1] for p in pairs], **{"rtol": 1e-5, **loose})
    some = dev(weights)
    value, gradient = xent.value_and_grad(WEIGHTED, "losses")(some, out=some)
    assert gradient is some
    close([value, some], [np.asarray(x) for x in xent.value_and_grad(WEIGHTED, "losses")(weights)])
    assert WEIGHTED(dev(np.zeros((0, 3), np.float32))).copy_to_host() == 0
    assert WEIGHTED(dev(np.array(3.0))).copy_to_host() == 3
    many = rng.random(10_000).astype(np.float32)
    close([WEIGHTED(dev(many), reduction="weighted_mean")], [np.asarray(many.mean(dtype="f8"), "f4")])
    """)


def test_one_block_and_several(driver):
    """Sums that one block forms, alone or the first to a second kernel: the same in either case."""
    driver("""
    f = xent.value_and_grad(WEIGHTED, ("losses", "weights"))
    g = xent.value_and_grad(SPARSE_LOSS, ("logits", "weights"))
    for n in (200, 4096, 4097, 9000):
        many, up = rng.random(n).astype(np.float32), np.float32(1.5)
        factors = rng.integers(0, 3, n).astype(np.float32)
        z, at = rng.normal(size=(n, 2)).astype(np.float32), rng.integers(0, 2, n)
        for reduction in ("weighted_mean", "weighted_sum_by_nonzero_weights", "weighted_sum"):
            for given in (factors, np.float32(0.5)):
                kw = dict(reduction=reduction, upstream=up)
                on_gpu = dict(reduction=reduction, upstream=dev(up))
                got, want = f(dev(many), dev(given), **on_gpu), f(many, given, **kw)
                close([got[0], *got[1]], [np.asarray(a) for a in (want[0], *want[1])])
                if n < 9000:
                    got, want = g(dev(at), dev(z), dev(given), **on_gpu), g(at, z, given, **kw)
                    close([got[0], *got[1]], [np.asarray(a) for a in (want[0], *want[1])])
                session.launches.clear()
                WEIGHTED(dev(many), dev(given), reduction=reduction)
                names = [k["name"] for k in session.launches if "sum" in k["name"]]
                want = ["partial_sums_float32", "total_sum_float32"]
                assert names == want[:1 if n <= 4096 else 2], names
    """)


def test_broadcast_labels(driver):
    """The gradient by labels that are broadcast is a sum."""
    driver("""
    z = rng.normal(size=(3, 5, 70)).astype(np.float32)
    f = xent.value_and_grad(V2, ("logits", "labels"))
    for shape in ((1, 5, 70), (3, 1, 70), (1, 1, 70), (3, 5, 1), (1, 1, 1), (3, 1, 1)):
        for dtype in (np.float32, np.float16):
            l = rng.random(shape).astype(dtype)
            up = rng.normal(size=(3, 5)).astype(np.float32)
            got, want = f(dev(l), dev(z), upstream=dev(up)), f(l, z, upstream=up)
            loose = {"rtol": 1e-5, "atol": 2e-5} if dtype == np.float32 else {"rtol": 2e-3, "atol": 1e-2}
            close([got[0], *got[1]], [want[0], *want[1]], **loose)
    out = dev(l)
    assert f(out, dev(z), upstream=dev(up), out=(None, out))[1][1] is out
    close([out], [want[1][1]], rtol=2e-3, atol=1e-2)
    z = z.transpose(2, 0, 1).copy()
    l = rng.random((70, 1, 5)).astype(np.float32)
    got, want = f(dev(l), dev(z), axis=0), f(l, z, axis=0)
    close([got[0], *got[1]], [want[0], *want[1]], rtol=1e-5, atol=1e-5)
    none = np.zeros((0, 3), np.float32)
    assert (f(dev(l[:1, 0, :3].copy()), dev(none))[1][1].copy_to_host() == 0).all()
    """)


def test_other_operands(driver):
    """What kernels do not read in place is converted on the GPU, whatever its dtype and strides."""
    driver("""
    whole = (9 * rng.random((4, 10))).astype(int)
    for dtype in "?bBhHiIlLefdFD":
        l = whole.astype(dtype)
        close([V2(dev(l), x)], [V2(l, logits)], rtol=1e-5)
    f = xent.value_and_grad(V2, ("logits", "labels"))
    z = rng.normal(size=(4, 6, 8, 10)).astype(np.float32)
    l = rng.random((4, 6, 8, 10)).astype(np.float32)
    Z, L = dev(z), dev(l)
    cut = np.s_[::2, ::3, ::2]
    uneven, out = dev(np.zeros_like(z)), dev(np.zeros_like(z))
    wanted = f(l[cut], z[cut])
    got = f(L[cut], Z[cut], out=(uneven[cut], None))
    close([got[0], *got[1]], [wanted[0], *wanted[1]], rtol=1e-5)
    rest = uneven.copy_to_host()
    assert np.count_nonzero(rest) == np.count_nonzero(rest[cut])
    factors = rng.random((2, 1, 4)).astype(np.float64)
    a = xent.value_and_grad(LOSS)(L[cut], Z[cut], dev(factors), upstream=dev(np.array(2)))
    close(a, [np.asarray(b) for b in xent.value_and_grad(LOSS)(l[cut], z[cut], factors, upstream=2)])
    a = xent.value_and_grad(LOSS)(L[cut], Z[cut], dev(factors), reduction="none",
                                  upstream=dev(factors.repeat(2, 1)))
    close(a, xent.value_and_grad(LOSS)(l[cut], z[cut], factors, reduction="none",
                                       upstream=factors.repeat(2, 1)))
    long = dev(np.zeros((5, 10), np.float32))
    long[:4].copy_to_device(logits)
    g = xent.value_and_grad(SPARSE)
    want = g(labels=classes, logits=logits)
    close([g(labels=c, logits=long[:4], out=long[1:])[1]], want[1:])
    assert (long.copy_to_host()[0] == logits[0]).all()
    """)


def test_collections(driver):
    """Losses on the GPU are collected and added up there."""
    driver("""
    with xent.losses.collecting():
        a = LOSS(y, x)
        b = SPARSE_LOSS(c, x, w)
        xent.losses.add_loss(np.float32(0.5), "regularization_losses")
        assert [loss.value for loss in xent.losses.get_losses()] == [a, b]
        total = xent.losses.get_total_loss()
        with pytest.raises(TypeError, match="one dtype"):
            xent.losses.add_loss(dev(np.zeros((), np.float64)))
            xent.losses.get_total_loss()
    host = LOSS(labels, logits) + SPARSE_LOSS(classes, logits, weights) + np.float32(0.5)
    close([total], [np.asarray(host)])
    """)


def test_one_axis_more(driver):
    """Axes of length 1 that TensorFlow drops, and their gradients."""
    driver("""
    f = xent.value_and_grad(SPARSE_LOSS, ("logits", "weights"))
    z, wide = logits[..., None], weights[:, None]
    for host in ((classes, logits, wide), (classes[:, None], logits, wide)):
        got, want = f(*map(dev, host)), f(*host)
        close([got[0], *got[1]], [np.asarray(want[0]), *want[1]])
    out = dev(np.zeros_like(z))
    got, want = f(c[0:1].reshape(()), dev(z[0])), f(classes[0], z[0])
    close([got[0], *got[1]], [np.asarray(want[0]), *map(np.asarray, want[1])])
    """)


def test_arrays_of_other_libraries(driver):
    """DLPack first, so that bfloat16 is known for what it is; then the CUDA array interface."""
    driver("""
    for dtype in (np.float32, np.float16, ml_dtypes.bfloat16):
        a = logits.astype(dtype)
        got = xent.value_and_grad(SPARSE)(labels=foreign.Exchanged(classes), logits=foreign.Exchanged(a))
        want = xent.value_and_grad(SPARSE)(labels=classes, logits=a)
        close(got, want, rtol=1e-2, atol=5e-3)
    got = xent.value_and_grad(SPARSE)(labels=foreign.Interface(classes), logits=foreign.Interface(logits))
    close(got, xent.value_and_grad(SPARSE)(labels=classes, logits=logits))
    for kind in (foreign.OldExchanged, lambda a: foreign.Exchanged(a, version=1)):
        got = xent.value_and_grad(SPARSE)(labels=kind(classes), logits=kind(logits))
        close(got, xent.value_and_grad(SPARSE)(labels=classes, logits=logits))
    ones = np.ones((4, 10), bool)
    close([V2(foreign.Exchanged(ones), x)], [V2(ones, logits)])
    fixed = foreign.Exchanged(logits, version=1, readonly=True)
    close([SPARSE(labels=c, logits=fixed)], [SPARSE(labels=classes, logits=logits)])
    refused(ValueError, "out must be writeable, got a read-only array",
            xent.value_and_grad(SPARSE), labels=c, logits=x, out=fixed)
    refused(TypeError, "logits cannot be used as a CUDA array: Exchanged says BufferError",
            SPARSE, labels=c, logits=foreign.Exchanged(logits, readonly=True))
    """)


def test_tensors_of_pytorch(driver):
    """They are asked for what PyTorch allows: on its stream nobody waits, on others it does."""
    driver("""
    for own, chosen, asked, launched in [
        (0, None, -1, 1), (0, 0, -1, 1), (4096, None, -1, 4096), (4096, 4096, -1, 4096),
        (4096, 8192, 8192, 8192), (0, 4096, 4096, 4096), (4096, 0, 1, 1),
    ]:
        foreign.pretend_torch(own)
        tensor = foreign.Tensor(logits)
        session.launches.clear()
        with contextlib.nullcontext() if chosen is None else xent.cuda.stream(chosen):
            close([SPARSE(labels=c, logits=tensor)], [SPARSE(labels=classes, logits=logits)])
        assert tensor.asked == [asked], (own, chosen, tensor.asked)
        assert session.launches[-1]["stream"] == launched
    foreign.pretend_torch(0)
    half = logits.astype(ml_dtypes.bfloat16)
    close([SPARSE(labels=c, logits=foreign.Tensor(half))], [SPARSE(labels=classes, logits=half)],
          rtol=1e-2)
    refused(TypeError, "logits cannot be used as a CUDA array: Tensor says .*use tensor.detach",
            SPARSE, labels=c, logits=foreign.Tensor(logits, requires_grad=True))
    """)


def test_streams(driver):
    """Launches go to the stream that was named, else to the arrays' own; nobody waits."""
    driver("""
    class Stream:
        def __cuda_stream__(self):
            return 0, 4096
    SPARSE(labels=c, logits=x)
    before = session.synchronisations()
    SPARSE_LOSS(c, x, w)
    assert {k["stream"] for k in session.launches} == {1}
    for stream in (Stream(), 4096):
        session.launches.clear()
        with xent.cuda.stream(stream):
            SPARSE_LOSS(c, x, w)
            V2(y, x)
        assert [k["stream"] for k in session.launches] == [4096] * 3, session.launches
    session.launches.clear()
    SPARSE(labels=c, logits=foreign.Interface(logits, stream=8192))
    assert session.launches[0]["stream"] == 8192
    a = foreign.Exchanged(logits)
    with xent.cuda.stream(4096):
        SPARSE(labels=c, logits=a)
    assert a.asked == [4096]
    SPARSE(labels=c, logits=a)  # on which stream it was made is not known: it is made to wait
    assert a.asked == [4096, 1]
    assert session.synchronisations() == before
    for bad in ("s", -1, None, True):
        with pytest.raises(TypeError, match="stream must have __cuda_stream__"):
            with xent.cuda.stream(bad):
                pass
    """)


def test_errors(driver):
    """Bad calls say what is wrong before anything is launched."""
    driver("""
    f = xent.value_and_grad(SPARSE)
    refused(TypeError, "logits must be a CUDA array|labels must be a CUDA array", V2, labels, x)
    refused(TypeError, "logits must be a CUDA array", V2, y, logits)
    refused(TypeError, "weights must be a CUDA array", LOSS, y, x, weights)
    refused(TypeError, "weights must be a CUDA array|logits must be", LOSS, labels, logits, w)
    refused(ValueError, "labels must have shape", SPARSE, labels=dev(classes[:3]), logits=x)
    refused(TypeError, "labels must have dtype int32 or int64", SPARSE, labels=w, logits=x)
    refused(TypeError, "out must be a CUDA array", f, labels=c, logits=x, out=logits)
    refused(TypeError, "out must have dtype float32", f, labels=c, logits=x, out=dev(logits.astype("f8")))
    refused(ValueError, "out must have shape", f, labels=c, logits=x, out=dev(logits[:2]))
    refused(ValueError, "upstream must have the shape", f, labels=c, logits=x, upstream=dev(weights[:2]))
    refused(TypeError, "weights must be a CUDA array", WEIGHTED, w, weights)
    refused(TypeError, "losses must be a CUDA array", WEIGHTED, weights, w)
    refused(TypeError, "logits must have dtype", V2, y, dev(logits.astype("c8")))
    refused(ValueError, "weights can not be broadcast", LOSS, y, x, dev(weights[:3]))
    bad = dev(np.array([-1, 3, 10, 2]))
    value, gradient = f(labels=bad, logits=x)
    assert np.isnan(value.copy_to_host()).tolist() == [True, False, True, False]
    assert np.isnan(gradient.copy_to_host()).all(1).tolist() == [True, False, True, False]
    """)


def test_no_memory(driver):
    """Memory that runs out is a MemoryError, and then nothing has been launched or written."""
    driver("""
    big = dev(np.zeros((1000, 50), np.float32))
    at = dev(np.zeros(1000, np.int64))
    f = xent.value_and_grad(SPARSE)
    session.refuse(100_000)
    refused(MemoryError, "GPU 0 has no 200000 bytes left", f, labels=at, logits=big)
    f(labels=at, logits=big, out=big)
    session.refuse(1)
    refused(MemoryError, "GPU 0 has no", f, labels=at, logits=big, out=big)
    refused(MemoryError, "GPU 0 has no", WEIGHTED, w)
    session.refuse(0)
    f(labels=at, logits=big)
    """)


def test_launches_that_fail(driver):
    """What the driver refuses is a RuntimeError."""
    driver("""
    SPARSE(labels=c, logits=x)
    session.fail(True)
    with pytest.raises(RuntimeError, match="CUDA cannot launch a kernel: CUDA_ERROR_LAUNCH_FAILED"):
        SPARSE(labels=c, logits=x)
    session.fail(False)
    close([SPARSE(labels=c, logits=x)], [SPARSE(labels=classes, logits=logits)])
    """)


def test_memory_comes_back(driver):
    """What calls have used is used again: nothing is left behind, and nothing waits."""
    driver("""
    f = xent.value_and_grad(SPARSE_LOSS)
    session.execute(False)
    f(c, x, w)
    used, before = session.used(), session.synchronisations()
    for _ in range(500):
        f(c, x, w)
    assert session.used() == used and session.synchronisations() == before
    """)


def test_two_devices(driver):
    """Work is done on the device of the arrays, which is left as current as it was."""
    code = """
    from cuda.core import Device
    with cuda.gpus[1]:
        other, at, factor = dev(logits), dev(classes), dev(weights)
    assert cuda.current_context().device.id == 0
    refused(ValueError, "on one device, got 1 and 0|on one device, got 0 and 1", SPARSE, labels=c, logits=other)
    f = xent.value_and_grad(SPARSE_LOSS)
    refused(ValueError, "on one device", f, at, other, w)
    refused(ValueError, "on one device", f, at, other, factor, out=x)
    refused(ValueError, "on one device", WEIGHTED, w, factor)
    got = f(at, other, factor)
    assert {a.gpu_data.context.device.id for a in got} == {1}
    assert cuda.current_context().device.id == 0
    close(got, [np.asarray(a) for a in f(classes, logits, weights)])
    close(f(c, x, w), [np.asarray(a) for a in f(classes, logits, weights)])
    foreign.pretend_torch(0)
    with cuda.gpus[1]:
        tensor = foreign.Tensor(logits)  # may be asked for there alone
    got = f(at, tensor, factor)
    assert {a.gpu_data.context.device.id for a in got} == {1}
    assert cuda.current_context().device.id == 0
    close(got, [np.asarray(a) for a in f(classes, logits, weights)])
    """
    driver(code, devices=2)


def test_threads(driver):
    """Calls at once, from threads that have never used a device, do not mix their arguments."""
    driver("""
    from concurrent.futures import ThreadPoolExecutor
    f = xent.value_and_grad(SPARSE)
    problems = [rng.normal(size=(4, 10)).astype(np.float32) for _ in range(16)]
    given = [dev(a) for a in problems]
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda a: f(labels=c, logits=a), given))
    for a, b in zip(problems, got):
        close(b, f(labels=classes, logits=a))
    """)


def test_what_is_prepared_is_used_by_one_thread_at_a_time(driver):
    """Between writing the arguments of a recipe and launching it nobody else may write them."""
    driver("""
    import threading, time
    from numba_xent._cuda import driver
    real = driver.Prepared.launch
    def slow(prepared, handle):
        time.sleep(0.05)  # enough for the other thread to come by
        real(prepared, handle)
    driver.Prepared.launch = slow
    f = xent.value_and_grad(SPARSE)
    problems = [logits, logits[::-1].copy()]
    given = [dev(a) for a in problems]
    def are_right():
        start, got = threading.Barrier(2), [None, None]
        def run(i):
            out = dev(np.zeros_like(logits))
            start.wait()
            got[i] = f(labels=c, logits=given[i], out=out)[1].copy_to_host()
        threads = [threading.Thread(target=run, args=(i,)) for i in range(2)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        want = [f(labels=classes, logits=a)[1] for a in problems]
        return all(np.allclose(a, b, atol=1e-6) for a, b in zip(got, want))
    assert all(are_right() for _ in range(3))
    driver.lock = contextlib.nullcontext()
    assert not all(are_right() for _ in range(3)), "this test sees nothing"
    """)


def test_compiled_kernels_are_kept(driver):
    """The second process loads what the first has compiled."""
    code = """
    f = xent.value_and_grad(SPARSE)
    f(labels=c, logits=x)
    print(len(compiled))
    """
    count = """
    compiled = []
    import cuda.core
    real = cuda.core.Program
    from numba_xent._cuda import driver, kernels
    class Counted:
        def __init__(self, *args):
            compiled.append(args)
            self.real = real(*args)
        def compile(self, *args):
            return self.real.compile(*args)
    driver.Program = Counted
    """
    driver(code.replace("len(compiled)", "0"))
    count = count.replace("import cuda.core", "import cuda.core as core").replace(
        "cuda.core.P", "core.P"
    )
    assert driver(textwrap.dedent(count) + textwrap.dedent(code)).strip() == "0"


def test_without_a_driver():
    """A CUDA array says what to install; importing the library imports nothing of CUDA."""
    with pytest.raises(TypeError, match=r"labels is a CUDA array, but .*install"):
        xent.nn.softmax_cross_entropy_with_logits_v2(Cuda(), Cuda())
    code = "import sys, numba_xent; print([m for m in sys.modules if 'cuda' in m.split('.')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "numba.cuda" not in done.stdout


def test_without_packages():
    """Without the extra packages the message names the extra."""
    code = """
import sys, importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *a: None if name in ("numba_cuda", "cuda.core") else find(name, *a)
sys.path.insert(0, "tests")
import calls, numba_xent
try:
    numba_xent.nn.softmax_cross_entropy_with_logits_v2(calls.Cuda(), calls.Cuda())
except TypeError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'numba_xent[cuda]'" in done.stdout
