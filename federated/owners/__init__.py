"""An owner's process: trains on what it holds, gives away updates."""
