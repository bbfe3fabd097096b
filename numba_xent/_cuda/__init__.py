"""Schedules for GPUs: kernels over the formulas of ``_math``, and how they are launched.

``device`` is what Numba cannot say by itself, ``formulas`` are the functions of ``_math`` compiled
for a GPU, ``rows``, ``split`` and ``columns`` are the kernels over logits, ``totals`` those over
losses; ``plan`` chooses among them. ``build`` and ``driver`` compile and launch, ``arrays`` and
``streams`` know the arrays and streams of other libraries, ``backend`` ties it all together.

Nothing here is imported before a CUDA array is seen.
"""
