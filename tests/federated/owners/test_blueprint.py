"""A model as text: it comes back as it was, and no text runs code at an owner."""

import copy
import functools
import json
import pathlib
import resource
import socket

import keras
import numpy as np
import pytest

from federated import ModelRefused
from federated.models.blueprint import build, draw
from federated.tasks.update import Blueprint


def test_a_model_comes_back_with_optimizer_loss_and_metrics():
    start = keras.layers.Input((4,))
    x = keras.layers.Dense(6, activation="relu")(start)
    model = keras.Model(start, keras.layers.Dense(3)(keras.layers.Concatenate()([x, start])))
    model.compile(optimizer=keras.optimizers.Adam(0.02, beta_1=0.5), loss="mse", metrics=["mae"])
    again = build(draw(model))
    assert again.optimizer.get_config()["beta_1"] == 0.5
    again.set_weights(model.get_weights())
    x, y = np.ones((5, 4), np.float32), np.zeros((5, 3), np.float32)
    one, other = (m.train_on_batch(x, y, return_dict=True) for m in (model, again))
    assert one.keys() == other.keys() == {"loss", "mae"}
    for a, b in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def simple(**settings):
    model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(3)])
    model.compile(**{"optimizer": "sgd", "loss": "mse"} | settings)
    return model


def function(module, name):
    return {"module": module, "class_name": "function", "config": name, "registered_name": "function"}


def layer(kind, **config):
    return {"module": "keras.layers", "class_name": kind, "config": config, "registered_name": None}


LAYERS = {
    "a builtin": {"activation": function("builtins", "eval")},
    "a lambda": {"activation": {"class_name": "__lambda__", "config": {"value": "4wEAAAA="}}},
    "a download": {"activation": function("keras.src.utils.file_utils", "get_file")},
    "a loader": {"activation": function("keras.src.saving.saving_lib", "load_model")},
}


@pytest.mark.parametrize("name", LAYERS)
def test_no_activation_runs_code(name):
    plan = draw(simple())
    architecture = json.loads(plan.architecture)
    architecture["config"]["layers"][1]["config"] |= LAYERS[name]
    with pytest.raises(ModelRefused):
        build(Blueprint(json.dumps(architecture), plan.compilation))


@pytest.mark.parametrize("kind", ["TFSMLayer", "Lambda", "StringLookup"])
def test_no_layer_loads_code_or_files(kind, tmp_path):
    (tmp_path / "words").write_text("secret\n")
    plan = draw(simple())
    architecture = json.loads(plan.architecture)
    settings = {
        "TFSMLayer": {"filepath": str(tmp_path)},
        "Lambda": {"function": "x"},
        "StringLookup": {"vocabulary": str(tmp_path / "words")},
    }
    architecture["config"]["layers"][1] = layer(kind, name="odd", **settings[kind])
    with pytest.raises(ModelRefused):
        build(Blueprint(json.dumps(architecture), plan.compilation))


@pytest.mark.parametrize("where", ["loss", "metrics", "optimizer"])
def test_no_compilation_runs_code(where, tmp_path):
    plan, mark = draw(simple()), tmp_path / "mark"
    compilation = copy.deepcopy(json.loads(plan.compilation))
    popen = {"module": "subprocess", "class_name": "Popen", "config": {"args": ["touch", str(mark)]}, "registered_name": None}
    compilation[where] = [popen] if where == "metrics" else popen
    with pytest.raises(ModelRefused):
        build(Blueprint(plan.architecture, json.dumps(compilation)))
    assert not mark.exists()


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"class_name": "Dense"}', json.dumps(layer("Dense", units=3))])
def test_what_is_no_model(text):
    with pytest.raises(ModelRefused):
        build(Blueprint(text, draw(simple()).compilation))


def test_models_that_cannot_be_sent():
    with pytest.raises(ModelRefused, match="is not compiled"):
        draw(keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(3)]))
    unbuilt = keras.Sequential([keras.layers.Dense(3)])
    unbuilt.compile(loss="mse")
    with pytest.raises(ModelRefused, match="has no weights yet"):
        draw(unbuilt)
    with pytest.raises(ModelRefused, match="lambda"), pytest.warns(UserWarning, match="lambda"):
        draw(simple(loss=lambda a, b: keras.ops.mean(a - b)))


# What would take memory, or time without end.


@functools.cache
def drawn():
    return draw(simple())


def changed(**settings):
    plan = drawn()
    architecture = json.loads(plan.architecture)
    architecture["config"]["layers"][1]["config"] |= settings
    return Blueprint(json.dumps(architecture), plan.compilation)


def with_layer(kind, **settings):
    plan = drawn()
    architecture = json.loads(plan.architecture)
    architecture["config"]["layers"].insert(1, layer(kind, name="large", **settings))
    return Blueprint(json.dumps(architecture), plan.compilation)


