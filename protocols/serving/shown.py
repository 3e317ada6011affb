"""What workers show of the models that they hold, to those who are responsible for them: states and counts that all parties know.

Nothing here depends on a weight, an input or an answer. **Leaks** to whoever may read the metrics: names of models, how often each is
asked, and how much of its quota and of its noisy answers is left.
"""

from __future__ import annotations

from actors.observing.figures import Figure, state
from protocols.noisy_answers import Guarantee
from protocols.serving.budget import Budget
from protocols.serving.hosting import HostedModel

SERVER, PROVIDER = "server", "provider"


def quota_left(model: str, part: str, requests: int, examples: int | None) -> list[Figure]:
    """Return what is left of the quota of a model."""
    found = [state("model_requests_left", "requests that the quota of a model has left", requests, model=model, part=part)]
    if examples is not None:
        found.append(state("model_examples_left", "examples that the quota of a model has left", examples, model=model, part=part))
    return found


def budget_spent(model: str, part: str, budget: Budget | None, guarantee: Guarantee | None) -> list[Figure]:
    """Return what clients have spent of a model whose answers are noisy. Epsilon is that of all answers that a client can get."""
    if budget is None or guarantee is None:
        return []
    meaning = "noisy answers of the client that has got the most of a model"
    return [
        state("model_noisy_answers_spent", meaning, budget.most_spent, model=model, part=part),
        state("model_noisy_answers_allowed", "noisy answers that a client can get of a model", budget.answers, model=model, part=part),
        state("model_epsilon_allowed", "epsilon of all noisy answers that a client can get", guarantee.epsilon, model=model, part=part),
    ]


def of_server(hosted: HostedModel) -> list[Figure]:
    """Return what a server shows of one model."""
    name = hosted.name
    return [
        *quota_left(name, SERVER, *hosted.quota.left),
        state("model_running", "requests that are under way", hosted.quota.running, model=name, part=SERVER),
        state("model_examples_prepared", "examples that could be answered at once: randomness ahead", hosted.stock.examples, model=name),
        *budget_spent(name, SERVER, hosted.budget, hosted.hosting.guarantee),
    ]
