"""From R, through reticulate: numbers cross the border unchanged, and the scripts of the tutorial run."""

import asyncio
import contextlib

import numpy as np
import pytest

import rscript
from certified import free_ports
from protocols import share

SCRIPTS = rscript.ROOT / "examples" / "r"


@pytest.fixture(autouse=True)
def _with_r():
    rscript.require_r()


CELLS = {
    "integer": ("back(77777L)", "77777"),
    "double": ("back(77777)", "77777"),
    "double number of parties": ("sharing$reconstruct(sharing$split(77777L, 5))", "77777"),
    "largest integer": ("back(.Machine$integer.max)", "2147483647"),
    "beyond 32 bits": ("back(3e9)", "3000000000"),
    "2^31": ("back(2^31)", "2147483648"),
    "-2^31, which is NA as an integer": ("back(-2^31)", "-2147483648"),
    "negative": ("back(-5)", "-5"),
    "largest exact double": ("back(2^53 - 1)", "9007199254740991"),
    "sum beyond 32 bits": ("sum_of(.Machine$integer.max, 1L)", "2147483648"),
    "sum beyond 2^53": ("sum_of(2^53 - 1, 2)", "9007199254740993"),
    "times a double": ("sharing$reconstruct(lapply(sharing$split(7, 3), function(s) op$mul(s, 3)))", "21"),
    "times a double, beyond 2^53": (
        "sharing$reconstruct(lapply(sharing$split(2^53 - 1, 3), function(s) op$mul(s, 3)))",
        "27021597764222973",
    ),
    "shares of R's own making": ("sharing$reconstruct(list(5L, 6L, -4L))", "7"),
    "field": ("sharing$reconstruct(sharing$split(77777L, 3L, modulus = Q), modulus = Q)", "77777"),
    "largest of the field": ("sharing$reconstruct(sharing$split(Q - 1, 3, modulus = Q), modulus = Q)", "78090573363826"),
    "negative in the field": ("sharing$reconstruct(sharing$split(-5, 3, modulus = Q), modulus = Q)", "78090573363822"),
    "no modulus": ("sharing$reconstruct(sharing$split(5, 3, modulus = NULL), modulus = NULL)", "5"),
    "vector": ("back(c(11, 122))", "11 122"),
    "vector of integers": ("back(c(-3L, 2147483647L))", "-3 2147483647"),
    "vector of one": ("back(list(5))", "5"),
    "large vector": ("back(c(2^53 - 1, 1 - 2^53))", "9007199254740991 -9007199254740991"),
    "vector in the field": ("sy$decrypt(sy$encrypt(c(1, Q - 1), Q), Q)", "1 78090573363826"),
    "matrix": ("back(matrix(c(1, 2, 3, 4, 5, 6), 2))", "1 2 3 4 5 6"),
    "shape of a matrix": ("dim(back(matrix(c(1, 2, 3, 4, 5, 6), 2)))", "2 3"),
    "three axes": ("dim(back(array(1:24, c(2, 3, 4))))", "2 3 4"),
    "elements of three axes": ("sum(back(array(1:24, c(2, 3, 4))) * (1:24))", "4900"),
    "sums of vectors": ("sy$decrypt(sy$add(sy$encrypt(c(1, 2)), sy$encrypt(c(10, 20))))", "11 22"),
    "NumPy array": ('back(np_array(c(11, 122), dtype = "int64"))', "11 122"),
    "the tutorial": ("sy$decrypt(sy$add(sy$encrypt(11), sy$encrypt(122)))", "133"),
    "the tutorial in its field": ("sy$decrypt(sy$encrypt(77777, Q), Q)", "77777"),
    "a share is an object": ("class(sharing$split(5, 3)[[1]])[1]", "protocols.opaque.whole.Whole"),
    "so is one of a vector": ("class(sharing$split(c(5, 6), 3)[[1]])[1]", "protocols.opaque.whole_array.WholeArray"),
    "and an element of that": ("class(op$getitem(sharing$split(c(5, 6), 3)[[1]], 0L))[1]", "protocols.opaque.whole.Whole"),
    "fraction": ("back(1.5)", "refused: a float was given"),
    "2^53": ("back(2^53)", "refused: a float was given"),
    "infinite": ("back(Inf)", "refused: a float was given"),
    "missing double": ("back(NA_real_)", "refused: a float was given"),
    "missing": ("back(NA)", "refused: a bool was given"),
    "fraction in a vector": ("back(c(1, 1.5))", "refused: a float was given"),
    "missing in a vector": ("back(c(1, NA))", "refused: a float was given"),
    "fraction in a matrix": ("back(matrix(c(1, 1.5), 1))", "refused: an array of float64 was given"),
    "text": ('back("5")', "refused: a str was given"),
    "fraction of parties": ("sharing$split(5, 2.5)", "refused: a float was given"),
    "fraction of a modulus": ("sharing$split(5, 3, modulus = 7.5)", "refused: a float was given"),
    "modulus that is not prime": ("sharing$split(5, 3, modulus = Q + 1)", "refused: the modulus 78090573363828 is not prime"),
    "times a fraction": ("op$mul(sharing$split(5, 3)[[1]], 1.5)", "refused: a float was given"),
    "vector times a fraction": ("op$mul(sharing$split(c(5, 6), 3)[[1]], 1.5)", "refused: a float was given"),
    "half of a vector": ("op$truediv(sharing$split(c(5, 6), 3)[[1]], 2)", "refused: divide of an array of whole numbers would be float64"),
    "share as a double": ("sharing$reconstruct(list(5, 6L))", "refused: a float was given: shares are integers"),
}
PROGRAM = """
library(reticulate)
sharing <- import("protocols.sharing"); sy <- import("protocols.keras_hook"); op <- import("operator")
Q <- 78090573363827
back <- function(secret) sharing$reconstruct(sharing$split(secret, 3L))
sum_of <- function(a, b) sharing$reconstruct(Map(op$add, sharing$split(a, 3L), sharing$split(b, 3L)))
digits <- function(x) paste(format(as.vector(x), digits = 22, trim = TRUE, scientific = FALSE), collapse = " ")
text <- function(x) if (is.numeric(x)) digits(x) else as.character(x)
why <- function(e) paste("refused:", sub("^.*SharingError: ", "", strsplit(conditionMessage(e), "\\n")[[1]][1]))
cell <- function(expression) cat(tryCatch(text(expression), error = why), "\\n", sep = "")
"""


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """What one R program prints, a line for each cell, and behind them the example: to load Python into R takes seconds."""
    rscript.require_r()
    file = tmp_path_factory.mktemp("r") / "cells.R"
    cells = "\n".join(f"cell({expression})" for expression, _ in CELLS.values())
    file.write_text(f'{PROGRAM}{cells}\nrm(list = ls())\nsource("{SCRIPTS / "sharing.R"}")\n')
    lines = rscript.run(str(file)).splitlines()
    return {**dict(zip(CELLS, lines[: len(CELLS)], strict=True)), "the example": "\n".join(lines[len(CELLS) :])}


