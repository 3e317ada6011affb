"""Has the reference show what stands under `Example:` in a docstring as code; of itself it does so under `Examples:` only."""

from __future__ import annotations

from typing import Any

import griffe


class Examples(griffe.Extension):
    """Reads the singular as the plural."""

    def on_instance(self, *, obj: griffe.Object, **given: Any) -> None:
        """Change the title, before the docstring is parsed."""
        if obj.docstring is not None:
            obj.docstring.value = obj.docstring.value.replace("\nExample:\n", "\nExamples:\n")
