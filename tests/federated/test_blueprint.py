"""A model as text: it comes back as it was, and no text runs code at an owner."""

import copy
import json

import keras
import numpy as np
import pytest

from federated import ModelRefused
from federated.blueprint import build, draw
from federated.update import Blueprint


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
