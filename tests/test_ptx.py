"""The PTX interpreter, on PTX written by hand."""

from fractions import Fraction

import numpy as np
import ptx
import pytest

HEADER = ".version 8.0\n.target sm_90\n.address_size 64\n"


def kernel(body, parameters=(".param .u64 a", ".param .u64 b"), shared=""):
    """A kernel whose registers %r1.. are thread numbers and addresses are loaded into %rd1, 2."""
    return ptx.parse(
        f"{HEADER}{shared}.visible .entry k({', '.join(parameters)})\n.maxntid 64, 1, 1\n{{\n"
        "ld.param.u64 %rd1, [a];\nld.param.u64 %rd2, [b];\nmov.u32 %r1, %tid.x;\n"
        "mov.u32 %r2, %ctaid.x;\nmul.wide.u32 %rd3, %r1, 4;\nadd.s64 %rd4, %rd1, %rd3;\n"
        f"add.s64 %rd5, %rd2, %rd3;\n{body}\nret;\n}}\n"
    )


SHARED = ".visible .shared .align 4 .b8 s[256];\n"
SHARED_PLACE = "mov.u64 %rd6, s;\nadd.s64 %rd7, %rd6, %rd3;\n"


def run(program, content, out=None, grid=1, block=32, **options):
    """Run with an input buffer and an output buffer; what the output holds."""
    content = np.asarray(content)
    memory = ptx.Memory()
    out = np.zeros(block * grid, np.uint32) if out is None else out
    a = memory.buffer(content)
    b = memory.buffer(out, writable=True, known=False)
    counts = ptx.launch(program, memory, (grid,), (block,), (a, b), **options)
    return memory.read(b, out.shape, out.dtype), counts


def unary(text, x, dtype):
    """The result of an instruction on one register."""
    x = np.asarray(x)
    size = {4: ("b32", "r3", "r4"), 8: ("b64", "rd8", "rd9")}
    kind, source, _ = size[x.itemsize]
    out_kind, _, target = size[np.dtype(dtype).itemsize]
    at = "mul.wide.u32 %rd10, %r1, 8;\nadd.s64 %rd11, %rd1, %rd10;\nadd.s64 %rd12, %rd2, %rd10;\n"
    load = "[%rd11]" if x.itemsize == 8 else "[%rd4]"
    store = "[%rd12]" if np.dtype(dtype).itemsize == 8 else "[%rd5]"
    body = (
        f"{at}ld.global.{kind} %{source}, {load};\n{text}\nst.global.{out_kind} {store}, %{target};"
    )
    padded = np.zeros(32, x.dtype)
    padded[: len(x)] = x
    got, _ = run(kernel(body), padded, np.zeros(32, dtype))
    return got[: len(x)]


# ---- instructions ---------------------------------------------------------------------------