LARGE = {
    "units": changed(units=300_000_000),
    "units, frozen": changed(units=300_000_000, trainable=False),
    "units, from a seed generator": changed(
        units=300_000_000,
        kernel_initializer=keras.saving.serialize_keras_object(keras.initializers.GlorotUniform(seed=keras.random.SeedGenerator(1))),
    ),
    "embedding": with_layer("Embedding", input_dim=10**9, output_dim=8),
    "a layer before": with_layer("Dense", units=10**9, kernel_initializer="orthogonal"),
    "two of half the size": with_layer("Dense", units=1 << 26),
    "outputs": with_layer("RepeatVector", n=10**12),
}


@pytest.mark.parametrize("name", LARGE)
def test_weights_are_counted_before_there_is_memory_for_them(name):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ModelRefused, match="no more are allowed here"):
        build(LARGE[name])
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 19  # KiB: less than a tenth of what 300 million take


def test_the_limit_is_the_owners():
    plan = draw(simple())
    count = build(plan).count_params()
    assert build(plan, largest=count).count_params() == count
    with pytest.raises(ModelRefused, match="no more are allowed here"):
        build(plan, largest=count - 1)


@pytest.mark.parametrize("steps", [10**12, 0, -1, 1001, 2.5, "many", [3], {"a": 1}])
def test_steps_that_nobody_could_stop(steps):
    plan = draw(simple())
    compilation = json.loads(plan.compilation) | {"steps_per_execution": steps}
    with pytest.raises(ModelRefused):
        build(Blueprint(plan.architecture, json.dumps(compilation)))


def hostile(folder, port):
    """Blueprints that would touch a file, a socket or a process."""
    words, url = str(folder / "words"), f"http://127.0.0.1:{port}/"
    compiled = json.loads(drawn().compilation)

    def before(kind, **settings):
        return with_layer(kind, **settings)

    def whole(module, kind, **settings):
        return Blueprint(
            json.dumps({"module": module, "class_name": kind, "registered_name": None, "config": settings}), json.dumps(compiled)
        )

    def compiling(**settings):
        return Blueprint(drawn().architecture, json.dumps(compiled | settings))

    code = {"class_name": "__lambda__", "config": {"code": "4wAAAA==", "defaults": None, "closure": None}}
    return {
        "os.system": changed(activation=function("os", "system")),
        "eval": changed(activation=function("builtins", "eval")),
        "Lambda": before("Lambda", function=code, arguments={}),
        "unsafe deserialization": changed(activation=function("keras.config", "enable_unsafe_deserialization")),
        "get_file, an activation": changed(activation=function("keras.utils", "get_file")),
        "get_file, a class": whole("keras.utils", "get_file", fname="x", origin=url),
        "load_model": whole("keras.models", "load_model", filepath=str(folder / "x.keras"), safe_mode=False),
        "TFSMLayer": before("TFSMLayer", filepath=str(folder), call_endpoint="serve"),
        "TorchModuleWrapper": before("TorchModuleWrapper", module={"class_name": "bytes", "config": "x"}),
        "StringLookup of a file": before("StringLookup", vocabulary=words),
        "StringLookup of a URL": before("StringLookup", vocabulary=url),
        "TextVectorization of a file": before("TextVectorization", vocabulary=words),
        "a loss that is os.system": compiling(loss=function("os", "system")),
        "a metric that is exec": compiling(metrics=[function("builtins", "exec")]),
        "a loss that is a lambda": compiling(loss=code),
        "ResNet50 with weights of a URL": whole("keras.applications", "ResNet50", weights=url),
        "numpy.load": whole("numpy", "load", file=words, allow_pickle=True),
        "Popen": whole("subprocess", "Popen", args=["touch", str(folder / "mark")]),
        "nested deeply": Blueprint('{"module":"keras","class_name":"Sequential","config":' * 5000 + "1" + "}" * 5000, json.dumps(compiled)),
        "an initializer of eval": changed(
            kernel_initializer={"module": "keras.initializers", "class_name": "Constant", "config": {"value": function("builtins", "eval")}}
        ),
    }


NAMES = list(hostile(pathlib.Path("none"), 0))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.sample(5)
def test_no_blueprint_touches_a_file_a_socket_or_a_process(name, tmp_path):
    (tmp_path / "words").write_text("secret\n")
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        plan = hostile(tmp_path, server.getsockname()[1])[name]
        with pytest.raises(ModelRefused) as refused:
            build(plan)
        with pytest.raises(BlockingIOError):
            server.accept()
    assert "secret" not in str(refused.value)
    assert str(tmp_path) not in str(refused.value)
    assert not (tmp_path / "mark").exists()
