"""The slow and obviously right way: one example at a time, by Keras and a plain tape."""

import numpy as np
import tensorflow as tf


def each_gradient(model, x, y):
    """The gradient of each example, flattened: (B, parameters)."""
    rows = []
    for index in range(len(tf.nest.flatten(x)[0])):
        with tf.GradientTape() as tape:
            one = tf.nest.map_structure(lambda a, i=index: tf.constant(a[i : i + 1]), (x, y))
            loss = model.compute_loss(x=one[0], y=one[1], y_pred=model(one[0], training=True), training=True)
            values = [variable.value for variable in model.trainable_variables]
        found = tape.gradient(loss, values, unconnected_gradients="zero")
        rows.append(np.concatenate([tf.reshape(tf.convert_to_tensor(g), [-1]).numpy() for g in found]))
    return np.stack(rows)


def clipped_sum(gradients, clip):
    norms = np.linalg.norm(gradients, axis=1)
    return (gradients * np.minimum(1.0, clip / np.maximum(norms, 1e-30))[:, None]).sum(0)


def flat_weights(model):
    return np.concatenate([variable.value.numpy().reshape(-1) for variable in model.trainable_variables])
