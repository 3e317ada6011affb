"""Models with several inputs and outputs: trained on shares as by `keras.Model.fit`, in the simulator and by real workers, or refused."""

import asyncio

import keras
import msgspec
import numpy as np
import pytest
from keras import layers, losses
from training_deployment import SCALE, Trainers

from inner_workers import inner_cluster
from privacy.mechanisms import DPSGD
from protocols import connect, share
from protocols.datasets.dataset import SharedDataset
from protocols.errors import InputError, ModelError
from protocols.mpc.numbers.fixed_point import decode, encode
from protocols.owner.compiled import plan, weights
from protocols.owner.compiled_loss import expects
from protocols.owner.compiled_optimizer import scheduled
from protocols.owner.epochs import values_of
from protocols.owner.fit.examples import examples, targets
from protocols.owner.fit.heads import ends, heads
from protocols.owner.metrics import told_of
from protocols.owner.stored import described, encoded
from protocols.owner.targets import fitted
from protocols.training.circuits import StepCircuits
from protocols.training.networks.losses import JointLoss
from protocols.training.networks.micro_batches import none_yet
from protocols.training.terms import StepsReport, TrainingTerms, check

EXAMPLES, BATCH, EPOCHS = 10, 4, 2
EAGERLY = {"run_eagerly": True}
"""In a graph Keras does not know how many examples the last batch has, and takes means of means for the losses of single outputs."""
RANDOM = np.random.default_rng(5)
FACTS = RANDOM.normal(size=(EXAMPLES, 4)).astype(np.float32)
IDS = RANDOM.integers(6, size=(EXAMPLES, 3)).astype(np.int32)
LABELS = RANDOM.integers(3, size=EXAMPLES)
ONE_HOT = np.eye(3, dtype=np.float32)[LABELS]
TRUTHS = (LABELS > 0).astype(np.float32)[:, None]
NUMBERS = RANDOM.normal(size=(EXAMPLES, 2)).astype(np.float32)
IMAGES = RANDOM.normal(size=(EXAMPLES, 2, 3)).astype(np.float32)
COUNTS = RANDOM.uniform(0, 3, EXAMPLES)


def network(ends=("softmax", None), sizes=(3, 2), named=False, optimizer=None, ids=True, **settings):
    """Facts, and codes of a table (or as numbers); outputs a, b, ... of a common layer. Always with the same weights."""
    keras.utils.set_random_seed(2)
    facts, codes = keras.Input((4,), name="facts"), keras.Input((3,), name="codes", dtype="int32")
    found = layers.Flatten()(layers.Embedding(6, 2)(codes)) if ids else layers.Dense(4)(keras.ops.cast(codes, "float32"))
    hidden = layers.Dense(5, "relu")(layers.Concatenate()([facts, found]))
    outputs = {name: layers.Dense(size, end, name=name)(hidden) for name, size, end in zip("abc", sizes, ends, strict=False)}
    inputs = {"facts": facts, "codes": codes}
    built = keras.Model(inputs, outputs) if named else keras.Model(list(inputs.values()), list(outputs.values()))
    random = np.random.default_rng(2)
    for weight in built.trainable_weights:
        weight.assign(random.normal(size=weight.shape) * 0.6)
    built.compile(
        **{"optimizer": optimizer or keras.optimizers.SGD(0.1), "loss": ["sparse_categorical_crossentropy", "mse"], **EAGERLY} | settings
    )
    return built


def penalised_outputs(**settings):
    """Penalties on the common layer, on an output and on weights: the weights of losses do not multiply them."""
    built = network(**settings)
    next(one for one in built.layers if isinstance(one, layers.Dense)).activity_regularizer = keras.regularizers.L1L2(0.05, 0.1)
    built.get_layer("b").activity_regularizer = keras.regularizers.L2(0.2)
    built.get_layer("b").kernel.regularizer = keras.regularizers.L2(0.1)
    return built


def stored(name, array, classes):
    values, content = encoded(name, array, classes)
    return values, SharedDataset(described(name, values, content, handle=name.encode()), b"")


