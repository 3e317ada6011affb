"""An actor that runs: its mailbox, its crashes, its name."""