@pytest.mark.parametrize("name", CELLS)
def test_numbers_cross_the_border_unchanged_or_not_at_all(shown, name):
    expected = CELLS[name][1]
    assert shown[name].startswith(expected) if expected.startswith("refused") else shown[name] == expected


def test_the_example_of_sharing(shown):
    example = shown["the example"]
    assert "together: 77777" in example
    assert "added share by share: 133" in example
    assert "prime field: 78090573363826" in example
    assert "vectors: 35 58 43" in example


CLIENT = """
library(reticulate)
sy <- import("protocols.keras_hook"); np <- import("numpy")
arguments <- commandArgs(trailingOnly = TRUE)
cluster <- do.call(sy$TFECluster, lapply(arguments[2:4], function(host) sy$TFEWorker(host = host, auto_managed = FALSE)))
told <- function(e) gsub("\\n", "|", conditionMessage(e))
attempt <- function(expression) cat(tryCatch({ expression; "done" }, error = told), "\\n", sep = "")
client <- sy$TFEWorker()
attempt(client$connect_to_model(c(1, 8, 8, 3), c(1, 4), cluster))
attempt(client$connect_to_model(c(1, 8, 8, 1), c(1, 5), cluster))
attempt(client$connect_to_model(c(1, 8, 1), c(1, 4), cluster))
attempt(client$connect_to_model(c(1, 8.5, 8, 1), c(1, 4), cluster))
attempt(client$query_model(array(0, c(1, 8, 8, 1))))
attempt(client$connect_to_model(list(NULL, 8, 8L, 1), c(NA, 4), cluster))
images <- np$load(arguments[1])
cat(format(client$query_model(images), digits = 10), "\\n")
attempt(client$query_model(images))
client$close()
"""