def on_shares(built, x, y, w=None, metrics=True):
    """What `SharedModel.fit(shuffle=False)` makes and tells: the weights in the end, and the logs of each epoch."""
    given = examples(x, y, w, ends(built, "inputs"), ends(built, "outputs"))
    each, asked = heads(built), plan(built)
    ys = zip(given.y.items(), each, strict=True)
    held = {name: stored(name, array.astype(float), None) for name, array in (given.x | given.w).items()}
    held |= {
        name: stored(name, targets(array, expects(head)), head.shape[0] * (expects(head) == "labels") or None) for (name, array), head in ys
    }
    names = told_of(each, asked.loss, metrics, evaluates=False)
    xs, ys, ws = ([held[name] for name in arrays] for arrays in (given.x, given.y, given.w))
    ws = ws * len(ys) if len(ws) == 1 else ws
    asked = msgspec.structs.replace(asked, value=names.loss, weighted=bool(ws))
    made = fitted(asked, [one for _, one in ys], BATCH, names.places)
    (x, *more), (y, *others), (w, *counts) = ([one.dataset for _, one in part] or [None] for part in (xs, ys, ws))
    further = {"xs": tuple(more), "ys": tuple(others), "ws": tuple(counts)}
    terms = TrainingTerms(b"run", made, x, y, BATCH, None, 1 << 29, False, "model", w=w, **further)
    optimizer = scheduled(built, made.optimizer, 0, EPOCHS * terms.steps(0), made.weight)
    terms = msgspec.structs.replace(terms, plan=msgspec.structs.replace(made, optimizer=optimizer))
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(terms), type=TrainingTerms) == terms, "workers are told the same"
    steps = StepCircuits(terms)
    arrays = dict(zip(terms.datasets, [array for array, _ in (*xs, *ys, *ws)], strict=True))
    values = {name: encode(number, SCALE) for name, number in zip(made.shapes, weights(built), strict=True)}
    values |= {name: np.zeros(shape, np.uint64) for name, shape in made.states.items()}
    logs, number = [], 0
    for epoch in range(EPOCHS):
        sums = {}
        for index, rows in enumerate(terms.rows(epoch), 1):
            last = index == terms.steps(epoch)
            for part, (micro, some) in enumerate(steps.micro_batches(rows, last=last)):
                circuit, like = steps.at(micro, number), steps.like(micro)
                given = none_yet(circuit) | values | {name: terms.given(name, array[some]) for name, array in arrays.items()}
                told = Trainers(circuit, f"{number} {part}", like).outputs(given)
                for name in ("metric", "loss"):
                    if name in told:
                        sums[name] = sums.get(name, np.uint64(0)) + told.pop(name)
                values = {name: one for name, one in values.items() if name in made.shapes | made.states} | told
            number += 1
        assert not values["outside"].any()
        sums = {name: total for name, total in sums.items() if name == "loss" or names.metrics}
        none = {name: np.zeros_like(total) for name, total in sums.items()}
        reports = (StepsReport(1, told, np.zeros(1, np.uint64), 0, 0, 0, 0.0, 0.0, b"") for told in (sums, none))
        logs.append(names.logs(values_of(terms, tuple(reports))))
    values = made.finished(values)
    return [decode(values[name], SCALE) for name in made.shapes], logs


def same_as_keras(build, x, y, w=None, metrics=True, near=0.02):
    found, logs = on_shares(build(), x, y, w, metrics)
    reference = build()
    before = [np.array(weight) for weight in reference.get_weights()]
    history = reference.fit(x, y, sample_weight=w, batch_size=BATCH, epochs=EPOCHS, shuffle=False, verbose=0).history
    for one, expected, start in zip(found, reference.get_weights(), before, strict=True):
        np.testing.assert_allclose(one, expected, atol=near * np.abs(expected - start).max() + 2e-4)
    for name in logs[0]:
        np.testing.assert_allclose([log[name] for log in logs], history[name], rtol=0.01, atol=0.005, err_msg=name)
    return logs, history


