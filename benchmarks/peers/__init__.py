"""What the benchmarks compare with: the same work, written the way it is usually done."""
