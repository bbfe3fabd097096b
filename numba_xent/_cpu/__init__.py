"""The CPU backend: how the formulas of ``_math`` are scheduled over lanes, rows and threads.

From the inside out: :mod:`.vector` and :mod:`.intrinsics` (SIMD registers as a Numba type),
:mod:`.transpose` and :mod:`.memory` (strided memory of any dtype as tiles of such registers),
:mod:`.lanes` (from lanes to examples), :mod:`.stream` (outputs past the caches), :mod:`.tile` (a few
KiB of classes, loaded and stored as registers) and :mod:`.chunk` (the passes over them);
:mod:`.extent`, :mod:`.order`, :mod:`.panel`, :mod:`.workspace`, :mod:`.examples` and :mod:`.unit`
(what a few examples solved together need), :mod:`.runs` (panels of short runs); :mod:`.forward`,
:mod:`.backward` and :mod:`.schedule` (from their logits to losses and gradients); :mod:`.kernels`
and :mod:`.launch` (what a task does, serial and parallel loops over tasks), :mod:`.cutting`,
:mod:`.recipe` and :mod:`.backend` (how a problem is cut, all that kernels must be told, a problem in
and arrays out). :mod:`.compile` and :mod:`.cache` make functions machine code.
"""
