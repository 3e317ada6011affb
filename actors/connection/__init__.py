"""One connection between two systems, from frames to sockets."""
