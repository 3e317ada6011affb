"""The blocking flow of PySyft's KerasHook, as a script would run it."""

import threading

import numpy as np
import pytest

from protocols import keras_hook
from protocols.errors import ClusterError, ServingError


@pytest.fixture
def hook():
    hook = keras_hook.KerasHook()
    yield hook
    hook.remove()


@pytest.fixture
def cluster(request):
    cluster = keras_hook.Cluster("localhost:0", "localhost:0", "localhost:0", equals=getattr(request, "param", False))
    cluster.start()
    yield cluster
    cluster.stop()


@pytest.mark.parametrize("cluster", [False, True], indirect=True, ids=["crypto provider", "three equals"])
def test_share_serve_query_stop(hook, cluster, model, images, expected, capsys):
    model.share(cluster)
    serving = threading.Thread(target=model.serve, kwargs={"num_requests": 2})
    serving.start()
    client = keras_hook.Client()
    client.connect_to_model(cluster)
    one = eventually(client, images[0])
    many = client.query_model(images)
    serving.join(20)
    client.close()
    model.stop()
    np.testing.assert_allclose(one, expected[0], atol=0.005)
    np.testing.assert_allclose(many, expected, atol=0.005)
    assert capsys.readouterr().out == "Served encrypted prediction 1 to client.\nServed encrypted prediction 2 to client.\n"


def eventually(client, image):
    """The first answer of a model whose owner begins to serve in another thread."""
    from protocols.errors import NotServed

    for _ in range(10_000):
        try:
            return client.query_model(image)
        except NotServed:
            continue
    raise AssertionError("never served")


def test_the_hook_can_be_removed():
    import keras

    before = {name: getattr(keras.Model, name, None) for name in keras_hook.METHODS}
    hook = keras_hook.KerasHook()
    assert all(callable(getattr(keras.Model, name)) for name in keras_hook.METHODS)
    with pytest.raises(ClusterError, match="hooked already"):
        keras_hook.KerasHook()
    hook.remove()
    hook.remove()
    assert {name: getattr(keras.Model, name, None) for name in keras_hook.METHODS} == before


def test_calls_out_of_order_say_what_to_do(hook, model):
    cluster = keras_hook.Cluster("localhost:0", "localhost:0", "localhost:0")
    with pytest.raises(ClusterError, match=r"call start\(\) first"):
        model.share(cluster)
    with pytest.raises(ServingError, match=r"call share\(cluster\) first"):
        model.serve(num_requests=1)
    with pytest.raises(ClusterError, match=r"call connect_to_model\(cluster\) first"):
        keras_hook.Client().query_model(np.zeros((8, 8, 1)))
    cluster.stop()


def test_sharing_twice_is_refused(hook, cluster, model):
    model.share(cluster)
    with pytest.raises(ServingError, match="shared already"):
        model.share(cluster)
    model.stop()


def test_the_end_of_a_cluster_is_the_end_of_what_was_shared_there(hook, model):
    cluster = keras_hook.Cluster("localhost:0", "localhost:0", "localhost:0")
    cluster.start()
    model.share(cluster)
    cluster.stop()
    model.stop()  # nothing is left to stop
    cluster.start()
    model.share(cluster)  # not taken for what was shared before
    model.stop()
    cluster.stop()
