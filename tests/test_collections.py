"""Loss collections, names and scopes: TensorFlow's graph mode inside `collecting()`, else nothing."""

import asyncio
import re
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from calls import FUNCTIONS, LOGITS, ONE_HOT, RIGHT, SOFTMAX_LOSS, SPARSE_LOSS, WEIGHTED

import numba_xent as xent
from numba_xent.losses import (
    Reduction,
    add_loss,
    collecting,
    get_losses,
    get_regularization_loss,
    get_regularization_losses,
    get_total_loss,
)

COLLECTORS = {
    SOFTMAX_LOSS: "softmax_cross_entropy_loss",
    SPARSE_LOSS: "sparse_softmax_cross_entropy_loss",
    WEIGHTED: "weighted_loss",
}
LAST = {
    Reduction.NONE: "Mul",
    Reduction.SUM: "Sum",
    Reduction.MEAN: "value",
    Reduction.SUM_OVER_BATCH_SIZE: "value",
    Reduction.SUM_BY_NONZERO_WEIGHTS: "value",
}


def one(value: float = 1.0, **kwargs: Any) -> Any:
    """Collect one loss."""
    return WEIGHTED(value, **kwargs)


def names(**kwargs: Any) -> list[str]:
    """The names of what is collected."""
    return [loss.name for loss in get_losses(**kwargs)]


# --- what is kept, and where


def test_nothing_is_kept_outside() -> None:
    """As in eager mode; neither the scope nor the collection is even looked at."""
    for fn in COLLECTORS:
        fn(**RIGHT[fn])
        fn(**RIGHT[fn], scope="a b", loss_collection=["no", "key"])
        fn(**RIGHT[fn], scope=5, loss_collection={})
    add_loss(1.0)
    add_loss(1.0, ["no", "key"])
    assert get_losses() == []
    assert get_losses("scope", "any") == []
    assert get_regularization_losses() == []
    assert get_regularization_loss() == 0
    with pytest.raises(ValueError, match=r"losses: .*collecting"):
        get_total_loss()
    with collecting():
        assert get_losses() == []


def test_nothing_is_kept_afterwards() -> None:
    """Neither losses nor names survive the block, however it is left."""
    with collecting():
        one(scope="foo")
    block = collecting()
    with pytest.raises(ValueError, match="reduction"), block:
        one(scope="foo", reduction="foo")
    assert get_losses() == []
    with collecting():
        one(scope="foo")
        assert names() == ["foo/value:0"]


@pytest.mark.parametrize("fn", COLLECTORS)
@pytest.mark.parametrize("reduction", LAST)
def test_what_is_collected(fn: Callable, reduction: str) -> None:
    """What the function returned, under its default name, also by way of `value_and_grad`."""
    wrt = "losses" if fn is WEIGHTED else "logits"
    with collecting():
        first = fn(**RIGHT[fn], reduction=reduction)
        second, _ = xent.value_and_grad(fn, wrt)(**RIGHT[fn], reduction=reduction)
        losses = get_losses()
    last = LAST[reduction]
    assert [loss.name for loss in losses] == [
        f"{COLLECTORS[fn]}/{last}:0",
        f"{COLLECTORS[fn]}_1/{last}:0",
    ]
    assert losses[0].value is first
    assert losses[1].value is second
    assert np.array_equal(np.asarray(losses[0]), first)
    if reduction != Reduction.NONE:
        assert float(losses[0]) == float(first)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_names_do_not_depend_on_the_dtype(dtype: type) -> None:
    """The last part says what was computed."""
    with collecting():
        SOFTMAX_LOSS(ONE_HOT, LOGITS.astype(dtype))
        assert names() == ["softmax_cross_entropy_loss/value:0"]


def test_nn_collects_nothing() -> None:
    """Only the functions of `losses` do."""
    with collecting():
        for fn in set(FUNCTIONS) - set(COLLECTORS):
            fn(**RIGHT[fn])
            xent.value_and_grad(fn)(**RIGHT[fn])
        assert get_losses() == []


def test_nested_blocks() -> None:
    """The inner one starts empty and leaves the outer one as it was."""
    with collecting():
        one(scope="foo")
        with collecting():
            assert get_losses() == []
            one(scope="foo")
            one(scope="foo")
            assert names() == ["foo/value:0", "foo_1/value:0"]
        assert names() == ["foo/value:0"]
        one(scope="foo")
        assert names() == ["foo/value:0", "foo_1/value:0"]


