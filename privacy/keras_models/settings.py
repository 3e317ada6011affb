"""Where two objects of Keras, or of a user's own classes, say different things: plain attributes, method by method, object by object.

It compares a model with a copy that was made from its configuration. What a class keeps in mind while it runs (attributes that its methods
set) is no setting, and neither is a name, a seed that nobody has given, or how weights begin.
"""

from __future__ import annotations

import dis
import inspect
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Final

import numpy as np

from privacy.keras_models import internals

LIBRARIES: Final = frozenset({"keras", "tensorflow", "numpy", "builtins", "functools", "collections"})
"""Packages whose objects say what they are in their configuration."""
SMALL: Final = 1 << 12
"""Values of an array up to which it is compared."""
DEEPEST: Final = 8
"""Objects within objects that are looked into."""
NEAR: Final = 1e-6
"""How far floats may differ that have been written as text, as a share."""
_PLAIN: Final = (bool, int, float, complex, str, bytes, type(None), np.generic)
_NAMES: Final = frozenset({"name", "path", "built", "history", "train_function", "test_function", "predict_function"})
_BUILDERS: Final = frozenset(
    {"__init__", "__new__", "__post_init__", "__setstate__", "build", "build_from_config", "from_config", "enable_lora"}
)
_FILLING: Final = frozenset({"append", "add", "update", "setdefault", "extend", "insert", "pop", "clear"})
_MISSING: Final = object()


@dataclass(frozen=True)
class Difference:
    """Something that a copy does not say.

    Args:
        whose: the object, such as `layer 'scale' (Scale)`.
        kind: the name of its class.
        what: the attribute, or what was computed.
        here: in the original.
        there: in the copy.
        own: whether the class is the user's.
    """

    whose: str
    kind: str
    what: str
    here: str
    there: str
    own: bool = True

    def __str__(self) -> str:
        return f"{self.whose}: {self.what} is {self.here} here and {self.there} in the copy"


def is_own(value: Any) -> bool:
    """Whether the class of an object, or a function, is none of Keras' and its libraries."""
    return _root(value if inspect.isroutine(value) or inspect.isclass(value) else type(value)) not in LIBRARIES


def _root(named: Any) -> str:
    """Return the package of a class or function."""
    return str(getattr(named, "__module__", None) or "builtins").partition(".")[0]


def differences(model: Any, copy: Any) -> Iterator[Difference]:
    """Yield where a compiled model and its copy say different things, each once.

    Compared are the model, its layers in their order with all that is in them, its optimizer and schedule, losses and metrics as they were
    compiled, and the constraint and regularizer of each weight; of each the class, methods that were put on the object alone, and the plain
    attributes: numbers, texts, truth values, None, arrays of up to 4,096 values, and tuples, lists, dicts and sets of these.

    Args:
        model: compiled.
        copy: built from its configuration, compiled, with as many weights, and these set to those of the model.
    """
    found = _Comparison(model, copy)
    yield from found.of("model", model, copy)
    layers = [internals.layers_within(one, itself=False) for one in (model, copy)]
    if len(layers[0]) != len(layers[1]):
        here, there = (str(len(one)) for one in layers)
        yield Difference(f"model {model.name!r}", type(model).__name__, "the number of its layers", here, there)
        return
    for one, other in zip(*layers, strict=True):
        yield from found.of("layer", one, other)
    yield from found.of("optimizer", model.optimizer, copy.optimizer)
    optimizers = [getattr(one.optimizer, "inner_optimizer", one.optimizer) for one in (model, copy)]
    rates = [internals.learning_rate(one) for one in optimizers]
    if callable(rates[0]) or callable(rates[1]):
        yield from found.values("learning rate schedule", *rates)
    for what, named in (("loss", "loss"), ("metrics", "metric"), ("weighted_metrics", "metric")):
        given, again = (internals.compile_arguments(each).get(what) for each in (model, copy))
        yield from found.values(named, given, again)
    losses = [internals.compile_apart(one)["_compile_loss"] for one in (model, copy)]
    if (losses[0] is None) != (losses[1] is None):  # Keras goes on with the loss before, where compile(loss=None) follows it
        here, there = ("none" if one is None else "one" for one in losses)
        yield Difference(f"model {model.name!r}", "Model", "its loss", here, there, own=False)
    for weight, again in zip(model.weights, copy.weights, strict=True):
        for what in ("constraint", "regularizer"):
            yield from found.values(f"{what} of weight {weight.path!r}", getattr(weight, what), getattr(again, what))


