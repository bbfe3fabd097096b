"""The formulas of softmax cross-entropy, each written once, as scalar Python.

Nothing here knows about threads, memory or a compiler: the files import ``numpy`` and ``math`` and
one another. A backend compiles these same functions for its own types (one number, the lanes of a
SIMD register, a thread's register) by giving the functions of :mod:`.primitives` a meaning there.
"""