def test_a_raising_call_adds_nothing() -> None:
    """The loss is added last."""
    with collecting():
        for fn in COLLECTORS:
            for wrong in ({"weights": np.ones(7)}, {"reduction": "foo"}, {"weights": None}):
                with pytest.raises(ValueError, match=r"weights|reduction"):
                    fn(**RIGHT[fn] | wrong)
        with pytest.raises(ValueError, match="label value of 9"):
            SPARSE_LOSS([9, 0], LOGITS)
        with pytest.raises(ValueError, match="upstream"):
            xent.value_and_grad(SOFTMAX_LOSS)(ONE_HOT, LOGITS, upstream=[1.0, 2.0])
        assert get_losses() == []


# --- names


@pytest.mark.parametrize(
    ("scopes", "want"),
    [
        (["foo", "foo", "foo"], ["foo/value:0", "foo_1/value:0", "foo_2/value:0"]),
        (["foo", "foo_1", "foo"], ["foo/value:0", "foo_1/value:0", "foo_2/value:0"]),
        (["foo_1", "foo", "foo"], ["foo_1/value:0", "foo/value:0", "foo_2/value:0"]),
        (["foo", "foo/"], ["foo/value:0", "foo/value_1:0"]),
        (["foo/", "foo/"], ["foo/value:0", "foo/value_1:0"]),
        (["", ""], ["value:0", "value_1:0"]),
        (["outer/inner", "outer/inner"], ["outer/inner/value:0", "outer/inner_1/value:0"]),
        ([None, None], ["weighted_loss/value:0", "weighted_loss_1/value:0"]),
        ([None, "weighted_loss"], ["weighted_loss/value:0", "weighted_loss_1/value:0"]),
        (["a", "b", "a"], ["a/value:0", "b/value:0", "a_1/value:0"]),
    ],
)
def test_unique_names(scopes: list[str | None], want: list[str]) -> None:
    """A scope that has been used gets a number; one that ends in a slash is entered again."""
    with collecting():
        for scope in scopes:
            one(scope=scope)
        assert names() == want


def test_an_uncollected_loss_uses_up_its_scope() -> None:
    """Names belong to the computation, whether or not a collection holds the result."""
    with collecting():
        one(scope="foo", loss_collection=None)
        one(scope="foo")
        assert names() == ["foo_1/value:0"]


@pytest.mark.parametrize("scope", ["a", "1", ".x", "A-b_c.d", "a/b/c", "a\\b", "a>b", "a/"])
def test_valid_scopes(scope: str) -> None:
    """TensorFlow's pattern for names."""
    with collecting():
        one(scope=scope)
        assert names() == [scope.removesuffix("/") + "/value:0"]


@pytest.mark.parametrize("fn", COLLECTORS)
@pytest.mark.parametrize(
    ("scope", "error"),
    [(s, ValueError) for s in ("a b", "_x", " ", "/a", "-a", "a:0", "ä", "a\n")]
    + [(s, TypeError) for s in (5, b"a", ["a"], 0, False, np.zeros(2))],
)
def test_invalid_scopes(fn: Callable, scope: Any, error: type[Exception]) -> None:
    """They are refused before anything is computed or written."""
    wrt = "losses" if fn is WEIGHTED else "logits"
    out = np.full_like(RIGHT[fn][wrt], 7)
    with collecting():
        with pytest.raises(error, match=r"scope") as info:
            fn(**RIGHT[fn], scope=scope)
        assert repr(scope) in str(info.value)
        with pytest.raises(error, match="scope"):
            xent.value_and_grad(fn, wrt)(**RIGHT[fn], scope=scope, out=out)
        assert get_losses() == []
    assert (out == 7).all()


# --- collections


@pytest.mark.parametrize("key", ["losses", "mine", 5, ("a", "b"), 1.5, object(), frozenset("a")])
def test_any_hashable_key(key: Any) -> None:
    """A tuple is one key, not several."""
    with collecting():
        one(scope="a", loss_collection=key)
        add_loss("b", key)
        (first, second) = get_losses(loss_collection=key)
        assert first.name == "a/value:0"
        assert second == "b"
        assert len(get_losses()) == (2 if key == "losses" else 0)
        assert get_losses(loss_collection="a") == []