class _Comparison:
    """What has been compared already, and whose weights are which."""

    def __init__(self, model: Any, copy: Any) -> None:
        self._seen: set[tuple[int, int]] = set()
        self._places = [{id(variable): i for i, variable in enumerate(one.weights)} for one in (model, copy)]

    def of(self, role: str, one: Any, other: Any, deep: int = 0) -> Iterator[Difference]:
        """Yield where two objects differ."""
        if (id(one), id(other)) in self._seen or deep > DEEPEST or one is other:
            return
        self._seen.add((id(one), id(other)))
        if _is_uncompared(one):
            return
        kind, whose = type(one).__name__, _called(role, one)
        if type(one) is not type(other) and not (_is_of_keras(one) and type(one).__name__ == type(other).__name__):
            yield Difference(whose, kind, "its class", kind, type(other).__name__, is_own(one))
            return
        mine, others = _said(one), _said(other)
        cls: Any = type(one)
        skipped, filled = _kept_in_mind(cls), _filled(cls)
        for name in sorted({*mine, *others}):
            here, there = mine.get(name, _MISSING), others.get(name, _MISSING)
            if _is_method(one, name):
                if (here is _MISSING) != (there is _MISSING) and not _is_ours(here):
                    yield Difference(whose, kind, f"its method {name}", _method(here), _method(there), is_own(one))
            elif name in filled and isinstance(here, (list, dict, set)):
                continue
            elif name not in skipped and not (name.startswith("__") or name in _NAMES):
                yield from self._attribute(whose, kind, name, here, there, deep, own=is_own(one))
        yield from _asked(whose, kind, one, other)

    def values(self, role: str, one: Any, other: Any) -> Iterator[Difference]:
        """Yield where two nests of objects or plain values differ."""
        yield from self._attribute(role, type(one).__name__, "what was given", one, other, 0, own=is_own(one), role=role)

    def _attribute(
        self, whose: str, kind: str, name: str, here: Any, there: Any, deep: int, *, own: bool, role: str | None = None
    ) -> Iterator[Difference]:
        if here is there:
            return
        pair = [_array(one) for one in (here, there)]
        if pair[0] is not None or pair[1] is not None:
            if any(one is not None and one.size > SMALL for one in pair) or _same(*pair):
                return
            yield Difference(whose, kind, name, _shown(here), _shown(there), own)
        elif any(isinstance(one, _PLAIN) or one is _MISSING for one in (here, there)):
            plain = all(isinstance(one, _PLAIN) or one is _MISSING for one in (here, there))
            silent = not plain and not _says(here if isinstance(there, _PLAIN) or there is _MISSING else there)
            if not silent and not (plain and _equal(here, there)):
                yield Difference(whose, kind, name, _shown(here), _shown(there), own)
        elif isinstance(here, Mapping) and isinstance(there, Mapping):
            if set(map(str, here)) != set(map(str, there)):
                yield Difference(whose, kind, f"{name}", f"a dict of {len(here)}", f"a dict of {len(there)}", own)
                return
            again = {str(key): value for key, value in there.items()}
            for key, value in here.items():
                yield from self._attribute(whose, kind, f"{name}[{key!r}]", value, again[str(key)], deep + 1, own=own, role=role)
        elif isinstance(here, (list, tuple)) and isinstance(there, (list, tuple)):
            if len(here) != len(there):
                yield Difference(whose, kind, name, f"{len(here)} values", f"{len(there)} values", own)
                return
            for i, (value, again) in enumerate(zip(here, there, strict=True) if len(here) <= SMALL else ()):
                yield from self._attribute(whose, kind, f"{name}[{i}]", value, again, deep + 1, own=own, role=role)
        elif isinstance(here, (set, frozenset)) and isinstance(there, (set, frozenset)):
            if all(isinstance(one, _PLAIN) for one in {*here, *there}) and set(here) != set(there):
                yield Difference(whose, kind, name, _shown(sorted(map(str, here))), _shown(sorted(map(str, there))), own)
        else:
            yield from self._objects(whose, kind, name, here, there, deep, own=own, role=role)

    def _objects(
        self, whose: str, kind: str, name: str, here: Any, there: Any, deep: int, *, own: bool, role: str | None
    ) -> Iterator[Difference]:
        import keras  # noqa: PLC0415  is loaded already: there is a model

        if isinstance(here, keras.Variable) and isinstance(there, keras.Variable):
            mine, again = (places.get(id(one)) for places, one in zip(self._places, (here, there), strict=True))
            if mine != again:
                yield Difference(whose, kind, name, f"weight {mine} of the model", f"weight {again}", own)
        elif inspect.isroutine(here) or inspect.isclass(here) or isinstance(here, partial):
            if is_own(here) and not _same_function(here, there):
                yield Difference(whose, kind, name, _shown(here), _shown(there), own)
        elif _root(type(here)) in sys.stdlib_module_names:  # a path, a date, a fraction; of others, such as locks, nothing is known
            if type(here) is type(there) and getattr(type(here).__eq__, "__qualname__", "") != "object.__eq__" and here != there:
                yield Difference(whose, kind, name, _shown(str(here)), _shown(str(there)), own)
        elif _is_of_keras(here) or is_own(here):
            yield from self.of(role or f"{name} of {whose}", here, there, deep + 1)