async def test_a_client_checks_shapes_and_is_told_of_a_spent_quota_without_the_files_of_others(cluster, model, images, expected, tmp_path):
    (tmp_path / "client.R").write_text(CLIENT)
    np.save(tmp_path / "image.npy", images[:1])
    async with await share(model, cluster, "for-r") as shared:
        serving = asyncio.create_task(shared.serve(1))
        arguments = [str(tmp_path / "client.R"), str(tmp_path / "image.npy"), *(worker.address for worker in cluster.workers)]
        lines = (await asyncio.to_thread(rscript.run, *arguments)).splitlines()
        await serving
    assert "batch_input_shape is (1, 8, 8, 3), but model 'for-r' has (None, 8, 8, 1)" in lines[0]
    assert "batch_output_shape is (1, 5), but model 'for-r' has (None, 4)" in lines[1]
    assert "batch_input_shape is (1, 8, 1)" in lines[2]
    assert "is no shape: whole numbers are needed" in lines[3]
    assert "not connected" in lines[4]
    assert lines[5] == "done"
    np.testing.assert_allclose([float(word) for word in lines[6].split()], expected[0], atol=0.005)
    assert "QuotaSpent" in lines[7]
    assert "asked as often as its owner allowed" in lines[7]
    for ours in ("crypto_provider.py", "granting.py", "quota.py", "requests.py"):
        assert ours not in lines[7]


@pytest.mark.timeout(600)
async def test_the_three_scripts_of_the_tutorial(tmp_path):
    weights = str(tmp_path / "digits.weights.h5")
    created = await asyncio.to_thread(rscript.run, str(SCRIPTS / "create_model.R"), weights)
    assert float(created.split("accuracy:")[1].split()[0]) > 0.7
    ports = [str(port) for port in free_ports(3)]
    owner = await asyncio.create_subprocess_exec(
        *("Rscript", str(SCRIPTS / "serve.R"), weights, *ports),
        env=rscript.environment(),
        cwd=rscript.ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        reading = asyncio.create_task(owner.stderr.read())
        lines = [line.decode().strip() async for line in _until(owner.stdout, b"serving")]
        assert lines[-1:] == ["serving"], (await reading).decode()
        asked = await asyncio.to_thread(rscript.run, str(SCRIPTS / "client.R"), *ports)
        served = (await owner.stdout.read()).decode().splitlines()
        assert await owner.wait() == 0, (await reading).decode()
    finally:
        with contextlib.suppress(ProcessLookupError):
            owner.kill()
        await owner.wait()
    words = [line.split() for line in asked.splitlines()]
    assert len(words) == 3
    assert sum(line[1] == line[3] for line in words) >= 2
    assert [line for line in served if line] == [f"Served encrypted prediction {number} to client." for number in (1, 2, 3)]


async def _until(stream, last):
    """Lines of a stream, up to one that begins with these bytes."""
    async for line in stream:
        yield line
        if line.startswith(last):
            return


@pytest.mark.long
@pytest.mark.timeout(600)
def test_the_example_of_the_hook():
    shown = rscript.run("examples/keras_hook.R")
    assert "Served encrypted prediction 1 to client." in shown