X = np.array([0, 1, 2, 5, 0x80000000, 0xFFFFFFFF, 12345, 0x00010000], np.uint32)
F = np.array([0.0, -1.5, 1e-40, 3e38, np.inf, -np.inf, np.nan, 2.5], np.float32)


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("add.s32 %r4, %r3, -1;", X - np.uint32(1)),
        ("sub.u32 %r4, 7, %r3;", np.uint32(7) - X),
        ("mul.lo.s32 %r4, %r3, 3;", X * np.uint32(3)),
        ("mad.lo.s32 %r4, %r3, 2, 5;", X * np.uint32(2) + np.uint32(5)),
        ("shl.b32 %r4, %r3, 33;", np.zeros(8, np.uint32)),
        ("shl.b32 %r4, %r3, 4;", X << np.uint32(4)),
        ("shr.s32 %r4, %r3, 31;", np.where(X >> 31, 0xFFFFFFFF, 0).astype(np.uint32)),
        ("shr.s32 %r4, %r3, 40;", np.where(X >> 31, 0xFFFFFFFF, 0).astype(np.uint32)),
        ("shr.u32 %r4, %r3, 31;", X >> np.uint32(31)),
        ("and.b32 %r4, %r3, 0xFF;", X & np.uint32(0xFF)),
        ("xor.b32 %r4, %r3, -1;", ~X),
        ("not.b32 %r4, %r3;", ~X),
        ("neg.s32 %r4, %r3;", (0 - X.astype(np.int64)).astype(np.uint32)),
        ("min.s32 %r4, %r3, 3;", np.minimum(X.view(np.int32), 3).view(np.uint32)),
        ("max.u32 %r4, %r3, 3;", np.maximum(X, np.uint32(3))),
        ("div.u32 %r4, %r3, 10;", X // 10),
        ("rem.u32 %r4, %r3, 10;", X % 10),
        ("setp.lt.s32 %p1, %r3, 0;\nselp.b32 %r4, 7, 9, %p1;", np.where(X >> 31, 7, 9)),
        ("setp.gt.u32 %p1, %r3, 5;\n@!%p1 mov.u32 %r4, 1;\n@%p1 mov.u32 %r4, 2;",
         np.where(X > 5, 2, 1)),
        ("mov.b32 {%rs1, %rs2}, %r3;\nmov.b32 %r4, {%rs2, %rs1};", X >> 16 | X << 16),
        ("{ .reg .b16 %low;\n  mov.b32 {%low, %rs2}, %r3; }\n{.reg .b16 %low;\n"
         "mov.b32 {%low, %rs1}, %r3;}\nmov.b32 %r4, {%rs2, %rs1};", X >> 16 | X >> 16 << 16),
    ],
)  # fmt: skip
def test_integers(text, want):
    """Integer instructions, with wrapping and oversized shifts."""
    assert unary(text, X, np.uint32).tolist() == np.asarray(want).tolist()


def test_wide_integers():
    """64-bit instructions, and those that become 64 bits wide."""
    x = np.array([1, 2**63, 2**64 - 1], np.uint64)
    assert unary("shr.u64 %rd9, %rd8, 60;", x, np.uint64).tolist() == [0, 8, 15]
    assert unary("shr.s64 %rd9, %rd8, 63;", x, np.uint64).tolist() == [0, 2**64 - 1, 2**64 - 1]
    got = unary("bfi.b64 %rd9, %rd8, 255, 32, 32;", x, np.uint64)
    assert got.tolist() == [(1 << 32) + 255, 255, (2**32 - 1 << 32) + 255]
    got = unary("mul.wide.s32 %rd9, %r3, 4;", np.array([-2], np.int32), np.int64)
    assert got.tolist() == [-8]


def quietly(f, x):
    """A function of numbers some of which are too large for it."""
    with np.errstate(all="ignore"):
        return f(x)


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("add.f32 %r4, %r3, 0f3F800000;", F + np.float32(1)),
        ("fma.rn.f32 %r4, %r3, 0f40000000, 0f3F800000;", (2 * F.astype(float) + 1)),
        ("max.f32 %r4, %r3, 0f3F800000;", np.fmax(F, np.float32(1))),
        ("max.NaN.f32 %r4, %r3, 0f3F800000;", np.maximum(F, np.float32(1))),
        ("ex2.approx.ftz.f32 %r4, %r3;", quietly(np.exp2, F)),
        ("ex2.approx.f32 %r4, %r3;", quietly(np.exp2, F)),
        ("mul.ftz.f32 %r4, %r3, 0f3F800000;", np.where(np.abs(F) < 1e-38, 0, F)),
        ("rcp.approx.ftz.f32 %r4, %r3;", np.where(np.abs(F) > 1e38, 0, quietly(np.reciprocal, F))),
        ("setp.neu.f32 %p1, %r3, %r3;\nselp.f32 %r4, 0f3F800000, 0f00000000, %p1;", np.isnan(F)),
        ("setp.ltu.f32 %p1, %r3, 0f00000000;\nselp.f32 %r4, 0f3F800000, 0f00000000, %p1;",
         ~(F >= 0)),
    ],
)  # fmt: skip
def test_floats(text, want):
    """Float instructions, with NaN and subnormal numbers."""
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(
            unary(text, F, np.float32), np.asarray(want).astype(np.float32)
        )


