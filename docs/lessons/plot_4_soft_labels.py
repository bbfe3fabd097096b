"""
4. Learn from soft labels
=========================

Labels need not be one-hot. Here a small model learns from the probabilities of a larger one
("distillation"), and then the labels themselves are learnt.
"""

# %%
# A student learns from a teacher
# -------------------------------
# The teacher sees all features of an example, the student half of them. Its labels are the teacher's
# probabilities.

import matplotlib.pyplot as plt
import numpy as np

import numba_xent as xent

rng = np.random.default_rng(1)
x = rng.normal(size=(2000, 16)).astype(np.float32)
teacher = rng.normal(size=(16, 5)).astype(np.float32)

scores = np.exp(x @ teacher)
soft = scores / scores.sum(axis=1, keepdims=True)

student = np.zeros((8, 5), np.float32)
loss_and_grad = xent.value_and_grad(xent.losses.softmax_cross_entropy)
history = []
for _ in range(100):
    loss, dlogits = loss_and_grad(soft, x[:, :8] @ student)
    student -= 1.0 * x[:, :8].T @ dlogits
    history.append(loss)

# %%
# The loss cannot fall to 0: it is at least the entropy of the labels, which is the loss of the
# teacher itself.

floor = xent.losses.softmax_cross_entropy(soft, x @ teacher)
print(f"student {history[-1]:.3f}, at least {floor:.3f}")

figure, axis = plt.subplots(figsize=(5.8, 2.8))
axis.plot(history, label="student")
axis.axhline(floor, color="C1", linestyle="--", label="entropy of the labels")
axis.set(xlabel="step", ylabel="loss", ylim=(0, None))
axis.legend()

# %%
# A gradient by the labels
# ------------------------
# :func:`numba_xent.nn.softmax_cross_entropy_with_logits_v2` also has a gradient by the labels: minus
# the log-softmax. A tuple of names gives both gradients, from the same pass.

both = xent.value_and_grad(xent.nn.softmax_cross_entropy_with_logits_v2, wrt=("logits", "labels"))
losses, (dlogits, dlabels) = both(soft, x @ teacher)
print(losses.shape, dlogits.shape, dlabels.shape)
print("minus the log-softmax:", np.allclose(dlabels, -np.log(soft), atol=1e-4))

# %%
# Labels are taken as they are. They are not normalised, and where they do not sum to 1 the gradient
# is still softmax minus labels, as in TensorFlow: see :doc:`/explanation/tensorflow`.
