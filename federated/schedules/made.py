"""Whether a round has a step of the optimizer in it: found out before training where the number of batches decides, and after it else.

Each round begins with a fresh optimizer: gradients that it has accumulated for a step that is not made are gone with the round, as they are
at the end of one `fit` whose model is compiled anew. With `gradient_accumulation_steps=k` a round of b batches makes floor(b / k) steps.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from federated.errors import DataError
from federated.records.data import Data
from federated.records.nest import leaves
from federated.schedules.continued import accumulated, steps
from federated.tasks.update import Array, LocalTraining

if TYPE_CHECKING:
    import keras

log = logging.getLogger(__name__)

_told: weakref.WeakSet[Data] = weakref.WeakSet()


def check_enough(model: keras.Model, training: LocalTraining, data: Data, *, min_batch: int) -> None:
    """Refuse to train where the optimizer would make no step of all batches of a round. Where some are left over, the log says so.

    The message tells no number of batches, for where updates are hidden, numbers of examples are; the log of the owner has it.

    Args:
        model: compiled.
        training: how.
        data: that the batches are made of.
        min_batch: as for `Trainer`.

    Raises:
        DataError: there are fewer batches than gradients make a step.
    """
    each = accumulated(model.optimizer)
    if each == 1 or not _is_counted(model, private=bool(training.noise_multiplier)):
        return
    batches = steps(training, data, min_batch=min_batch)
    if batches < each:
        log.warning("a round has %d batches here, and a step of the optimizer needs the gradients of %d", batches, each)
        raise DataError(
            f"gradient_accumulation_steps={each}, and this owner has fewer batches than that in a round of {training.epochs} epochs: no "
            f"step of the optimizer would be made, for each round begins with a fresh one. {each} batches or more are needed: "
            + ("lower gradient_accumulation_steps or the sampling rate" if training.noise_multiplier else _SMALLER)
            + ", or make more epochs in a round"
        )
    if batches % each and data not in _told:
        _told.add(data)
        log.warning(
            "the gradients of the last %d of %d batches of each round make no step: gradient_accumulation_steps=%d, and each round begins "
            "with a fresh optimizer; a number of batches that it divides loses nothing",
            batches % each,
            batches,
            each,
        )


_SMALLER = "lower gradient_accumulation_steps or batch_size"


def check_made(model: keras.Model, moved: Iterable[Array], data: Data, *, private: bool) -> None:
    """Refuse what came of a training in which no step was made. Where gradients overflow in each round, the log says so.

    Args:
        model: after the training.
        moved: by how much each of its trainable weights was.
        data: that it was trained on.
        private: whether it was DP-SGD.

    Raises:
        DataError: the optimizer has made no step.
    """
    if not int(model.optimizer.iterations) and (_is_counted(model, private=private) or not any(array.any() for array in moved)):
        raise DataError(f"no step of the optimizer was made in this round, and nothing was learned: {_why(model)}")
    scale = getattr(model.optimizer, "dynamic_scale", None)
    if scale is not None and data not in _told and float(scale) < model.optimizer.initial_scale:
        _told.add(data)
        log.warning(
            "steps were left out, for gradients were not finite at LossScaleOptimizer(initial_scale=%g), where each round begins; at %g "
            "they are: that as initial_scale leaves out none",
            model.optimizer.initial_scale,
            float(scale),
        )


def check_counted(model: keras.Model, moved: Iterable[Array], data: Data) -> None:
    """Refuse an update of nothing that is one because nothing counts.

    Others may be right: the learning rate can be 0, and so can each gradient.

    Args:
        model: compiled.
        moved: by how much each of its trainable weights was, or is to be.
        data: that it was trained on.

    Raises:
        DataError: all weights of the examples are 0, or all labels of a class that the loss ignores.
    """
    if not any(array.any() for array in moved) and _nothing_counts(model, data):
        raise DataError(
            "nothing of this owner's data counts: the weight of each example is 0, or the loss ignores the class of each label; its update "
            "would be none, and would hold back those of others by its number of examples"
        )


def _why(model: keras.Model) -> str:
    import keras  # noqa: PLC0415  is loaded already: there is a model

    optimizer, each = model.optimizer, accumulated(model.optimizer)
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        of = f" of {each} batches (gradient_accumulation_steps={each})" if each > 1 else ""
        return (
            f"too few batches had gradients that are finite when the loss is scaled, and a step{of} needs such. Each round begins at "
            f"LossScaleOptimizer(initial_scale={optimizer.initial_scale:g}), which is halved after each that is not: lower initial_scale, "
            "or make more batches in a round"
        )
    if each > 1:
        return f"there were fewer than gradient_accumulation_steps={each} batches; {_SMALLER}, or make more epochs in a round"
    return (
        "the train_step of the model's class, or its optimizer, has counted no step and moved no weight that is trained: call "
        "optimizer.apply in it"
    )


def _is_counted(model: keras.Model, *, private: bool) -> bool:
    """Whether the optimizer counts one gradient for each batch: it and the step are Keras' own."""
    import keras  # noqa: PLC0415  is loaded already: there is a model

    kind, inner = type(model), getattr(model.optimizer, "inner_optimizer", model.optimizer)
    own_step = any(getattr(kind, name) is not getattr(keras.Model, name) for name in ("train_step", "make_train_function"))
    own_count = any(getattr(type(inner), name) is not getattr(keras.optimizers.Optimizer, name) for name in ("apply", "iterations"))
    return (private or not own_step) and not own_count


def _nothing_counts(model: keras.Model, data: Data) -> bool:
    """Whether all weights of examples are 0, or all labels of the class that the loss ignores. A data set is read for it."""
    ignored = getattr(model.loss, "ignore_class", None)
    batches: Any = [data.arrays] if data.arrays is not None else data.batches()
    return all(_batch_counts_nothing(batch, ignored) for batch in batches)


def _batch_counts_nothing(batch: Any, ignored: int | None) -> bool:
    weights = list(leaves(batch[2])) if len(batch) > 2 else []
    if weights and not any(np.asarray(one).any() for one in weights):
        return True
    labels = [np.asarray(one) for one in leaves(batch[1])]
    return ignored is not None and len(labels) == 1 and bool((labels[0] == ignored).all())