def test_conversions():
    """Halves are rounded to nearest, ties to even; NaN stays NaN."""
    x = np.array([1.00390625, 1.01171875, -2.5, np.inf, 65519.0, 1e-8], np.float32)
    got = unary("cvt.rn.bf16x2.f32 %r4, %r3, 0f00000000;", x, np.uint32) >> 16
    assert got.tolist() == [0x3F80, 0x3F82, 0xC020, 0x7F80, 0x4780, 0x322C]
    got = unary("cvt.rn.f16.f32 %rs1, %r3;\ncvt.u32.u16 %r4, %rs1;", x, np.uint32)
    assert got.tolist() == x.astype(np.float16).view(np.uint16).tolist()
    wide = np.array([1 + 2**-30, -3.0], np.float64)
    assert unary("cvt.rn.f32.f64 %r4, %rd8;", wide, np.float32).tolist() == [1.0, -3.0]


def test_fma_rounds_once():
    """``a * b - fl(a * b)`` is what the rounding lost, exactly."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=32)
    text = "mul.f64 %rd13, %rd8, %rd8;\nneg.f64 %rd14, %rd13;\nfma.rn.f64 %rd9, %rd8, %rd8, %rd14;"
    got = unary(text, x, np.float64)
    exact = [float(Fraction(v) * Fraction(v) - Fraction(v * v)) for v in x.tolist()]
    assert got.tolist() == exact


# ---- threads --------------------------------------------------------------------------------


def test_divergent_warps_meet_again():
    """Threads that take another way come together for the shuffle."""
    body = """
    setp.lt.u32 %p1, %r1, 16;
    @%p1 bra $A;
    add.s32 %r3, %r1, 100;
    bra.uni $B;
    $A:
    add.s32 %r3, %r1, 200;
    $B:
    shfl.sync.bfly.b32 %r4|%p2, %r3, 16, 31, -1;
    st.global.u32 [%rd5], %r4;"""
    got, _ = run(kernel(body), np.zeros(1, np.uint32))
    lanes = np.arange(32) ^ 16
    assert got.tolist() == (lanes + np.where(lanes < 16, 200, 100)).tolist()


@pytest.mark.parametrize(
    ("mode", "by", "clamp", "source"),
    [
        ("bfly", 1, 31, np.arange(32) ^ 1),
        ("bfly", 4, 31 | 24 << 8, np.arange(32) ^ 4),
        ("idx", 5, 31 | 24 << 8, np.arange(32) // 8 * 8 + 5),
        ("idx", 5, 31, np.full(32, 5)),
    ],
)
def test_shuffles(mode, by, clamp, source):
    """Every mode."""
    body = f"shfl.sync.{mode}.b32 %r4|%p1, %r1, {by}, {clamp}, -1;\nst.global.u32 [%rd5], %r4;"
    got, _ = run(kernel(body), np.zeros(1, np.uint32))
    assert got.tolist() == source.tolist()


def test_a_loop_and_a_barrier():
    """Each thread adds what all have written to shared memory."""
    body = f"""{SHARED_PLACE}
    st.shared.u32 [%rd7], %r1;
    bar.sync 0;
    mov.u32 %r4, 0;
    mov.u32 %r5, 0;
    mov.u64 %rd8, s;
    $L:
    ld.shared.u32 %r6, [%rd8];
    add.s32 %r4, %r4, %r6;
    add.s64 %rd8, %rd8, 4;
    add.s32 %r5, %r5, 1;
    setp.lt.u32 %p1, %r5, 64;
    @%p1 bra $L;
    st.global.u32 [%rd5], %r4;"""
    got, counts = run(kernel(body, shared=SHARED), np.zeros(1, np.uint32), block=64)
    assert got.tolist() == [2016] * 64
    assert counts.instructions > 2 * 64 * 6


def test_blocks_and_only_some_of_them():
    """`only` runs a few blocks of many, with their own numbers."""
    body = "shl.b32 %r3, %r2, 7;\ncvt.u64.u32 %rd6, %r3;\nadd.s64 %rd7, %rd5, %rd6;\n"
    body += "st.global.u32 [%rd7], %r2;"
    got, _ = run(kernel(body), np.zeros(1, np.uint32), grid=3)
    assert got.tolist() == [0] * 32 + [1] * 32 + [2] * 32
    memory = ptx.Memory()
    b = memory.buffer(np.zeros(64, np.uint32), writable=True, known=False)
    first = 10**6
    arguments = (b, b - first * 128)
    ptx.launch(kernel(body), memory, (2 * first,), (32,), arguments, only=(first, 2))
    assert memory.read(b, 64, np.uint32).tolist() == [first] * 32 + [first + 1] * 32


def test_counts():
    """Bytes and sectors of a load with stride 2 and of a vector store."""
    body = "add.s64 %rd6, %rd4, %rd3;\nld.global.u32 %r3, [%rd6];\nmul.wide.u32 %rd7, %r1, 16;\n"
    body += "add.s64 %rd8, %rd2, %rd7;\nst.global.v4.u32 [%rd8], {%r3, %r3, %r3, %r3};"
    _, counts = run(kernel(body), np.zeros(64, np.uint32), np.zeros(128, np.uint32))
    assert (counts.loaded, counts.stored) == (128, 512)
    assert counts.sectors == 8 + 16
    assert counts.dram == 32 * (8 + 16)


# ---- faults ---------------------------------------------------------------------------------

STORE = "st.global.u32 [%rd5], %r3;"
FAULTS = {
    "read out of bounds": ("ld.global.u32 %r3, [%rd4+4];", "out of bounds"),
    "write out of bounds": ("st.global.u32 [%rd5+-4], %r1;", "out of bounds"),
    "misaligned": ("ld.global.u32 %r3, [%rd4+2];", "misaligned"),
    "misaligned vector": ("ld.global.v4.u32 {%r3, %r4, %r5, %r6}, [%rd1+4];", "misaligned"),
    "write to what is read-only": ("st.global.u32 [%rd4], %r1;", "read-only"),
    "read of an output": ("ld.global.u32 %r3, [%rd5];", "nobody has written"),
    "register before it is written": ("st.global.u32 [%rd5], %r9;", "before it is written"),
    "two threads write one place": ("st.global.u32 [%rd2], %r1;", "race"),
    "read after a write": ("st.global.u32 [%rd5], %r1;\nshr.u32 %r3, %r1, 1;\n"
                           "mul.wide.u32 %rd6, %r3, 4;\nadd.s64 %rd7, %rd2, %rd6;\n"
                           "ld.global.u32 %r4, [%rd7];", "race"),
    "write after a read": ("st.global.u32 [%rd5], %r1;\nbar.sync 0;\nld.global.u32 %r4, [%rd2];\n"
                           "st.global.u32 [%rd5], %r1;", "race"),
    "shared memory before a barrier": (f"{SHARED_PLACE}st.shared.u32 [%rd7], %r1;\n"
                                       "ld.shared.u32 %r3, [%rd6];", "race"),
    "shared memory that nobody wrote": (f"{SHARED_PLACE}ld.shared.u32 %r3, [%rd7];", "nobody"),
    "shared memory out of bounds": (f"{SHARED_PLACE}st.shared.u32 [%rd7+252], %r1;", "out of"),
    "mask without oneself": ("shfl.sync.bfly.b32 %r3|%p1, %r1, 1, 31, 65535;", "own mask"),
    "shuffle of a part": ("setp.lt.u32 %p1, %r1, 16;\n@%p1 bra $E;\n"
                          "shfl.sync.bfly.b32 %r3|%p2, %r1, 1, 31, -1;\n$E:", "do not take part"),
    "barrier that some have left": ("setp.lt.u32 %p1, %r1, 16;\n@%p1 ret;\nbar.sync 0;", "diverg"),
    "two barriers": ("setp.lt.u32 %p1, %r1, 16;\n@%p1 bra $E;\nbar.sync 0;\nbra.uni $F;\n$E:\n"
                     "bar.sync 0;\n$F:", "divergent barrier"),
    "no end": ("$L:\nbra.uni $L;", "no end"),
    "division by zero": ("div.u32 %r3, %r1, 0;", "division by zero"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_faults(name):
    """What a kernel must not do is reported, with the instruction."""
    body, message = FAULTS[name]
    with pytest.raises(ptx.Fault, match=message):
        run(kernel(body, shared=SHARED), np.zeros(32, np.uint32), limit=1000)


def test_blocks_race():
    """Nothing orders the accesses of two blocks, barriers or not."""
    body = "bar.sync 0;\nst.global.u32 [%rd5], %r1;"
    with pytest.raises(ptx.Fault, match="race"):
        run(kernel(body), np.zeros(1, np.uint32), grid=2)
    body = "ld.global.u32 %r3, [%rd4];\nbar.sync 0;\nst.global.u32 [%rd5], %r3;"
    run(kernel(body), np.zeros(32, np.uint32), grid=1)


def test_what_is_right_is_not_reported():
    """A thread may read and write its own places, and others' on the far side of a barrier."""
    body = "st.global.u32 [%rd5], %r1;\nld.global.u32 %r3, [%rd5];\nbar.sync 0;\n"
    body += "ld.global.u32 %r4, [%rd2];\nbar.sync 0;\nst.global.u32 [%rd5], %r4;"
    got, _ = run(kernel(body), np.zeros(1, np.uint32))
    assert got.tolist() == [0] * 32