def _said(one: Any) -> dict[str, Any]:
    found = dict(getattr(one, "__dict__", {}))
    for cls in type(one).__mro__:
        slots = vars(cls).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if hasattr(one, name):
                found.setdefault(name, getattr(one, name))
    return found


def _is_uncompared(one: Any) -> bool:
    """Objects whose attributes are no settings: seeds that Keras draws by itself, how weights begin, dtypes, what Keras compiles."""
    import keras  # noqa: PLC0415  is loaded already: there is a model

    made = (keras.random.SeedGenerator, keras.Initializer, keras.callbacks.Callback, keras.InputSpec, keras.KerasTensor)
    if isinstance(one, made) or inspect.ismodule(one):
        return True
    return not is_own(one) and not _is_of_keras(one)


def _is_of_keras(one: Any) -> bool:
    import keras  # noqa: PLC0415  is loaded already: there is a model

    schedule = keras.optimizers.schedules.LearningRateSchedule
    kinds = (keras.layers.Layer, keras.Loss, keras.Metric, keras.Optimizer, keras.Regularizer, keras.constraints.Constraint, schedule)
    return isinstance(one, kinds)


@lru_cache(maxsize=1024)
def _kept_in_mind(kind: Any) -> frozenset[str]:
    """Attributes of a class that are no settings: those that its methods set while it runs, and private ones of Keras' own classes."""
    import keras  # noqa: PLC0415  is loaded already: there is a model

    found: set[str] = set()
    layer = issubclass(kind, keras.layers.Layer)  # all of a model are built; optimizers and metrics when they are used first
    for cls in kind.__mro__:
        library = cls.__module__.partition(".")[0] in LIBRARIES
        for name, value in vars(cls).items():
            function = inspect.unwrap(value) if inspect.isroutine(value) else None
            if isinstance(function, (staticmethod, classmethod)):
                function = function.__func__
            if isinstance(value, property) and library:
                found.add(name)
            if not inspect.isfunction(function):
                continue
            if library:
                found.update(one for one in function.__code__.co_names if one.startswith("_"))
            if (name not in _BUILDERS and not name.startswith("set")) or (name == "build" and not layer):
                found.update(_stored(function))
    return frozenset(found)


@lru_cache(maxsize=1024)
def _filled(kind: Any) -> frozenset[str]:
    """Attributes that methods of a class may put something into while it runs, such as caches."""
    found: set[str] = set()
    for cls in kind.__mro__:
        for name, value in vars(cls).items():
            code = getattr(value, "__code__", None)
            if code is None or name in _BUILDERS or name.startswith("set") or _root(cls) in LIBRARIES:
                continue
            steps = list(dis.get_instructions(code))
            if any(
                one.opname == "STORE_SUBSCR" or one.argval in _FILLING for one in steps if one.argval is None or isinstance(one.argval, str)
            ):
                found.update(code.co_names)
    return frozenset(found)


def _stored(function: Callable[..., Any]) -> Iterator[str]:
    code = getattr(function, "__code__", None)
    return (one.argval for one in dis.get_instructions(code) if one.opname == "STORE_ATTR") if code else iter(())


def _is_method(one: Any, name: str) -> bool:
    return inspect.isroutine(inspect.getattr_static(type(one), name, None))


def _is_ours(method: Any) -> bool:
    """Whether a method was put on a model by `privacy`, which trains it where it is and does not send it."""
    return type(getattr(method, "__self__", None)).__module__.partition(".")[0] == "privacy"


