"""What a server keeps of one shared model, and the words in which it is told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property, partial
from hashlib import sha256

import msgspec
import numpy as np
from blake3 import blake3

from protocols.errors import NotServed, ServingError, SharingError, TicketRefused, TooLarge
from protocols.link.keys import Told, server_key
from protocols.link.threads import Runner
from protocols.mpc import inference
from protocols.mpc.engine.sides import WeightShares
from protocols.mpc.operations.weights import DerivedShares, weight_masks
from protocols.mpc.parties.exchange import Party, Ring
from protocols.mpc.parties.material import Material
from protocols.mpc.parties.pair import Pair
from protocols.mpc.program import Program, infer
from protocols.noisy_answers import Guarantee
from protocols.serving.budget import Budget, succeeding
from protocols.serving.claims import check_guarantee, check_terms
from protocols.serving.pieces import Arriving, carved
from protocols.serving.quota import Quota
from protocols.serving.room import weight_bytes
from protocols.serving.stock import Stock
from protocols.serving.streams import Window
from protocols.serving.supply import ComingPiece, Supply
from protocols.serving.ticket import REVEALS, Reveal, Ticket

MODEL_LIMIT = 1 << 31
"""The most bytes of weights, 8 for each, of one model: 268 million weights. A server holds them twice, once if examples are streamed."""
MOST_MEMORY = 1 << 32
"""The most bytes of randomness that a server holds ahead for one model, whatever its owner says."""


class Addresses(msgspec.Struct, frozen=True):
    """Where the three workers of a cluster are: urls of nodes, without the actor's name.

    Attributes:
        servers: who evaluates.
        crypto_provider: who deals: the crypto provider, or among three equals the one that helps with this model.
        helper: the place of the latter in the cluster, 0 to 2; None if the crypto provider is a party of its own.
    """

    servers: tuple[str, str]
    crypto_provider: str
    helper: int | None = None

    @property
    def equals(self) -> bool:
        """Whether the three are equals."""
        return self.helper is not None

    @property
    def all(self) -> tuple[str, str, str]:
        """Server 0, server 1, and who deals."""
        return *self.servers, self.crypto_provider


def check_program(program: Program) -> None:
    """Refuse a program that is not well formed or too large, before anything is allocated for it.

    Raises:
        ProgramError: it is not well formed.
        TooLarge: its weights need more than `MODEL_LIMIT` bytes.
    """
    infer(program)
    size = weight_bytes(program)
    if size > MODEL_LIMIT:
        raise TooLarge(
            f"the model has {size >> 20} MiB of shared weights, {MODEL_LIMIT >> 20} MiB are allowed: share a smaller model, or the part of "
            "it that has to be secret"
        )


class Hosting(msgspec.Struct, frozen=True):
    """What the third party tells a server when a model is shared. None of it is a right: who may do what is checked by who asks.

    Attributes:
        name: the model's name, known to everybody.
        program: its public half.
        party: which server this is.
        equals: whether the cluster is one of three equals; with the name it says who the others are.
        model: in every ticket; names the model to clients and workers.
        weight_key: from which this server expands its half of the weights' masks; None among equals, who derive it.
        ticket_key: verifies tickets; None among equals.
        seal: public key of the other server for the seals of both, see `Agreed`.
        guarantee: what is promised where answers are noisy, known to everybody.
    """

    name: str
    program: Program
    party: int
    equals: bool
    model: bytes
    weight_key: Told
    ticket_key: Told
    seal: bytes
    guarantee: Guarantee | None = None

    def __repr__(self) -> str:
        return f"Hosting({self.name!r}, party={self.party})"


class Agreed(msgspec.Struct, frozen=True):
    """A server's answer before it hosts a model.

    Attributes:
        seal: its public key; what it gives with that of the other server (X25519) seals what the two send each other. It passes through
            the hands of the third party, which learns nothing from it.
        helper: among equals its public key for what it shares with the helper; otherwise None.
    """

    seal: bytes
    helper: bytes | None


class Terms(msgspec.Struct, frozen=True):
    """What an owner allows, in all since the model was shared. Servers and provider each enforce it.

    Attributes:
        total: requests.
        reveal: kinds of answer.
        examples: of all requests together; None: any number.
    """

    total: int
    reveal: tuple[Reveal, ...] = REVEALS
    examples: int | None = None


class Handshake(msgspec.Struct, frozen=True):
    """What anybody may know of a shared model. `owner` is the common name in the certificate of who shared it, as this server saw it.

    `lasting` is what stays when `model` changes, because workers have come together again; empty of one that does not outlive them.
    """

    name: str
    owner: str
    model: bytes
    program: Program
    reveal: tuple[Reveal, ...]
    guarantee: Guarantee | None = None
    lasting: bytes = b""


class HostedModel:
    """One model at one server: its shares, its stock of randomness, and how often it may still be asked, in all and by each client.

    Args:
        hosting: what the third party told.
        pair: what this server has agreed on with the helper, among equals.
        budget: of the model in whose place this one comes, where answers are noisy: what is spent stays spent.
        quota: what was answered of it before, if it is the same model; None: nothing.
    """

    def __init__(self, hosting: Hosting, pair: Pair | None = None, budget: Budget | None = None, quota: Quota | None = None) -> None:
        check_program(hosting.program)
        check_guarantee(hosting.program, hosting.guarantee)
        self.hosting = hosting
        self._pair = pair
        self._weight_key = self.key(hosting.weight_key, "weights")
        self.ticket_key = self.key(hosting.ticket_key, "tickets")
        self.me = Party(hosting.party)
        programs: dict[Reveal, Program] = {"logits": hosting.program}
        if hosting.program.label is not None:
            programs["label"] = hosting.program.for_label()
        self.programs = programs
        self.stock = Stock(2 * MOST_MEMORY)  # what was granted before an owner serves within another memory is used still
        self.reveal: tuple[Reveal, ...] = ()
        self._masked: list[Ring] | None = None
        self._weights: WeightShares | None = None
        self._sent = False
        self._arriving: Arriving | None = None
        self.quota = quota or Quota(hosting.name)
        self.budget = None if hosting.guarantee is None else succeeding(budget, hosting.name, hosting.guarantee.answers)

    @property
    def name(self) -> str:
        """The model's name."""
        return self.hosting.name

    def key(self, told: Told, *purpose: str | bytes) -> bytes:
        """Return this server's key of a purpose; see `server_key`."""
        return server_key(self.hosting.equals, self._pair, told, *purpose)

    @property
    def _loaded(self) -> list[Ring]:
        """The masked weights.

        Raises:
            NotServed: the owner has not sent them yet.
        """
        if self._masked is None:
            raise NotServed(f"the owner of model {self.name!r} has not sent its weights yet")
        return self._masked

    @cached_property
    def weights_fingerprint(self) -> Ring:
        """BLAKE3 of the masked weights, which both servers have, in four words. Slow for a large model: first in a thread.

        Raises:
            NotServed: the owner has not sent them yet.
        """
        hashed = blake3()
        for weight in self._loaded:
            hashed.update(np.ascontiguousarray(weight).data.cast("B") if weight.size else b"")
        return np.frombuffer(hashed.digest(), np.uint64)

    def masked(self, shares: Sequence[Ring]) -> list[Ring]:
        """Return shares of weights that nobody knows under this server's half of their masks: with those of the other server M_W.

        Raises:
            ServingError: there are weights already: others under the same masks would show how they differ.
            SharingError: their shapes are not those of the program.
        """
        shapes = [tuple(shape) for shape in self.hosting.program.weights]
        if self._sent or self._arriving is not None:
            raise ServingError(f"the weights of model {self.name!r} are here already: share a changed model anew")
        if [share.shape for share in shares] != shapes:
            raise SharingError(f"weights of shapes {[share.shape for share in shares]} are ready, the program has {shapes}")
        self._sent = True
        return [share + mask for share, mask in zip(shares, weight_masks(self._weight_key, shapes), strict=True)]

    def opened(self, masked: list[Ring]) -> None:
        """Take M_W as both servers have opened it, see `masked`."""
        self._masked = masked

    @property
    def weights(self) -> WeightShares:
        """This server's shares of the weights, made when they are first needed and kept. Slow for a large model: first in a thread.

        Raises:
            NotServed: the owner has not sent them yet.
        """
        if self._weights is None:
            masked = self._loaded
            self._weights = WeightShares.of(self.me, masked, weight_masks(self._weight_key, [w.shape for w in masked]))
        return self._weights

    @property
    def derived(self) -> WeightShares:
        """The same, each made anew when an operation needs it: half of the memory, for what is streamed.

        Raises:
            NotServed: the owner has not sent them yet.
        """
        return self._weights or WeightShares(self._loaded, DerivedShares(self.me, self._loaded, self._weight_key))

    def arrive(self, parts: list[Ring]) -> None:
        """Add a piece of the masked weights; the next ones follow, then `load` without any.

        Raises:
            ServingError: the weights are here already.
            SharingError: they are more than those of the program.
        """
        if self._sent:
            raise ServingError(f"the weights of model {self.name!r} are here already: share a changed model anew")
        if self._arriving is None:
            self._arriving = Arriving(weight_bytes(self.hosting.program) // 8)
        self._arriving.add(parts)

    def load(self, masked: list[Ring]) -> None:
        """Take the masked weights of the owner, those that have arrived in pieces if `masked` is empty.

        Refuses weights that do not fit, or that come a second time: others under the same masks would show how they differ.

        Raises:
            ServingError: they are here already.
            SharingError: their shapes are not those of the program.
        """
        if self._sent:
            raise ServingError(f"the weights of model {self.name!r} are here already: share a changed model anew")
        shapes = [tuple(shape) for shape in self.hosting.program.weights]
        if self._arriving is not None:
            if masked:
                raise SharingError(f"the weights of model {self.name!r} have begun to arrive in pieces, and cannot come again")
            masked = carved(self._arriving.complete(), shapes)
        if [w.shape for w in masked] != shapes:
            raise SharingError(f"weights of shapes {[w.shape for w in masked]} arrived, the program has {shapes}")
        self._sent, self._arriving, self._masked = True, None, masked

    def serve(self, terms: Terms) -> None:
        """Allow so much in all, what was answered before included.

        Raises:
            ServingError: the owner allows what makes no sense, or what this model cannot give.
        """
        check_terms(self.hosting.program, terms.total, terms.reveal, terms.examples)
        self.reveal = terms.reveal
        self.quota.allow(terms.total, terms.examples)

    @property
    def counts_clients(self) -> bool:
        """Whether it has to be known who asks."""
        return self.budget is not None

    def admit(self, ticket: Ticket, client: str = "") -> None:
        """Count a part of a request as under way, and where answers are noisy its examples for the client. One `ended` follows.

        Raises:
            NotServed: this kind of answer is not served.
            QuotaSpent: the owner allowed no more requests, or fewer examples.
            BudgetSpent: this client has got all the noisy answers that it can get.
            TicketRefused: the ticket is somebody else's.
        """
        if ticket.reveal not in self.reveal:
            raise NotServed(f"model {self.name!r} does not answer with {ticket.reveal!r}; it serves {list(self.reveal)}")
        self.quota.check(ticket)
        if self.budget is not None:
            if ticket.client != client:
                raise TicketRefused(f"the ticket was issued to client {ticket.client!r}, and client {client!r} came with it")
            self.budget.spend(client, ticket.examples)
        self.quota.begin(ticket)

    def ended(self, ticket: Ticket, released: bool) -> None:
        """End what was admitted. Without an answer it does not count; the budget of its client stays spent. See `Quota.end`."""
        self.quota.end(ticket, released)

    def prepared(self, reveal: Reveal, key: bytes, examples: int, dealt: Ring | None) -> Material:
        """Expand and prepare a chunk: the work ahead of any request. Slow; runs in a thread.

        Args:
            reveal: for which kind of answer.
            key: this server's key of the chunk.
            examples: how many it serves.
            dealt: what the provider dealt to party 1; party 0 expands its own.
        """
        program = self.programs[reveal]
        plan = inference.layout(program)
        if dealt is not None and not dealt.flags.writeable:
            dealt = dealt.copy()
        material = Material.of(plan, key, examples, dealt)
        inference.prepare(program, self.weights, material)
        return material

    def supply(
        self, reveal: Reveal, chunk: bytes, key: bytes, examples: int, how: Window | None, *, run: Runner, patience: float
    ) -> tuple[Supply, range]:
        """Begin to take a chunk, whole or, of one example, in segments, and put it on stock; return its supply, and its pieces.

        Args:
            reveal: for which kind of answer.
            chunk: its identifier.
            key: this server's key of it.
            examples: how many it serves.
            how: sizes of the segments, and memory for them; None: whole.
            run: prepares pieces in a thread.
            patience: seconds to wait for a message.

        Raises:
            TicketRefused: a chunk of this name was here before.
            SharingError: it needs more memory than there is, or serves no example, or several in segments.
        """
        program = self.programs[reveal]
        if examples < 1 or (how is not None and examples > 1):
            raise SharingError(f"a chunk of {examples} examples was dealt: at least one is possible, and one only in segments")
        parts = inference.segments(program, None if how is None else how.segment)
        prepare: Callable[[Ring | None], Material] = partial(self.prepared, reveal, key, examples)
        if how is not None:
            prepare = inference.Preparation(program, self.derived, key, parts, examples).next
        pieces = [ComingPiece(part, examples, prepare) for part in parts]
        supply = Supply(pieces[0].size if how is None else how.room, run=run, patience=patience)
        numbers = supply.extend(pieces)
        self.stock.add(chunk, reveal, supply, examples)
        return supply, numbers

    def dealt_bytes(self, ticket: Ticket) -> int:
        """How many bytes the provider sent ahead for a ticket: everything to party 1, a key to party 0."""
        return 8 * inference.layout(self.programs[ticket.reveal]).dealt * ticket.examples if self.me.index else 0

    def work(self, ticket: Ticket) -> int:
        """How many ring words an answer goes through: its randomness, and the weights once. A measure of how long it takes."""
        plan = inference.layout(self.programs[ticket.reveal])
        return (plan.own + plan.dealt) * ticket.examples + weight_bytes(self.hosting.program) // 8

    def check_input(self, ticket: Ticket, m: Ring) -> None:
        """Refuse masked examples that do not fit the ticket."""
        expected = (ticket.examples, *self.hosting.program.input_shape)
        if m.dtype != np.uint64 or m.shape != expected:
            raise SharingError(f"masked examples of shape {m.shape} and dtype {m.dtype} arrived, the ticket is for {expected} uint64")

    def handshake(self, owner: str, lasting: bytes = b"") -> Handshake:
        """Return what a client is told."""
        return Handshake(self.name, owner, self.hosting.model, self.hosting.program, self.reveal, self.hosting.guarantee, lasting)


def fingerprint(program: Program) -> bytes:
    """Return SHA-256 of a program: by it an owner makes sure that both servers host what it has shared."""
    return sha256(msgspec.msgpack.encode(program)).digest()
