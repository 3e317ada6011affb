"""`confide serve` and `confide models`: models that stay with the workers, and what whoever has the right to one does with it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, cast

import typer
from rich.markup import escape
from rich.table import Table

from federated.certs_command import failed
from federated.command_line import Acting, ClusterFilePath, Equals, KeysPath, WorkerAddresses, among, told
from federated.errors import FederatedError
from privacy.keras_models.installed import require_keras
from protocols.command import console
from protocols.errors import InputError, ProtocolError

if TYPE_CHECKING:
    import numpy.typing as npt

    from federated.sharing import Among
    from protocols.owner.placing.right import ModelRight
    from protocols.serving.allowance import ModelStanding
    from protocols.serving.ticket import Reveal

NOTHING = "nothing is allowed there, also after a backup was put back: confide models limit"

models = typer.Typer(help="List, limit, stop and update the models that stay with the workers of a cluster, for whoever has their rights.")

Rights = Annotated[Path, typer.Option("--models", help="folder with the rights: NAME.model.json", file_okay=False)]
ModelFile = Annotated[Path, typer.Argument(help="of a Keras model: .keras", exists=True, dir_okay=False)]
ModelName = Annotated[str, typer.Argument(help="of a model that stays")]
Requests = Annotated[int, typer.Option(min=1, help="how often it may be asked")]
Examples = Annotated[int | None, typer.Option(min=1, help="how many examples may be asked for in all; any number, unless given")]
Kinds = Annotated[list[str] | None, typer.Option(help="a kind of answer: logits, label; all that the model can give, unless given")]
Samples = Annotated[
    Path | None,
    typer.Option("--calibration", help=".npy with sample inputs, for models too deep for a proof", exists=True, dir_okay=False),
]
Range = Annotated[tuple[float, float] | None, typer.Option("--input-range", help="lowest and highest input; 0 1, unless given")]
FOLDER = Path("models")


class Wanted(NamedTuple):
    """What is to be served, and how; see `confide serve`."""

    file: Path
    name: str
    requests: int
    examples: int | None
    kinds: tuple[Reveal, ...] | None
    samples: Path | None
    limits: tuple[float, float] | None


def serve(
    file: ModelFile,
    requests: Requests,
    worker: WorkerAddresses = None,
    equals: Equals = False,
    cluster: ClusterFilePath = None,
    keys: KeysPath = None,
    acting: Acting = None,
    name: Annotated[str | None, typer.Option(help="under which clients find it; the name of the file, unless given")] = None,
    examples: Examples = None,
    reveal: Kinds = None,
    calibration: Samples = None,
    input_range: Range = None,
    rights: Rights = FOLDER,
) -> None:
    """Share a Keras model among the workers of a cluster, which serve it from then on: without this process, and through restarts.

    Writes NAME.model.json, with which, and the same certificate, the model is limited and stopped: keep it. The workers must have been
    started with --data. What else a model may need (ranges of features, noise) is given to `protocols.share(durable=True)`.
    """
    source = among(worker, equals, cluster, keys, acting)
    told(_serve(source, Wanted(file, name or file.stem, requests, examples, _kinds(reveal), calibration, input_range), rights))


async def _serve(source: Among, what: Wanted, rights: Path) -> None:
    import asyncio

    from protocols.owner.placement import share

    model = await asyncio.to_thread(_loaded, what.file)
    samples = None if what.samples is None else _array(what.samples)
    async with source() as cluster:
        shared = await share(model, cluster, name=what.name, input_range=what.limits or (0.0, 1.0), calibration=samples, durable=rights)
        try:
            await shared.serve(what.requests, examples=what.examples, reveal=what.kinds, wait=False)
        except BaseException as error:
            await shared.stop()
            if isinstance(error, ValueError) and not isinstance(error, ProtocolError):
                raise FederatedError(str(error)) from None
            raise
        assert shared.right is not None
        console.print(f"{escape(what.name)} is served ({escape(str(shared.check))})", soft_wrap=True)
        console.print(f"{escape(str(shared.right.path))} limits and stops it: keep it", soft_wrap=True)


def _array(file: Path) -> npt.NDArray[Any]:
    import numpy as np

    try:
        found = np.load(file, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise FederatedError(f"{file} holds no array: {error}") from None
    if not isinstance(found, np.ndarray):
        raise FederatedError(f"{file} holds several arrays: one in a .npy is needed")
    return found


def _loaded(file: Path) -> Any:
    from privacy.keras_models.quiet import begin_keras

    require_keras("a model that is served")
    begin_keras()
    from keras import saving

    try:
        return saving.load_model(file)
    except Exception as error:  # whatever Keras, h5py and zipfile raise
        why = str(error).strip().partition("\n")[0]
        raise FederatedError(f"{file} cannot be loaded as a Keras model: {type(error).__name__}: {why}") from None


def _kinds(reveal: list[str] | None) -> tuple[Reveal, ...] | None:
    from protocols.serving.ticket import REVEALS

    if not reveal:
        return None
    if set(reveal) - set(REVEALS):
        raise failed(FederatedError(f"--reveal {', '.join(reveal)}: the kinds of answer are {', '.join(REVEALS)}"))
    return cast("tuple[Reveal, ...]", tuple(dict.fromkeys(reveal)))


@models.command("list")
def listed(
    worker: WorkerAddresses = None,
    equals: Equals = False,
    cluster: ClusterFilePath = None,
    keys: KeysPath = None,
    acting: Acting = None,
    rights: Rights = FOLDER,
) -> None:
    """Show how the models stand of which the rights are in a folder. Exit code 1: one is not served now."""
    told(_list(among(worker, equals, cluster, keys, acting), rights))


async def _list(source: Among, rights: Path) -> None:
    from protocols.owner.placing.managed import ManagedModel

    table, served = Table("model", "requests", "examples", "answers", ""), True
    async with source() as cluster:
        for right in _rights(rights):
            row, there = _row(await ManagedModel(cluster, right).standings())
            table.add_row(escape(right.name), *row)
            served &= there
    console.print(table)
    if not served:
        raise typer.Exit(1)


def _row(standings: dict[str, ModelStanding | str]) -> tuple[tuple[str, ...], bool]:
    """Return what is shown of a model, and whether it is served: the largest of three counts, and the least that is allowed."""
    from protocols.serving.allowance import ModelStanding
    from protocols.serving.ticket import REVEALS

    told_of = [one for one in standings.values() if isinstance(one, ModelStanding)]
    terms = [one.allowance.terms for one in told_of if one.allowance is not None]
    why = {url: one if isinstance(one, str) else one.waits or ("" if one.allowance else NOTHING) for url, one in standings.items()}
    waits = [f"{url}: {one}" for url, one in why.items() if one]
    requests, examples = (max((getattr(one, what) for one in told_of), default=0) for what in ("requests", "examples"))
    least = min((one.total for one in terms), default=0)
    limits = [one.examples for one in terms if one.examples is not None]
    kinds = ", ".join(kind for kind in REVEALS if terms and all(kind in one.reveal for one in terms))
    state = "[green]served[/]" if not waits else f"[red]{escape('; '.join(waits))}[/]"
    most = f"{examples} of {min(limits)}" if limits else str(examples)
    return (f"{requests} of {least}", most, kinds or "none", state), not waits


@models.command()
def limit(
    name: ModelName,
    requests: Annotated[int, typer.Option(min=0, help="how often it may be asked from now on")],
    worker: WorkerAddresses = None,
    equals: Equals = False,
    cluster: ClusterFilePath = None,
    keys: KeysPath = None,
    acting: Acting = None,
    examples: Annotated[int | None, typer.Option(min=0, help="how many examples from now on; any number, unless given")] = None,
    reveal: Annotated[list[str] | None, typer.Option(help="a kind of answer: logits, label; as before, unless given")] = None,
    rights: Rights = FOLDER,
) -> None:
    """Say how often a model may be asked from now on, in the place of what was said before."""
    told(_limit(among(worker, equals, cluster, keys, acting), name, requests, examples, _kinds(reveal), rights))


async def _limit(source: Among, name: str, requests: int, examples: int | None, kinds: tuple[Reveal, ...] | None, rights: Path) -> None:
    from protocols.owner.placing.managed import ManagedModel

    right = _right(rights, name)
    async with source() as cluster:
        terms = await ManagedModel(cluster, right).limit(requests, examples, kinds)
    console.print(f"{escape(name)} may be asked {terms.total} times in all, for {', '.join(terms.reveal)}", soft_wrap=True)


@models.command()
def stop(
    name: ModelName,
    worker: WorkerAddresses = None,
    equals: Equals = False,
    cluster: ClusterFilePath = None,
    keys: KeysPath = None,
    acting: Acting = None,
    rights: Rights = FOLDER,
) -> None:
    """Remove a model from all workers, and the file of its right. If a worker is away, call it again when it is there."""
    told(_stop(among(worker, equals, cluster, keys, acting), name, rights))


async def _stop(source: Among, name: str, rights: Path) -> None:
    from protocols.owner.placing.managed import ManagedModel

    right = _right(rights, name)
    async with source() as cluster:
        await ManagedModel(cluster, right).stop()
    console.print(f"removed {escape(name)}", soft_wrap=True)


@models.command()
def update(
    name: ModelName,
    file: ModelFile,
    requests: Requests,
    worker: WorkerAddresses = None,
    equals: Equals = False,
    cluster: ClusterFilePath = None,
    keys: KeysPath = None,
    acting: Acting = None,
    examples: Examples = None,
    reveal: Kinds = None,
    calibration: Samples = None,
    input_range: Range = None,
    rights: Rights = FOLDER,
) -> None:
    """Serve a new version of a model beside the old one, as NAME.2, NAME.3 and so on; clients say which they ask, until one is stopped.

    A version has a quota of its own. Answers of several versions together tell more of what they were trained on than those of one.
    """
    source = among(worker, equals, cluster, keys, acting)
    told(_serve(source, Wanted(file, _next(name, rights), requests, examples, _kinds(reveal), calibration, input_range), rights))


def _next(name: str, rights: Path) -> str:
    """Return the name of the version after those of which there are rights."""
    from protocols.owner.placing.right import ENDING

    first = re.sub(r"\.\d+$", "", name)
    found = [re.fullmatch(re.escape(first) + r"(?:\.(\d+))?", path.name.removesuffix(ENDING)) for path in rights.glob(f"*{ENDING}")]
    numbers = [int(one[1] or 1) for one in found if one is not None]
    if not numbers:
        raise failed(FederatedError(f"{rights} has no right to a model named {name!r}: confide serve begins one"))
    return f"{first}.{max(numbers) + 1}"


def _rights(rights: Path) -> list[ModelRight]:
    from protocols.owner.placing.right import ENDING, ModelRight

    return [ModelRight.read(path) for path in sorted(rights.glob(f"*{ENDING}"))]


def _right(rights: Path, name: str) -> ModelRight:
    from protocols.owner.placing.right import ENDING, ModelRight

    found = ModelRight.read(rights / f"{name}{ENDING}")
    if found.name != name:
        raise InputError(f"{found.path} is the right to a model named {found.name!r}: was it renamed?")
    return found
