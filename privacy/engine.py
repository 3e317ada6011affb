"""`PrivacyEngine`: makes Keras models train with differential privacy, and says how much privacy is left."""

from __future__ import annotations

import numbers
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from privacy.accounting import Accountant, attack_bound, calibrate
from privacy.clipping import AdaptiveClipping, Clipping, FlatClipping, PerLayerClipping
from privacy.errors import SettingError
from privacy.ledger import Ledger
from privacy.plan import SamplingPlan, event
from privacy.randomness.noise import GaussianNoise
from privacy.sampling import PoissonSampler, steps_per_epoch

if TYPE_CHECKING:
    from privacy.models.validation import Finding
    from privacy.training import PrivateTraining


class PrivacyEngine:
    """Differentially private training of Keras models: DP-SGD with any Keras optimizer.

    For a batch in which each example is with probability q, clipping at C and noise multiplier z, each step is

        w <- optimizer(w, (sum_i min(1, C / ||g_i||) g_i + N(0, z^2 C^2 I)) / B)

    and the accountant composes the steps that were made. g_i is the gradient of the loss of a batch of example i alone: a compiled loss
    that is not the mean of these (or, with reduction="sum", their sum, which is not divided by B) is refused. Where Keras divides by the
    labels of a batch that count, `ignore_class` and masks, each example is divided by how many of its own do.

    Neighbours: zero-out, two data sets of the same N examples, but that the gradients of one example are zero in one of them. N and B are
    public; it moves the sum of a step by at most C, or not at all if q spares it.

    Args:
        accountant: "pld" (tight), "rdp" (fast), an `Accountant` that several engines share, or a `Ledger` that outlives this process:
            each epoch is then checked against its budget before it begins.
        noise: the source of the noise; by default the key stream of the operating system's randomness.

    Example:
        >>> engine = PrivacyEngine(accountant="pld")
        >>> model = engine.make_private(model, noise_multiplier=1.1, max_grad_norm=1.0)
        >>> model.compile(optimizer="sgd", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
        >>> model.fit(x, y, batch_size=256, epochs=15)
        >>> print(engine.epsilon(delta=1e-5))

    References:
        Abadi et al., 2016, arXiv:1607.00133, Algorithm 1. Bu et al., 2023, arXiv:2210.00038, for how it is computed.
    """

    def __init__(self, accountant: str | Accountant | Ledger = "pld", *, noise: GaussianNoise | None = None) -> None:
        self.accountant = Accountant(accountant) if isinstance(accountant, str) else accountant
        self._noise = noise if noise is not None else GaussianNoise()
        self._trainings: list[PrivateTraining] = []

    def make_private(
        self,
        model: Any,
        *,
        noise_multiplier: float | Callable[[int], float],
        max_grad_norm: float,
        clipping: str | Clipping = "flat",
        max_physical_batch_size: int | None = None,
        foreign: bool = False,
    ) -> Any:
        """Return the same model, whose `fit` is private from now on; compile it as always.

        `evaluate`, `predict`, `save` and the type stay as they are. A saved, cloned or copied model is an ordinary one.

        Args:
            model: a `keras.Model`, built or not.
            noise_multiplier: z, above 0, or a function of the step (a Keras schedule is one): the noise has the standard deviation z C.
            max_grad_norm: C, above 0: what one example adds to a sum of gradients has at most this norm.
            clipping: "flat", "per_layer", or a `Clipping`, as `AdaptiveClipping()` for which C is the first value.
            max_physical_batch_size: at most so many examples are computed at once; larger batches are summed up in parts.
            foreign: somebody else has made the model, who may want it to mix examples where no trial on made-up ones shows it: each
                example runs alone, then, unless the structure of the model is known to leave them apart.

        Raises:
            SettingError: a setting is out of its range.
            ModelRefused: naming every layer that cannot be private, why, and what to use instead.
        """
        if not callable(noise_multiplier):
            _positive("noise_multiplier", noise_multiplier)
        return self._install(model, noise_multiplier, max_grad_norm, clipping, max_physical_batch_size, None, foreign)

    def make_private_with_epsilon(
        self,
        model: Any,
        *,
        target_epsilon: float,
        target_delta: float,
        epochs: int,
        batch_size: int,
        examples: int,
        max_grad_norm: float,
        clipping: str | Clipping = "flat",
        max_physical_batch_size: int | None = None,
    ) -> Any:
        """As `make_private`, with the least noise that keeps `epochs` epochs, and all before, within the target.

        `fit` must then get as many examples and the same batch size, and refuses a step beyond the plan.

        Args:
            model: as for `make_private`.
            target_epsilon: above 0.
            target_delta: between 0 and 1; well below 1 / examples means something.
            epochs: how often each example will be sampled, on average.
            batch_size: the expected size of a batch.
            examples: N.
            max_grad_norm: as for `make_private`.
            clipping: as for `make_private`.
            max_physical_batch_size: as for `make_private`.

        Raises:
            SettingError, ModelRefused: as for `make_private`.
            SamplingRefused: there are fewer examples than a batch has.
        """
        _positive("target_epsilon", target_epsilon)
        _positive("epochs", epochs, whole=True)
        if not 0.0 < target_delta < 1.0:
            raise SettingError(f"target_delta is {target_delta}: between 0 and 1 is needed")
        steps = epochs * steps_per_epoch(examples, batch_size)
        q = PoissonSampler(examples, batch_size).probability
        z = calibrate(
            lambda z: self._with_events(event(q, z), steps),
            target_epsilon=target_epsilon,
            target_delta=target_delta,
            method=self.accountant.method,
        )
        return self._install(model, z, max_grad_norm, clipping, max_physical_batch_size, SamplingPlan(examples, batch_size, steps))

    def validate(self, model: Any) -> tuple[Finding, ...]:
        """List the reasons why `model` cannot be trained privately: each layer, why, and what to use instead. None is good."""
        from privacy.models.validation import findings  # noqa: PLC0415  imports TensorFlow

        return findings(model)

    def epsilon(self, *, delta: float) -> float:
        """Return an upper bound of epsilon for all steps so far, of all models of this engine; 0.0 before the first.

        Args:
            delta: between 0 and 1.
        """
        if not 0.0 < delta < 1.0:
            raise SettingError(f"delta is {delta}: between 0 and 1 is needed")
        return self.accountant.epsilon(delta) if self.accountant.events else 0.0

    def attack_bound(self, *, fpr: float) -> float:
        """Return an upper bound of the true positive rate of every attack on an example, for all steps so far, at a false positive rate.

        It takes the whole privacy profile: exp(epsilon) fpr + delta at one delta alone says more than is proved. Who would reconstruct an
        example by guessing with probability kappa succeeds with probability `attack_bound(fpr=kappa)` at most.

        Args:
            fpr: from 0 to 1.

        References:
            Hayes, Mahloujifar, Balle, 2023, arXiv:2302.07225, for reconstruction.
        """
        if not 0.0 <= fpr <= 1.0:
            raise SettingError(f"fpr is {fpr}: from 0 to 1 is needed")
        return attack_bound(self.accountant.events, self.accountant.method, fpr) if self.accountant.events else fpr

    def noise_multiplier(self, model: Any) -> float:
        """z of the next step of a model that this engine has made private; what was calibrated for a target can be read here.

        Raises:
            SettingError: the engine has not made it private.
        """
        found = next((one for one in self._trainings if one.model is model), None)
        if found is None:
            raise SettingError(f"{getattr(model, 'name', type(model).__name__)} was not made private by this engine: call make_private")
        return found.noise_multiplier(found.steps)

    def report(self, model: Any) -> str:
        """How the per-example gradients of each layer of a built private model are computed, and why so: a line a layer."""
        from privacy.models.recording import units  # noqa: PLC0415  imports TensorFlow

        found = next((one.units for one in self._trainings if one.model is model and one.units), None) or units(model)
        rows = [(unit.layer.name, type(unit.layer).__name__, unit.path, "" if unit.reason == unit.path else unit.reason) for unit in found]
        return "\n".join(f"{name:24} {kind:20} {path:26} {reason}".rstrip() for name, kind, path, reason in rows)

    def _install(
        self,
        model: Any,
        z: float | Callable[[int], float],
        clip: float,
        clipping: str | Clipping,
        most: int | None,
        plan: SamplingPlan | None,
        foreign: bool = False,
    ) -> Any:
        from privacy.models.validation import require  # noqa: PLC0415  imports TensorFlow
        from privacy.training import PrivateTraining  # noqa: PLC0415  imports TensorFlow

        _positive("max_grad_norm", clip)
        if most is not None:
            _positive("max_physical_batch_size", most, whole=True)
        require(self.validate(model))
        self._trainings = [one for one in self._trainings if one.model is not model]
        self._trainings.append(
            PrivateTraining(
                model,
                accountant=self.accountant,
                noise=self._noise,
                noise_multiplier=z,
                max_grad_norm=clip,
                clipping=_clipping(clipping),
                max_physical_batch_size=most,
                plan=plan,
                foreign=foreign,
            )
        )
        return model

    def _with_events(self, one: Any, steps: int) -> Any:
        """Compose what was released so far with `steps` times `one`."""
        import dp_accounting  # noqa: PLC0415  takes a second

        before = [dp_accounting.SelfComposedDpEvent(past, count) for past, count in self.accountant.events]
        return dp_accounting.ComposedDpEvent([*before, dp_accounting.SelfComposedDpEvent(one, steps)])


def _clipping(named: str | Clipping) -> Clipping:
    known: dict[str, type[Clipping]] = {"flat": FlatClipping, "per_layer": PerLayerClipping, "adaptive": AdaptiveClipping}
    if not isinstance(named, str):
        return named
    if named not in known:
        raise SettingError(f"clipping is {named!r}: {', '.join(map(repr, known))} or a Clipping is needed")
    return known[named]()


def _positive(name: str, value: Any, *, whole: bool = False) -> None:
    kinds = (numbers.Integral,) if whole else (numbers.Real,)
    if isinstance(value, bool) or not isinstance(value, kinds):
        raise SettingError(f"{name} is {_shown(value)}: a {'whole ' if whole else ''}number above 0 is needed")
    if not 0.0 < float(value) < float("inf"):
        raise SettingError(f"{name} is {value}: above 0 and finite is needed")


def _shown(value: Any) -> str:
    return repr(value) if isinstance(value, (bool, float, str)) else f"of type {type(value).__name__}"
