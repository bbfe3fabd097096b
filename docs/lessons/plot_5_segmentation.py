"""
5. Segment images: a class axis in the middle
=============================================

In segmentation every pixel is an example, and logits are often stored as ``[images, classes, height,
width]``. The class axis is read where it is: nothing is transposed or copied.
"""

# %%
# Pictures
# --------
# Discs and squares on a background, with noise.

import matplotlib.pyplot as plt
import numpy as np

import numba_xent as xent

rng = np.random.default_rng(2)
SIZE, IMAGES, CLASSES = 32, 24, 3
row, column = np.mgrid[:SIZE, :SIZE]
truth = np.zeros((IMAGES, SIZE, SIZE), np.int64)
for mask in truth:
    a, b, c, d = rng.integers(7, SIZE - 7, 4)
    mask[(row - a) ** 2 + (column - b) ** 2 < 36] = 1
    mask[(abs(row - c) < 5) & (abs(column - d) < 5)] = 2
images = np.array([0.0, 1.0, 2.0])[truth] + rng.normal(0, 0.45, truth.shape)

# %%
# Features of a pixel: its mean brightness in windows of several sizes, and their squares.


def features_of(picture):
    """Make ``[features, height, width]``."""
    maps = [np.ones_like(picture)]
    for radius in (0, 1, 2):
        padded = np.pad(picture, radius, mode="edge")
        window = (2 * radius + 1, 2 * radius + 1)
        mean = np.lib.stride_tricks.sliding_window_view(padded, window).mean(axis=(2, 3))
        maps += [mean, mean**2]
    return np.stack(maps)


features = np.stack([features_of(image) for image in images]).astype(np.float32)
print(features.shape)

# %%
# Training over axis 1
# --------------------
# ``axis=1`` is all that is said about the layout. One-hot labels are a transposed *view*: any strides
# will do. The loss per pixel has the shape of the logits without the class axis.

onehot = np.moveaxis(np.eye(CLASSES, dtype=np.float32)[truth], -1, 1)
loss_and_grad = xent.value_and_grad(xent.nn.softmax_cross_entropy_with_logits_v2)

weights = np.zeros((CLASSES, features.shape[1]), np.float32)
for _ in range(150):
    logits = np.einsum("cf,nfhw->nchw", weights, features)
    losses, dlogits = loss_and_grad(onehot, logits, axis=1)
    weights -= 1.0 * np.einsum("nchw,nfhw->cf", dlogits, features) / losses.size

print(f"{logits.shape} -> {losses.shape}, mean loss {losses.mean():.3f}")

# %%
# The result
# ----------

figure, axes = plt.subplots(2, 4, figsize=(5.8, 3.1))
for i, (above, below) in enumerate(axes.T):
    above.imshow(images[i], cmap="gray")
    below.imshow(logits[i].argmax(axis=0), cmap="viridis")
for axis in axes.flat:
    axis.set_axis_off()
axes[0, 0].set_title("pictures", loc="left")
axes[1, 0].set_title("classes found", loc="left")

# %%
# Pixels that do not count, such as borders or unknown ones, are given labels of 0 only: such an
# example costs nothing, but has a gradient, namely the softmax. Multiply by ``upstream`` to remove it:

known = (rng.random(truth.shape) > 0.2).astype(np.float32)
losses, dlogits = loss_and_grad(onehot, logits, axis=1, upstream=known)
print("gradient of an unknown pixel:", dlogits[0][:, known[0] == 0][:, 0])
