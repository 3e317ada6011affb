"""tensorflow-privacy's queries beside TensorFlow 2.21 and Keras 3, which its own `import tensorflow_privacy` cannot load."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types

from privacy.errors import SettingError

_MODULES = ("gaussian_query", "quantile_adaptive_clip_sum_query", "tree_aggregation_query", "normalized_query", "restart_query")


def queries() -> types.SimpleNamespace:
    """Return the classes of queries that are mechanisms here, see `privacy.mechanism`, by their names.

    The package asks for estimators that TensorFlow no longer has, its modules with the queries do not. So an empty package of its name is
    registered, unless it was imported already, and they are loaded from it.

    Raises:
        SettingError: tensorflow-privacy is not installed.

    Example:
        >>> query = queries().GaussianSumQuery(l2_norm_clip=1.0, stddev=0.5)
        >>> Federation(..., privacy=query)
    """
    if "tensorflow_privacy" not in sys.modules:
        spec = importlib.util.find_spec("tensorflow_privacy")
        if spec is None or spec.submodule_search_locations is None:
            raise SettingError("tensorflow-privacy is not installed: pip install 'confide[tfp]' (its wheels need a Python below 3.12)")
        package = types.ModuleType("tensorflow_privacy")
        package.__path__ = list(spec.submodule_search_locations)
        sys.modules["tensorflow_privacy"] = package
    found = types.SimpleNamespace()
    for name in _MODULES:
        module = importlib.import_module(f"tensorflow_privacy.privacy.dp_query.{name}")
        vars(found).update({key: value for key, value in vars(module).items() if key.endswith("Query")})
    return found
