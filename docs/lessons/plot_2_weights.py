"""
2. Weigh examples
=================

Not all examples count alike: some classes are rare, some examples are padding. Weights multiply the
losses, and the *reduction* says by what their sum is divided.
"""

# %%
# Per-example losses
# ------------------
# ``Reduction.NONE`` returns each loss times its weight. A weight of 0 removes an example, from the
# loss as from the gradient.

import matplotlib.pyplot as plt
import numpy as np

import numba_xent as xent
from numba_xent.losses import Reduction

logits = np.array([[1, 2, 3], [0, 5, -1], [2, 0, 0], [0, 0, 0]], np.float32)
labels = np.array([2, 1, 1, 0])
weights = np.array([1, 2, 0.5, 0], np.float32)

print(xent.losses.sparse_softmax_cross_entropy(labels, logits, weights, reduction=Reduction.NONE))

# %%
# What the sum is divided by
# --------------------------
# The default divides by the number of weights that are not zero: 3 here. ``MEAN`` divides by the
# sum of the weights, ``SUM_OVER_BATCH_SIZE`` by the number of examples.

for name in ("SUM", "MEAN", "SUM_OVER_BATCH_SIZE", "SUM_BY_NONZERO_WEIGHTS"):
    key = getattr(Reduction, name)
    loss = xent.losses.sparse_softmax_cross_entropy(labels, logits, weights, reduction=key)
    print(f"{name:24} {loss:.4f}")

# %%
# A rare class
# ------------
# 1,000 examples of one class and 30 of another, which overlap. Without weights, the classifier
# rarely dares to say "rare"; with the rare class weighing as much as the other in total, it does.

rng = np.random.default_rng(0)
kind = np.repeat([0, 1], [1000, 30])
points = rng.normal(size=(1030, 2)) + np.where(kind[:, None] == 1, 1.3, -0.3)
x = np.concatenate([points, np.ones((1030, 1))], axis=1)
loss_and_grad = xent.value_and_grad(xent.losses.sparse_softmax_cross_entropy)


def train(example_weights):
    """Fit a linear classifier."""
    model = np.zeros((3, 2))
    for _ in range(400):
        _, dlogits = loss_and_grad(kind, x @ model, example_weights, reduction=Reduction.MEAN)
        model -= 1.0 * x.T @ dlogits
    return model


plain, balanced = train(1.0), train(np.where(kind == 1, 1000 / 30, 1.0))
for name, model in (("plain", plain), ("balanced", balanced)):
    found = (x @ model).argmax(axis=1)[kind == 1] == 1
    print(f"{name:9} finds {found.mean():.0%} of the rare class")

# %%
figure, axis = plt.subplots(figsize=(5.8, 3.6))
axis.plot(*points[kind == 0].T, ".", markersize=3, label="usual")
axis.plot(*points[kind == 1].T, "^", markersize=5, label="rare")
across = np.array([-3.5, 3.5])
for (name, model), line in zip((("plain", plain), ("balanced", balanced)), "-:", strict=True):
    normal = model[:, 1] - model[:, 0]
    axis.plot(across, -(normal[0] * across + normal[2]) / normal[1], line, color="C2", label=name)
axis.set(xlim=(-3.5, 4), ylim=(-3.5, 4.5))
axis.legend(ncols=4, loc="upper center", bbox_to_anchor=(0.5, 1.13))

# %%
# The weights themselves have a gradient, if you learn them: ``wrt="weights"``.

by_weights = xent.value_and_grad(xent.losses.sparse_softmax_cross_entropy, wrt="weights")
loss, gradient = by_weights(labels, logits, weights)
print(gradient)
