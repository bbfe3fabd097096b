"""
3. Smooth the labels
====================

A label says "this class and no other", and a model trained on it never finds itself sure enough.
Label smoothing takes a share of each label and spreads it evenly over all classes.
"""

# %%
# What it does to a loss
# ----------------------
# Smoothing by :math:`\epsilon` replaces a label :math:`l` by :math:`l (1 - \epsilon) + \epsilon / C`.
# The smoothed labels are never stored: they are two more terms of the same pass.

import matplotlib.pyplot as plt
import numpy as np

import numba_xent as xent

sure = np.linspace(0, 12, 200)
logits = np.zeros((200, 10))
logits[:, 3] = sure
onehot = np.zeros((200, 10))
onehot[:, 3] = 1

figure, axis = plt.subplots(figsize=(5.8, 3.2))
for smoothing in (0, 0.05, 0.1, 0.2):
    losses = xent.losses.softmax_cross_entropy(
        onehot, logits, label_smoothing=smoothing, reduction="none"
    )
    axis.plot(sure, losses, label=f"{smoothing:g}")
axis.set(xlabel="logit of the right class, others 0", ylabel="loss", ylim=(0, None))
axis.legend(title="label_smoothing", ncols=2)

# %%
# Without smoothing the loss falls for ever; with it, there is a logit that is best, and going beyond
# costs. At the best one the probabilities are the smoothed labels:

smoothing = 0.1
best = np.zeros((1, 10))
best[0, 3] = np.log((1 - smoothing + smoothing / 10) / (smoothing / 10))
label = onehot[:1]
loss, gradient = xent.value_and_grad(xent.losses.softmax_cross_entropy)(
    label, best, label_smoothing=smoothing
)
print(f"logit {best[0, 3]:.3f}, loss {loss:.4f}, largest gradient {abs(gradient).max():.0e}")