@pytest.mark.parametrize("key", [None, "", False, 0, (), [], {}])
def test_a_false_key_collects_nothing(key: Any) -> None:
    """As in TensorFlow, any false value means none."""
    with collecting():
        one(loss_collection=key)
        assert add_loss(1.0, key) is None
        assert get_losses() == []


@pytest.mark.parametrize("key", [["a"], {"a": 1}, ([],)])
def test_an_unhashable_key(key: Any) -> None:
    """It is refused before anything is computed or written."""
    message = r"loss_collection must be hashable, got " + re.escape(repr(key))
    out = np.full_like(LOGITS, 7)
    with collecting():
        for fn in COLLECTORS:
            with pytest.raises(TypeError, match=message):
                fn(**RIGHT[fn], loss_collection=key)
        with pytest.raises(TypeError, match=message):
            xent.value_and_grad(SOFTMAX_LOSS)(ONE_HOT, LOGITS, loss_collection=key, out=out)
        with pytest.raises(TypeError, match=message):
            add_loss(1.0, key)
        with pytest.raises(TypeError, match=message):
            get_losses(loss_collection=key)
        assert get_losses() == []
    assert (out == 7).all()


def test_get_losses_returns_a_copy() -> None:
    """In the order of addition; changing the list changes nothing."""
    with collecting():
        things = [object(), 2.0, "three", None]
        for thing in things:
            add_loss(thing)
        losses = get_losses()
        assert losses == things
        losses.clear()
        assert get_losses() == things
        assert get_losses(loss_collection=None) == []
        assert get_losses(loss_collection="unknown") == []


@pytest.mark.parametrize(
    ("scope", "want"),
    [
        (None, ["foo", "foobar", "x/foo", "bar", "named", None]),
        ("", ["foo", "foobar", "x/foo", "bar", "named"]),
        ("foo", ["foo", "foobar"]),
        ("foo/", ["foo"]),
        (".*foo", ["foo", "foobar", "x/foo"]),
        ("foo$", []),
        ("foo|bar", ["foo", "foobar", "bar"]),
        ("named$", ["named"]),
        ("oo", []),
    ],
)
def test_filters(scope: str | None, want: list[str | None]) -> None:
    """A regular expression that must match the name from its start; unnamed things never do."""
    with collecting():
        for name in ("foo", "foobar", "x/foo", "bar"):
            one(scope=name)
        add_loss(SimpleNamespace(name="named"))
        add_loss(1.0)
        got = [getattr(loss, "name", None) for loss in get_losses(scope)]
    assert [name and name.removesuffix("/value:0") for name in got] == want


def test_a_filter_that_is_no_expression() -> None:
    """What `re` says of it."""
    with collecting():
        for call in (get_losses, get_regularization_losses):
            with pytest.raises(re.error):
                call("(")


# --- totals


def test_regularization_losses() -> None:
    """A collection of its own, filtered in the same way."""
    with collecting():
        assert get_regularization_losses() == []
        assert get_regularization_loss() == 0
        assert get_regularization_loss().dtype == np.float32
        one(1.0)
        one(2.0, scope="a", loss_collection="regularization_losses")
        one(4.0, scope="b", loss_collection="regularization_losses")
        assert [float(loss) for loss in get_regularization_losses()] == [2, 4]
        assert [float(loss) for loss in get_regularization_losses("b")] == [4]
        assert get_regularization_loss() == 6
        assert get_regularization_loss("a") == 2
        assert get_regularization_loss(name="ignored") == 6
        assert len(get_losses()) == 1


def test_total_loss() -> None:
    """Losses and, if wanted, regularization losses, both filtered; a new number each time."""
    with collecting():
        one(1.0, scope="a")
        one(2.0, scope="b")
        one(4.0, scope="a", loss_collection="regularization_losses")
        one(8.0, scope="c", loss_collection="mine")
        assert get_total_loss() == 7
        assert get_total_loss().dtype == np.float32
        assert get_total_loss(False) == 3
        assert get_total_loss(add_regularization_losses=False, name="n", scope="b") == 2
        assert get_total_loss(scope="a") == 5
        assert len(get_losses()) == 2
        with pytest.raises(ValueError, match=r"losses: .*at least one"):
            get_total_loss(scope="nothing")