def test_launches_that_do_not_fit():
    """Too many threads, half a warp, too few arguments."""
    program = kernel("")
    memory = ptx.Memory()
    with pytest.raises(ptx.Fault, match="maxntid"):
        ptx.launch(program, memory, (1,), (128,), (0, 0))
    with pytest.raises(ptx.Fault, match="whole number of warps"):
        ptx.launch(program, memory, (1,), (16,), (0, 0))
    with pytest.raises(ptx.Fault, match="1 arguments for 2"):
        ptx.launch(program, memory, (1,), (32,), (0,))


@pytest.mark.parametrize(
    "text",
    [
        "brev.b32 %r3, %r1;",
        "call f;",
        ".local .b8 x[4];",
        "add.sat.s32 %r3, %r1, 1;",
        "ld.volatile.global.u32 %r3, [%rd4];",
        "bar.sync 0, 32;",
        "bar.red.popc.u32 %r3, 0, %p1;",
        "shfl.sync.up.b32 %r3|%p1, %r1, 1, 0, -1;",
        "atom.global.add.u32 %r3, [%rd4], 1;",
    ],
)
def test_what_it_does_not_know(text):
    """Instructions outside the subset are refused, not ignored, and so are modifiers."""
    with pytest.raises(NotImplementedError):
        run(kernel(text), np.zeros(1, np.uint32))


def test_approximate_instructions():
    """They are wrong by as much as they are told to be, and no more."""
    body = "ld.global.f32 %f1, [%rd4];\nex2.approx.f32 %f2, %f1;\nst.global.f32 [%rd5], %f2;"
    x = np.linspace(-3, 3, 32).astype(np.float32)
    program, out = kernel(body), np.zeros(32, np.float32)
    exact, _ = run(program, x, out)
    wrong, _ = run(program, x, out, approx_ulp=2)
    off = np.abs(exact.view(np.int32) - wrong.view(np.int32))
    assert 0 < off.max() <= 2