Y = [LABELS, NUMBERS]
TOLD = ["loss", "a_accuracy"]
CASES = {
    "labels and numbers": (lambda: network(metrics=[["accuracy"], None]), Y, None, TOLD),
    "by name": (
        lambda: network(
            named=True,
            ids=False,
            loss={"b": "mae", "a": "categorical_crossentropy"},
            loss_weights={"b": 0.25, "a": 2.0},
            metrics={"b": ["mae"], "a": ["accuracy"]},
            optimizer=keras.optimizers.Adam(0.02),
        ),
        {"b": NUMBERS, "a": ONE_HOT},
        None,
        ["loss", "a_accuracy", "b_mae"],
    ),
    "names in a list": (
        lambda: network(
            loss={"b": "mse", "a": "sparse_categorical_crossentropy"}, loss_weights={"a": 0.01, "b": 1.0}, metrics={"b": "mse"}
        ),
        {"a": LABELS, "b": NUMBERS},
        None,
        ["loss", "b_mse"],
    ),
    "three outputs, and weights of examples": (
        lambda: network(("softmax", "sigmoid", None), (3, 1, 2), loss=["categorical_crossentropy", "binary_crossentropy", losses.Huber()]),
        [ONE_HOT, TRUTHS, NUMBERS],
        [COUNTS, COUNTS[::-1].copy(), COUNTS**2],
        ["loss"],
    ),
    "one loss for all, and weights once": (
        lambda: network((None, "sigmoid"), (2, 2), loss="mse", metrics=[["mse"], ["mse"]], optimizer=keras.optimizers.SGD(0.1, 0.9)),
        [NUMBERS, NUMBERS],
        COUNTS,
        ["loss", "a_mse", "b_mse"],
    ),
    "metrics by default": (
        lambda: network((None, None), (3, 2), loss=["mse", "cosine_similarity"], optimizer="adam", ids=False),
        [ONE_HOT, NUMBERS],
        None,
        True,
    ),
    "penalties on activations": (
        lambda: penalised_outputs(loss_weights=[0.5, 2.0], optimizer=keras.optimizers.Adam(0.02), ids=False),
        Y,
        COUNTS,
        ["loss"],
    ),
    "hinges of truths": (lambda: network((None, None), (1, 3), loss=["hinge", "categorical_hinge"]), [TRUTHS, ONE_HOT], None, ["loss"]),
    "sums of batches": (
        lambda: network(
            loss=[losses.SparseCategoricalCrossentropy(reduction="sum"), losses.MeanSquaredError(reduction="sum")],
            optimizer=keras.optimizers.SGD(0.02),
        ),
        Y,
        None,
        ["loss"],
    ),
}


@pytest.mark.sample(2)
@pytest.mark.parametrize("name", CASES)
def test_weights_and_logs_are_those_of_keras(name):
    build, y, w, metrics = CASES[name]
    x = {"facts": FACTS, "codes": IDS} if isinstance(y, dict) else [FACTS, IDS]
    if metrics is True:
        _, logs = on_shares(build(), x, y, w)
        assert list(logs[0]) == ["a_mean_squared_error", "b_cosine_similarity"]
        metrics = ["loss"]
    logs, history = same_as_keras(build, x, y, w, metrics)
    assert set(logs[0]) == set(history), "Keras tells the same"


def penalised():
    """An end that is read on, and a penalty; one input of several axes."""
    keras.utils.set_random_seed(2)
    image = keras.Input((2, 3), name="image")
    hidden = layers.Dense(4, "tanh", kernel_regularizer=keras.regularizers.L2(0.02))(layers.Flatten()(image))
    chance = layers.Dense(3, "softmax", name="chance")(hidden)
    drawn = layers.Reshape((2, 3), name="drawn")(layers.Dense(6)(layers.Concatenate()([hidden, chance])))
    built = keras.Model(image, [drawn, chance])
    built.compile(keras.optimizers.SGD(0.2), ["mse", "sparse_categorical_crossentropy"], loss_weights=[1.5, 0.5], **EAGERLY)
    return built


@pytest.mark.long
def test_an_end_that_another_output_reads_and_a_penalty():
    same_as_keras(penalised, IMAGES, [IMAGES, LABELS], metrics=["loss"])


