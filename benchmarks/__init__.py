"""Speed and memory, always as a ratio against a peer in the same run; see README.md beside this file."""
