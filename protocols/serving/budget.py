"""How many answers each client of one model may still get. Each server and the provider keep one, and none asks the others.

What is spent stays spent: no failure gives anything back, because an answer that was on its way may have arrived.
"""

from __future__ import annotations

from collections.abc import Mapping

from protocols.errors import BudgetSpent


class Budget:
    """Answers by client. Clients are told apart by the name in their certificate; "" stands for all that showed none, together.

    Args:
        name: of the model.
        answers: for each client.
        spent: by client, before this process, of a model that outlives it.

    Attributes:
        answers: the same.
    """

    def __init__(self, name: str, answers: int, spent: Mapping[str, int] | None = None) -> None:
        self._name, self.answers = name, answers
        self._spent: dict[str, int] = dict(spent or {})

    def spent_before(self, other: Budget) -> None:
        """Count what was spent of another budget as spent of this one."""
        self._spent = dict(other._spent)

    @property
    def spent(self) -> Mapping[str, int]:
        """What was spent, by client."""
        return self._spent

    @property
    def most_spent(self) -> int:
        """Answers of the client that has got the most."""
        return max(self._spent.values(), default=0)

    def left(self, client: str) -> int:
        """Answers that this client may still get."""
        return self.answers - self._spent.get(client, 0)

    def check(self, client: str, answers: int) -> None:
        """Refuse what is more than is left.

        Raises:
            BudgetSpent: it is; the message says how many answers remain.
        """
        left = self.left(client)
        if answers > left:
            who = f"client {client!r}" if client else "all clients without a certificate together"
            raise BudgetSpent(
                f"{answers} noisy answers of model {self._name!r} were asked for; {left} of {self.answers} are left for {who}: more would "
                "tell more about its training data than its owner allows"
            )

    def spend(self, client: str, answers: int) -> None:
        """Count answers, before anything is sent.

        Raises:
            BudgetSpent: fewer are left; nothing was counted.
        """
        self.check(client, answers)
        self._spent[client] = self._spent.get(client, 0) + answers


def succeeding(before: Budget | None, name: str, answers: int) -> Budget:
    """Return the budget of a model that comes in the place of another one of its owner: what a client has spent, it has spent.

    Args:
        before: of the other model; None: there is none.
        name: of both.
        answers: for each client.
    """
    budget = Budget(name, answers)
    if before is not None:
        budget.spent_before(before)
    return budget