REFUSED = {
    "no loss": ({"loss": [None, "mse"]}, r"outputs \['a'\] have no loss"),
    "losses of one": ({"loss": [["mse", "mae"], "mse"]}, "each has one loss"),
    "too few": ({"loss": ["mse"]}, "one entry for each"),
    "other names": ({"loss": {"a": "mse", "c": "mse"}}, "has the names"),
    "no weight": ({"loss_weights": [0.0, 1.0]}, "a number above 0 is needed for each loss"),
    "weights by name": ({"loss_weights": {"a": 1.0, "b": 1.0}}, "in a list or a dict as the losses"),
    "a vanishing weight": ({"loss_weights": [1.0, 1e-6]}, "loss_weights=1e-06|vanishes in fixed point"),
    "several reductions": ({"loss": ["mse", losses.MeanSquaredError(reduction="sum")]}, "several reductions"),
    "a list of metrics": ({"metrics": ["accuracy"]}, r"compile\(metrics=.*one entry for each"),
    "another metric": ({"metrics": [["mse"], None]}, "asks for 'mse'"),
    "weighted metrics": ({"weighted_metrics": [["accuracy"], None]}, "weighted_metrics"),
    "a list beside a dict": ({"named": True}, "is a list, and the outputs are in a dict"),
    "two ends of a layer": (None, "of the same layer"),
    "nested": (None, "within others"),
}


def odd(kind):
    x = keras.Input((4,))
    dense = layers.Dense(2, name="twice")
    outputs = [dense(x), dense(x * 2)]
    built = keras.Model(x, outputs if kind == "two ends of a layer" else {"a": {"b": outputs[0]}, "c": outputs[1]})
    built.compile("sgd", "mse")
    return built


@pytest.mark.sample(5)
@pytest.mark.parametrize("name", REFUSED)
def test_what_compile_says_and_is_not_done_is_refused_by_name(name):
    settings, why = REFUSED[name]
    with pytest.raises(ModelError, match=why):
        plan(odd(name) if settings is None else network(**settings))


def test_a_joint_loss_is_one_of_several_that_count():
    joint = plan(network()).loss
    assert isinstance(joint, JointLoss)
    for wrong in (joint.heads[:1], (joint.heads[0], joint.heads[0]), (joint.heads[0], msgspec.structs.replace(joint.heads[1], weight=2.0))):
        with pytest.raises(ModelError):
            JointLoss(wrong)
    with pytest.raises(ModelError, match="do not make"):
        msgspec.structs.replace(plan(network()), parts=(3, 3))


@pytest.fixture
async def cluster(tmp_path):
    async with inner_cluster(tmp_path) as cluster:
        yield cluster


async def epochs_of(shared, *data, **settings):
    return [epoch async for epoch in shared.fit(*data, **{"shuffle": False, "progress": False, "batch_size": BATCH} | settings)]


def named():
    return network(
        ("softmax", None, "sigmoid"),
        (3, 2, 1),
        named=True,
        loss={"b": "mse", "a": "sparse_categorical_crossentropy", "c": "binary_crossentropy"},
        loss_weights={"b": 0.5, "a": 1.0, "c": 1.0},
        metrics={"a": ["accuracy"]},
        optimizer=keras.optimizers.SGD(0.1, momentum=0.5),
    )


RANGES = {"facts": (-4.0, 4.0), "codes": (0, 5)}
NAMED = {"facts": FACTS, "codes": IDS}, {"a": LABELS, "b": NUMBERS, "c": TRUTHS}


def assert_same(found, expected):
    """Answers in the same structure."""
    assert type(found) is type(expected)
    pairs = [(found[name], expected[name]) for name in expected] if isinstance(expected, dict) else zip(found, expected, strict=True)
    for one, other in pairs:
        np.testing.assert_allclose(one, other, atol=0.01)


async def test_fit_evaluate_predict_and_serve_by_name(cluster):
    model = named()
    x, y = NAMED
    settings = {"validation_split": 0.2, "epochs": 2}
    seen = []
    watching = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(sorted(logs)))
    stopping = keras.callbacks.EarlyStopping("val_a_accuracy", patience=9)
    async with await share(model, cluster, input_range=RANGES) as shared:
        epochs = await epochs_of(shared, x, y, metrics=["loss", "a_accuracy"], callbacks=[watching, stopping], **settings)
        metrics = await shared.evaluate(x, y, sample_weight={"a": COUNTS, "b": COUNTS**2, "c": COUNTS})
        answers = await shared.predict(x)
        serving = asyncio.create_task(shared.serve(1))
        while not serving.done() and not await shared.prepared():
            pass
        async with connect(cluster, shared.name) as remote:
            served = await remote.query(x)
        await serving
        revealed = await shared.reveal()
    history = model.fit(x, y, batch_size=BATCH, shuffle=False, verbose=0, **settings).history
    assert stopping.mode == "max"
    assert seen[0] == sorted(history)
    for name, expected in history.items():
        assert [epoch.logs[name] for epoch in epochs] == pytest.approx(expected, abs=0.01), name
    assert "a_accuracy" in str(epochs[0])
    assert "val_b_loss" in str(epochs[0])
    expected = model.evaluate(x, y, sample_weight={"a": COUNTS, "b": COUNTS**2, "c": COUNTS}, verbose=0, return_dict=True)
    assert metrics == pytest.approx(expected, abs=0.01)
    assert_same(answers, model.predict(x, verbose=0))
    assert_same(served, model.predict(x, verbose=0))
    for one, other in zip(revealed.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=0.005)


