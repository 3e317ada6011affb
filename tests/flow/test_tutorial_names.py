"""The names of PySyft's tutorial, blocking, and what who blocks needs between machines: TLS and a cluster file."""

import asyncio
import threading

import numpy as np
import pytest

import certified
from protocols.errors import ClusterError, InputError, NotServed, SharingError, WorkerUnreachable
from protocols.keras_hook import Client, Cluster, KerasHook, TFECluster, TFEWorker, add, decrypt, encrypt

Q = 78090573363827.0
"""A prime, as R has it."""


@pytest.fixture
def hook(model):
    hook = KerasHook()
    yield hook
    model.stop()
    hook.remove()


def tfe(addresses, **settings):
    return TFECluster(*(TFEWorker(host=address, auto_managed=False) for address in addresses), **settings)


def eventually(client, images):
    """The first answer of a model whose owner begins to serve in another thread."""
    for _ in range(10_000):
        try:
            return client.query_model(images)
        except NotServed:
            continue
    raise AssertionError("never served")


def test_share_serve_and_ask_by_the_names_of_the_tutorial(hook, running, model, images, expected, capsys):
    cluster = tfe(running)
    cluster.start()
    model.share(cluster)
    with pytest.raises(ValueError, match=r"num_requests=2\.5 is no whole number"):
        model.serve(num_requests=2.5)
    with pytest.raises(ValueError, match=r"examples=1\.5 is no whole number"):
        model.serve(num_requests=2, examples=1.5)
    serving = threading.Thread(target=model.serve, kwargs={"num_requests": 3.0, "examples": 50.0})
    serving.start()
    client = TFEWorker()
    client.connect_to_model([1.0, 8.0, 8.0, 1.0], [1.0, 4.0], tfe(running))
    one = eventually(client, images[:1])
    client.connect_to_model(batch_input_shape=(None, 8, 8, 1), batch_output_shape=(None, 4), cluster=tfe(running))
    many = client.query_model(images)
    client.close()
    other = Client()
    other.connect_to_model(cluster=tfe(running))
    single = other.query_model(images[3])
    other.close()
    serving.join(20)
    model.stop()
    cluster.stop()
    assert not serving.is_alive()
    np.testing.assert_allclose(one, expected[:1], atol=0.005)
    np.testing.assert_allclose(many, expected, atol=0.005)
    np.testing.assert_allclose(single, expected[3], atol=0.005)
    assert capsys.readouterr().out.splitlines()[-1] == "Served encrypted prediction 3 to client."


def test_another_shape_is_refused_and_nothing_is_connected(hook, running, model, images):
    cluster = tfe(running)
    cluster.start()
    model.share(cluster)
    client = Client()
    for wrong in (((1, 8, 8, 3), (1, 4)), ((1, 8, 8, 1), (1, 5)), ((8, 8, 1), (1, 4)), ((1, 8, 8, 1), 4)):
        with pytest.raises(InputError, match="small"):
            client.connect_to_model(*wrong, cluster)
        with pytest.raises(ClusterError, match="not connected"):
            client.query_model(images)
    with pytest.raises(ClusterError, match="a str was given as cluster"):
        client.connect_to_model((1, 8, 8, 1), (1, 4), "localhost:4000")
    with pytest.raises(ClusterError, match="a str was given as cluster"):
        model.stop(), model.share("localhost:4000")
    cluster.stop()


def test_the_hook_takes_keras_and_no_other_module():
    import keras
    import tensorflow

    for module in (None, keras, tensorflow.keras):
        KerasHook(module).remove()
    for other in (np, tensorflow, "keras"):
        with pytest.raises(ClusterError, match="is not the installed Keras 3"):
            KerasHook(other)
    assert not hasattr(keras.Model, "share")


@pytest.mark.parametrize(
    ("workers", "match"),
    [
        ([TFEWorker("localhost:1"), TFEWorker("localhost:2")], "2 workers were given"),
        ([TFEWorker("localhost:1"), TFEWorker("localhost:2"), TFEWorker()], "worker 3 has no host"),
        ([TFEWorker("localhost:1"), "localhost:2", TFEWorker("localhost:3")], "worker 2 is a str"),
        ([TFEWorker(f"localhost:{port}", auto_managed=port != 3) for port in (1, 2, 3)], "some workers have auto_managed=True and some"),
        ([TFEWorker("localhost:1")] * 3, "three different workers"),
        ([TFEWorker("[abc]:1"), TFEWorker("localhost:2"), TFEWorker("localhost:3")], r"'\[abc\]:1' is not the address of a worker"),
    ],
)
def test_what_is_no_cluster(workers, match):
    with pytest.raises(ClusterError, match=match):
        TFECluster(*workers)