def _asked(whose: str, kind: str, one: Any, other: Any) -> Iterator[Difference]:
    """Compare what is kept behind a property, and what layers of Keras' own have learnt by `adapt`: their configuration does not say it."""
    masking = [getattr(each, "supports_masking", None) for each in (one, other)]
    if bool(masking[0]) != bool(masking[1]):
        yield Difference(whose, kind, "supports_masking", str(masking[0]), str(masking[1]), own=is_own(one))
    if callable(getattr(one, "get_vocabulary", None)) and not is_own(one):
        mine, again = one.get_vocabulary(), other.get_vocabulary()
        if list(map(str, mine)) != list(map(str, again)):
            yield Difference(whose, kind, "its vocabulary", f"of {len(mine)} words", f"of {len(again)}", own=False)
    bounds = [getattr(each, "bin_boundaries", None) for each in (one, other)]
    if not is_own(one) and not _same(_array(bounds[0]), _array(bounds[1])):
        yield Difference(whose, kind, "bin_boundaries", _shown(bounds[0]), _shown(bounds[1]), own=False)


# Values.


def _array(value: Any) -> Any:
    """Return an array of numbers or texts; None for what is none."""
    if isinstance(value, np.ndarray):
        return value
    if hasattr(value, "numpy") and not hasattr(value, "assign"):  # a tensor that is there, of whatever backend
        try:
            return np.asarray(value.numpy())
        except Exception:  # a symbol
            return None
    if isinstance(value, (list, tuple)) and value and all(isinstance(one, (int, float, np.number)) for one in value):
        return np.asarray(value)
    return None


def _same(one: Any, other: Any) -> bool:
    if one is None or other is None:
        return one is other
    if one.shape != other.shape:
        return False
    if "f" in (one.dtype.kind, other.dtype.kind):
        return bool(np.allclose(one.astype(np.float64), other.astype(np.float64), rtol=NEAR, atol=0, equal_nan=True))
    return bool(np.array_equal(one, other))


def _equal(one: Any, other: Any) -> bool:
    if one is _MISSING or other is _MISSING:
        return False
    numbers = all(isinstance(each, (int, float, np.number, np.bool_)) for each in (one, other))
    if numbers:
        one, other = float(one), float(other)
        return (math.isnan(one) and math.isnan(other)) or math.isclose(one, other, rel_tol=NEAR)
    return bool(one == other)


def _says(value: Any) -> bool:
    """Whether it says anything that its absence does not: an object of Keras' or the user's, a function of the user's, values."""
    if inspect.isroutine(value) or inspect.isclass(value) or isinstance(value, partial):
        return is_own(value)
    return _is_of_keras(value) or (isinstance(value, (list, tuple, Mapping, set)) and len(value) > 0 and not is_own(value))


def _same_function(one: Any, other: Any) -> bool:
    """Whether two functions are the same, or made by the same lines from the same values."""
    if isinstance(one, partial) or isinstance(other, partial):
        both = isinstance(one, partial) and isinstance(other, partial)
        return both and _same_function(one.func, other.func) and repr((one.args, one.keywords)) == repr((other.args, other.keywords))
    codes = [getattr(each, "__code__", each) for each in (one, other)]
    cells = [[_cell(cell) for cell in getattr(each, "__closure__", None) or ()] for each in (one, other)]
    return codes[0] == codes[1] and cells[0] == cells[1] and getattr(one, "__defaults__", None) == getattr(other, "__defaults__", None)


def _cell(cell: Any) -> Any:
    try:
        value = cell.cell_contents
    except ValueError:
        return None
    return value if isinstance(value, _PLAIN) else type(value)


def _called(role: str, one: Any) -> str:
    name = getattr(one, "name", None)
    return f"{role} {name!r} ({type(one).__name__})" if isinstance(name, str) and " of " not in role else f"{role} ({type(one).__name__})"


def _method(value: Any) -> str:
    return "that of its class" if value is _MISSING else "one of this object alone"


def _shown(value: Any) -> str:
    if value is _MISSING:
        return "not there"
    if inspect.isroutine(value) or inspect.isclass(value):
        return str(getattr(value, "__qualname__", value))
    if _is_of_keras(value) or not isinstance(value, (*_PLAIN, list, tuple, dict, set, np.ndarray)):
        return f"a {type(value).__name__}"
    shown = " ".join(repr(value).split())
    return shown if len(shown) <= 60 else f"{shown[:57]}..."