@pytest.mark.long
@pytest.mark.parametrize("equals", [False, True])
async def test_stored_arrays_in_lists_and_a_training_that_goes_on(tmp_path, equals):
    def build():
        return network(metrics=[["accuracy"], ["mse"]])

    async with inner_cluster(tmp_path, equals=equals) as cluster:
        arrays = {"facts": FACTS, "codes": IDS, "labels": LABELS, "numbers": NUMBERS}
        facts, codes, labels, numbers = [await cluster.store(name, array) for name, array in arrays.items()]
        settings = {"folder": tmp_path / "owner", "resume": True, "validation_data": ([facts, codes], [labels, numbers], COUNTS)}
        for epochs in (1, 2):  # the second begins with what the first has left
            async with await share(build(), cluster, name="net", input_range=RANGES) as shared:
                made = await epochs_of(shared, [facts, codes], (labels, numbers), epochs=epochs, **settings)
                assert [epoch.number for epoch in made] == [epochs]
                answers = await shared.predict((FACTS, IDS))
                trained = (await shared.reveal()).get_weights()
    model = build()
    data = {"validation_data": ([FACTS, IDS], [LABELS, NUMBERS], COUNTS)}
    history = model.fit([FACTS, IDS], [LABELS, NUMBERS], batch_size=BATCH, epochs=2, shuffle=False, verbose=0, **data).history
    assert list(made[0].logs) == ["a_accuracy", "b_mse", "val_loss", "val_a_loss", "val_b_loss", "val_a_accuracy", "val_b_mse"]
    for name, value in made[0].logs.items():
        assert value == pytest.approx(history[name][1], abs=0.01), name
    assert_same(answers, model.predict([FACTS, IDS], verbose=0))
    for one, other in zip(trained, model.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=0.005)


X, Z = NAMED
DATA_REFUSED = {
    "an input is missing": (({"facts": FACTS}, Z), {}, r"x has the names \['facts'\]: one array for each of"),
    "a list for names": (([FACTS, IDS], Z), {}, "x is a list: one array for each of .* in a dict"),
    "one array": ((FACTS, Z), {}, "x is a ndarray"),
    "nested": (({"facts": FACTS, "codes": {"more": IDS}}, Z), {}, "x 'codes' is a dict: an array is needed"),
    "other outputs": ((X, {"a": LABELS, "c": NUMBERS}), {}, r"y has the names \['a', 'c'\]"),
    "no target": ((X, Z | {"b": None}), {}, "y 'b' is missing"),
    "fewer": ((X, Z | {"a": LABELS[:4]}), {}, "y 'a' has 4"),
    "weights of one output": ((X, Z), {"sample_weight": {"a": COUNTS}}, r"w has the names \['a'\]"),
    "too many weights": ((X, Z), {"sample_weight": {"a": COUNTS, "b": NUMBERS, "c": COUNTS}}, "sample_weight of 'b' has shape"),
    "class_weight": ((X, Z), {"class_weight": {0: 2.0}}, "class_weight is for models with a single output"),
    "privacy": ((X, Z), {"privacy": DPSGD(noise_multiplier=1.0, max_grad_norm=1.0)}, "privacy= is for models with a single output"),
    "another metric": ((X, Z), {"metrics": ["b_mse"]}, "'loss' and 'a_accuracy' can be told"),
    "a monitor": ((X, Z), {"callbacks": [keras.callbacks.EarlyStopping("val_loss")]}, "monitors 'val_loss'"),
    "wrong widths": ((X, Z | {"b": IDS.astype(float)}), {}, "has 3 targets an example, the model has 2 outputs"),
    "wrong shapes": (({"facts": FACTS[:, :3], "codes": IDS}, Z), {}, "takes 4 numbers"),
    "labels beyond": ((X, Z | {"a": LABELS + 1}), {}, "labels out of range"),
}