def test_workers_that_are_not_auto_managed_are_not_started():
    cluster = tfe(f"localhost:{port}" for port in certified.free_ports(3))
    with pytest.raises(WorkerUnreachable, match="start it there with: confide worker"):
        cluster.start()


def test_other_machines_without_encryption_are_refused_with_what_can_be_done_about_it():
    far = [f"192.0.2.{number}:4000" for number in (1, 2, 3)]
    for refused in (lambda: Cluster(*far).start(), lambda: Client().connect_to_model(Cluster(*far)), lambda: tfe(far).start()):
        with pytest.raises(
            ClusterError, match=r"not encrypted: use Cluster\.from_file\(FILE, keys=FOLDER, name=NODE\).*ssl=.*allow_plaintext=True"
        ):
            refused()
    Cluster(*far, allow_plaintext=True).check_encryption()


def test_the_secret_sharing_of_the_tutorial():
    assert decrypt(add(encrypt(11.0), encrypt(122.0))) == 133
    assert decrypt(encrypt(77777.0, Q), Q) == 77777
    assert decrypt(encrypt([-1.0, 5.0], Q), Q).tolist() == [78090573363826, 5]
    with pytest.raises(SharingError, match="3 and 2 shares cannot be added"):
        add(encrypt(1), encrypt(1)[:2])


NODE = '[nodes.{}]\nrole = "{}"\naddress = "{}"\n'
THREE = "".join(NODE.format(name, "server", f"ws://127.0.0.1:{port}") for name, port in (("a", 4000), ("b", 4001), ("c", 4002)))


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("nodes", "is not TOML"),
        ("", r"\[nodes.NAME\] tables are needed"),
        ("[nodes]\na = 3", r"\[nodes.NAME\] tables are needed"),
        (THREE + NODE.format("d", "server", "ws://127.0.0.1:4003"), "4 servers and 0 crypto providers: two and one are needed, or three"),
        (THREE.replace("127.0.0.1:4001", "julia.example:4001"), r"\[nodes.b\]: ws://julia.example:4001 is not encrypted"),
        (THREE.replace("ws://127.0.0.1:4001", "4001"), r"\[nodes.b\]: '4001' .*expected the address"),
        (THREE + "adress = 1", r"\[nodes.c\]: .*unknown field `adress`"),
        ("allow_plaintext = 1\n" + THREE, "expected true or false"),
        (THREE.replace("ws://", "wss://"), r"keys/a\.pem is missing"),
    ],
)
def test_cluster_files_that_cannot_be_used(tmp_path, text, match):
    (tmp_path / "cluster.toml").write_text(text)
    with pytest.raises(ClusterError, match=match):
        Cluster.from_file(tmp_path / "cluster.toml")


def test_a_cluster_file_of_three_equals_and_one_with_a_provider(tmp_path):
    file = tmp_path / "cluster.toml"
    file.write_text(THREE + '[nodes.ward]\nrole = "owner"\ndata = "ward:data"\n')  # of other nodes only names and roles are read
    equals = Cluster.from_file(file)
    assert equals.cluster.equals
    assert equals.addresses == ["127.0.0.1:4000", "127.0.0.1:4001", "127.0.0.1:4002"]
    file.write_text(THREE.replace('"server"', '"crypto_provider"', 1))
    provided = TFECluster.from_file(str(file))
    assert not provided.cluster.equals
    assert provided.addresses == ["127.0.0.1:4001", "127.0.0.1:4002", "127.0.0.1:4000"]
    with pytest.raises(ClusterError, match="has no node 'nobody'; it has a, b, c"):
        Cluster.from_file(file, name="nobody")


@pytest.mark.parametrize("equals", [False, pytest.param(True, marks=pytest.mark.long)], ids=["crypto provider", "three equals"])
async def test_who_blocks_uses_tls_by_a_cluster_file(hook, tmp_path, model, images, expected, equals):
    made = certified.configured(tmp_path, equals=equals)

    def flow():
        owner = Cluster.from_file(str(made.file), keys=str(made.keys), name="hospital")
        owner.start()
        model.share(owner, name="private")
        serving = threading.Thread(target=model.serve, kwargs={"num_requests": 1})
        serving.start()
        client = TFEWorker()
        client.connect_to_model((1, 8, 8, 1), (1, 4), Cluster.from_file(made.file, name="analyst"), owner="hospital")
        answer = eventually(client, images)
        client.close()
        serving.join(20)
        model.stop()
        owner.stop()
        return answer

    async with certified.running(made):
        answer = await asyncio.to_thread(flow)
    np.testing.assert_allclose(answer, expected, atol=0.005)
