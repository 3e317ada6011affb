"""`python -m protocols.mpc.kernels`: compile every kernel once, so that no later process has to. For installers and images."""

from __future__ import annotations

import time

from protocols.mpc.kernels import COMPILED, __all__

if __name__ == "__main__":
    names = ", ".join(name for name in __all__ if name != "COMPILED")
    how = "compiled and stored" if COMPILED else "in plain numpy, nothing to compile"
    # Importing the package has compiled everything, before this line could look at a clock: so the processor time since the start.
    print(f"kernels {how}: {names}; {time.process_time():.1f} s of processor time, the start of Python and numba included")
