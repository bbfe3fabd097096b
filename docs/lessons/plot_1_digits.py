"""
1. Train a classifier of digits
===============================

A linear classifier of handwritten digits, in NumPy alone. The loss and its gradient come from one
call, which makes them in one pass over memory.
"""

# %%
# Data
# ----
# The package brings 1,797 images of 8 by 8 pixels. A last column of ones stands for the bias.

from importlib.resources import files

import matplotlib.pyplot as plt
import numpy as np

import numba_xent as xent

with np.load(files("numba_xent") / "_demo" / "digits.npz") as digits:
    images, digit = digits["x"], digits["y"].astype(np.int64)

features = np.concatenate([images.reshape(-1, 64) / 16, np.ones((len(images), 1))], axis=1)
features = features.astype(np.float32)
train, test = slice(0, 1400), slice(1400, None)

figure, axes = plt.subplots(1, 8, figsize=(5.8, 1.0))
for axis, image, label in zip(axes, images, digit, strict=False):
    axis.imshow(image, cmap="gray_r")
    axis.set_title(label, fontsize=10)
    axis.set_axis_off()

# %%
# The loss and its gradient
# -------------------------
# :func:`numba_xent.value_and_grad` makes of a loss function one that returns its value and the
# gradient by the logits. Labels are class indices here, so it is the *sparse* loss. With equal
# scores for ten classes, the loss is :math:`\log 10`.

loss_and_grad = xent.value_and_grad(xent.losses.sparse_softmax_cross_entropy)

weights = np.zeros((65, 10), np.float32)
loss, dlogits = loss_and_grad(digit[train], features[train] @ weights)
print(f"{loss:.4f} = log 10; the gradient has shape {dlogits.shape} and dtype {dlogits.dtype}")

# %%
# Training
# --------
# Gradient descent: the gradient by the weights is a product of matrices away.

history = []
for _ in range(200):
    loss, dlogits = loss_and_grad(digit[train], features[train] @ weights)
    weights -= 1.0 * features[train].T @ dlogits
    history.append(loss)

right = (features[test] @ weights).argmax(axis=1) == digit[test]
print(f"loss {loss:.3f}, {right.mean():.0%} of the other digits recognised")

# %%
figure, axis = plt.subplots(figsize=(5.8, 2.6))
axis.plot(history)
axis.set(xlabel="step", ylabel="loss", ylim=(0, None))

# %%
# What happened in memory
# -----------------------
# Probabilities were never stored. If the logits are not needed any more, the gradient can take
# their place, and the call allocates nothing of their size: see :doc:`/how-to/in-place`.

logits = features[train] @ weights
loss, dlogits = loss_and_grad(digit[train], logits, out=logits)
print(dlogits is logits)
