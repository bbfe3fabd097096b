"""The CPU backend: how the formulas of ``_math`` are scheduled over lanes, rows and threads.

From the inside out: :mod:`.vector` (SIMD registers as a Numba type), :mod:`.memory` (strided memory
of any dtype as tiles of such registers), :mod:`.schedule` (one row, or one group of rows, from
logits to gradient), :mod:`.kernels` (serial and parallel loops over all rows, built and cached),
:mod:`.backend` (a problem in, arrays out).
"""