async def test_data_that_do_not_fit_are_refused_by_name_before_anything_runs(cluster):
    async with await share(named(), cluster, input_range=RANGES) as shared:
        for name, (data, settings, why) in DATA_REFUSED.items():
            with pytest.raises(InputError, match=why):
                await epochs_of(shared, *data, **settings)
            assert not shared._training.begun, name
        with pytest.raises(InputError, match="is shared already: predictions"):
            await shared.predict(X | {"facts": await cluster.store("facts", FACTS)})


def one_output(outputs, loss="mse"):
    first, second = keras.Input((3,), name="first"), keras.Input((2,), name="second")
    keras.utils.set_random_seed(1)
    built = keras.Model([first, second], outputs(layers.Dense(2, name="end")(layers.Concatenate()([first, second]))))
    built.compile(keras.optimizers.SGD(0.1), loss)
    return built


@pytest.mark.long
@pytest.mark.parametrize("form", [lambda y: {"made": y}, lambda y: [y], lambda y: y])
async def test_one_output_in_a_dict_or_a_list_and_privacy(cluster, form):
    """So little is clipped, and so little noise added, that Keras does the same."""
    x, y, model = [FACTS[:, :3], FACTS[:, 2:]], form(NUMBERS), one_output(form)
    async with await share(model, cluster, input_range=(-4.0, 4.0)) as shared:
        await epochs_of(shared, x, y, batch_size=5)
        private = DPSGD(noise_multiplier=1e-4, max_grad_norm=16.0)
        (epoch,) = await epochs_of(shared, x, y, batch_size=5, epochs=2, initial_epoch=1, privacy=private)
        answers, trained = await shared.predict(x), (await shared.reveal()).get_weights()
    model.fit(x, y, batch_size=5, shuffle=False, verbose=0, epochs=2)
    assert epoch.privacy is not None
    for one, other in zip(trained, model.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=0.005)
    expected = model.predict(x, verbose=0)
    assert_same(*((answers, expected) if isinstance(expected, dict) else ([answers], [expected])))


def test_workers_refuse_arrays_that_are_not_one_for_each_input_and_output():
    made = fitted(plan(network()), [stored("a", LABELS, 3)[1], stored("b", NUMBERS, None)[1]], BATCH)
    facts, codes, labels, numbers = (
        stored(name, array, None)[1].dataset
        for name, array in (("facts", FACTS), ("codes", IDS.astype(float)), ("labels", LABELS), ("numbers", NUMBERS))
    )

    def terms(x=facts, y=labels, **more):
        further = {"xs": (codes,), "ys": (numbers,)} | more
        return TrainingTerms(b"run", made, x, y, BATCH, None, 1 << 29, False, "model", **further)

    check(terms())
    weight = stored("weight", COUNTS[:, None], None)[1].dataset
    for wrong in ({"xs": ()}, {"ys": ()}, {"xs": (codes, codes)}, {"w": weight}, {"ws": (weight,)}):
        with pytest.raises(InputError, match="were named, and"):
            check(terms(**wrong))
    for wrong, why in (({"x": codes, "xs": (facts,)}, "takes 4 numbers"), ({"y": numbers, "ys": (labels,)}, "has 2 targets")):
        with pytest.raises(InputError, match=why):
            check(terms(**wrong))
    short = stored("short", NUMBERS[:4], None)[1].dataset
    with pytest.raises(InputError, match="must be as many"):
        check(terms(ys=(short,)))


async def test_a_rate_that_vanishes_for_one_of_several_losses_is_refused(cluster):
    """A schedule, and a rate that is set later, were compared with the largest weight of a loss only."""
    schedule = keras.optimizers.schedules.PolynomialDecay(1e-4, 10, 1e-5)
    built = network(optimizer=keras.optimizers.SGD(schedule), loss_weights=[1.0, 0.01])
    async with await share(built, cluster, input_range={"facts": (-8, 8), "codes": (0, 5)}) as shared:
        with pytest.raises(ModelError, match=r"loss_weights=0\.01 times the learning rate"):
            async for _ in shared.fit([FACTS, IDS], [LABELS, NUMBERS], progress=False):
                pass
