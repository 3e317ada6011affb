"""A language model learns a dialect from owners whose texts nobody sees: adapters alone are trained, travel, and have noise.

A small transformer is trained on public text. Then its kernels are frozen, and get adapters of low rank (Hu et al., 2021,
arXiv:2106.09685), which owners train on texts of their own. Frozen weights travel once to each owner, named by their digest from then on;
a round moves the adapters. Each owner adds a part of the noise to them, and their sum is all that is opened.
"""

import argparse
import asyncio
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from federated import DistributedGaussian, FedAvg, Federation, SecureAggregation, simulated_owners

WORDS, LENGTH, WIDTH, HEADS, RANK = 64, 16, 64, 4, 2
ADAPTED = ("value", "into", "out")
PRIVACY = DistributedGaussian(clip_norm=1.0, noise_multiplier=0.7, max_epsilon=10.0, delta=1e-5)


def language(seed: int, of: "np.ndarray[Any, Any] | None" = None) -> "np.ndarray[Any, Any]":
    """Which four words may follow each word; a dialect of another language differs for every third one."""
    follow = np.random.default_rng(seed).integers(WORDS, size=(WORDS, 4))
    return follow if of is None else np.where(np.arange(WORDS)[:, None] % 3 == 0, follow, of)


def texts(follow: "np.ndarray[Any, Any]", count: int, seed: int) -> tuple["np.ndarray[Any, Any]", "np.ndarray[Any, Any]"]:
    """Sentences, and for each of their words the next one."""
    rng = np.random.default_rng(seed)
    words = rng.integers(WORDS, size=(count, 1))
    for _ in range(LENGTH):
        words = np.concatenate([words, follow[words[:, -1], rng.integers(4, size=count)][:, None]], axis=1)
    return words[:, :-1].astype("int32"), words[:, 1:].astype("int32")


def build_language_model() -> keras.Model:
    """One block of a decoder, of layers that can be adapted: their ranks are in their settings, so that owners build the same."""
    words = keras.Input((LENGTH,), dtype="int32")
    places = layers.Embedding(LENGTH, WIDTH, name="places")(ops.cumsum(ops.ones_like(words), axis=1) - 1)
    x = layers.Embedding(WORDS, WIDTH, name="words")(words) + places
    h = layers.LayerNormalization(name="before_attention")(x)
    query, key, value = (
        layers.EinsumDense("btw,whd->bthd", (LENGTH, HEADS, WIDTH // HEADS), name=name)(h) for name in ("query", "key", "value")
    )
    scores = ops.einsum("bqhd,bkhd->bhqk", query, key) / (WIDTH // HEADS) ** 0.5
    mixed = ops.einsum("bhqk,bkhd->bqhd", ops.softmax(scores + (np.tri(LENGTH, dtype="float32") - 1) * 1e9), value)
    x = x + layers.EinsumDense("bthd,hdw->btw", (LENGTH, WIDTH), name="joined")(mixed)
    h = layers.LayerNormalization(name="before_network")(x)
    x = x + layers.Dense(WIDTH, use_bias=False, name="out")(layers.Dense(4 * WIDTH, activation="gelu", use_bias=False, name="into")(h))
    return keras.Model(words, layers.Dense(WORDS, name="next")(x))


def compiled(model: keras.Model, optimizer: keras.optimizers.Optimizer) -> keras.Model:
    """For the next word."""
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    return model


def adapted(model: keras.Model) -> keras.Model:
    """With everything frozen but adapters: of a layer that has one, Keras freezes the kernel."""
    for layer in model.layers:
        layer.trainable = False
    for name in ADAPTED:
        layer = model.get_layer(name)
        layer.trainable = True
        layer.enable_lora(RANK)
    return compiled(model, keras.optimizers.SGD(1.0))


async def main(rounds: int, owners: int) -> None:
    """Public text first, then the dialect."""
    keras.utils.set_random_seed(0)
    public = language(1)
    dialect = language(2, of=public)
    model = compiled(build_language_model(), keras.optimizers.Adam(3e-3))
    model.fit(*texts(public, 4000, 3), epochs=4, verbose=0)
    test = texts(dialect, 500, 4)
    before = model.evaluate(*test, verbose=0, return_dict=True)
    adapted(model)
    trained = sum(4 * int(np.prod(one.shape)) for one in model.trainable_variables)
    everything = sum(array.nbytes for array in model.get_weights())
    federation = Federation(
        model=lambda: model,
        owners=simulated_owners([texts(dialect, 64, 100 + i) for i in range(owners)]),
        strategy=FedAvg(fraction=0.5, local_epochs=2, batch_size=16),
        aggregation=SecureAggregation(threshold=0.6, most_examples=1),
        privacy=PRIVACY,
        evaluation=test,
    )
    async with federation:
        start = federation.weights
        async for outcome in federation.rounds(rounds):
            print(" ", outcome, flush=True)
        moves = [variable.trainable for variable in model.weights]
        still = [np.array_equal(a, b) for a, b, moved in zip(federation.weights, start, moves, strict=True) if not moved]
    last, reports = federation.history[-1], [name for outcome in federation.history for name in outcome.reported]
    moved = sum(outcome.bytes for outcome in federation.history) - len(set(reports)) * (everything - trained)
    print(f"frozen weights that are bit-equal afterwards: {sum(still)} of {len(still)}")
    each = moved / len(reports) / 2
    print(f"bytes each way for an owner in a round: {each:,.0f}; of the adapters: {trained:,}; of the model: {everything:,}")
    print(f"perplexity of the dialect: {np.exp(before['loss']):.1f} before, {np.exp(last.metrics['test_loss']):.1f} after")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--owners", type=int, default=240)
    arguments = parser.parse_args()
    asyncio.run(main(arguments.rounds, arguments.owners))