def test_total_of_regularization_losses_alone() -> None:
    """They suffice."""
    with collecting():
        one(4.0, loss_collection="regularization_losses")
        assert get_total_loss() == 4
        with pytest.raises(ValueError, match="at least one"):
            get_total_loss(add_regularization_losses=False)


def test_total_of_vectors() -> None:
    """Losses of one shape are added element by element, and none of them changes."""
    with collecting():
        first = WEIGHTED([1.0, 2.0], reduction="none")
        WEIGHTED([3.0, 5.0], reduction="none")
        total = get_total_loss()
        assert total.tolist() == [4, 7]
        assert first.tolist() == [1, 2]
        total[0] = 9
        assert get_total_loss().tolist() == [4, 7]


def test_total_of_one_vector_is_not_the_loss_itself() -> None:
    """Writing to the total does not write to the collected loss."""
    with collecting():
        first = WEIGHTED([1.0, 2.0], reduction="none")
        get_total_loss()[0] = 9
        assert first.tolist() == [1, 2]


def test_total_of_different_kinds() -> None:
    """Neither dtypes nor shapes may differ."""
    for total in (get_total_loss, get_regularization_loss):
        with collecting():
            key = "losses" if total is get_total_loss else "regularization_losses"
            one(1.0, loss_collection=key)
            add_loss(np.float64(1), key)
            with pytest.raises(TypeError, match="one dtype, got float32 and float64"):
                total()
        with collecting():
            one(1.0, loss_collection=key)
            WEIGHTED([1.0, 2.0], reduction="none", loss_collection=key)
            with pytest.raises(ValueError, match=r"one shape, got \(\) and \(2,\)"):
                total()


@pytest.mark.parametrize(
    ("losses", "dtype"),
    [
        ([1.0, np.float32(2)], np.float32),
        ([np.float64(1), np.float64(2)], np.float64),
        ([np.float16(1), np.float16(2)], np.float16),
        ([1, 2], np.int32),
        ([[1.0], [2.0]], np.float32),
    ],
)
def test_total_of_any_numbers(losses: list[Any], dtype: type) -> None:
    """What is added by hand is converted as any argument is."""
    with collecting():
        for loss in losses:
            add_loss(loss)
        total = get_total_loss()
    assert total.dtype == dtype
    assert total == 3


@pytest.mark.parametrize("loss", ["x", object(), None])
def test_total_of_what_is_no_number(loss: Any) -> None:
    """Anything may be collected, but not added up."""
    with collecting():
        add_loss(loss)
        with pytest.raises((TypeError, ValueError), match="losses"):
            get_total_loss()


def test_total_of_infinities() -> None:
    """NaN, and no warning."""
    with collecting():
        one(float("inf"))
        one(float("-inf"))
        assert np.isnan(get_total_loss())


# --- threads and tasks


def test_threads_are_isolated() -> None:
    """Each thread has its own block; one without sees none, not even that of its starter."""
    barrier = threading.Barrier(3)
    seen: dict[str, list[str]] = {}

    def collect(name: str) -> None:
        with collecting():
            barrier.wait(10)
            one(scope=name)
            barrier.wait(10)
            one(scope=name)
            barrier.wait(10)
            seen[name] = names()

    def bystand() -> None:
        barrier.wait(10)
        one()
        barrier.wait(10)
        barrier.wait(10)
        seen["bystander"] = names()

    with collecting():
        threads = [threading.Thread(target=collect, args=(n,)) for n in "ab"]
        threads.append(threading.Thread(target=bystand))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert get_losses() == []
    want = {n: [f"{n}/value:0", f"{n}_1/value:0"] for n in "ab"}
    assert seen == want | {"bystander": []}


def test_tasks_are_isolated() -> None:
    """Two tasks of one thread that take turns do not see each other's losses."""

    async def collect(name: str) -> list[str]:
        with collecting():
            for _ in range(3):
                one(scope=name)
                await asyncio.sleep(0)
            return names()

    async def main() -> list[list[str]]:
        return await asyncio.gather(collect("a"), collect("b"))

    want = [[f"{n}/value:0", f"{n}_1/value:0", f"{n}_2/value:0"] for n in "ab"]
    assert asyncio.run(main()) == want
    assert get_losses() == []
