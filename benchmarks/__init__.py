"""Side-by-side timings against named peers: ``python -m benchmarks`` (or ``make bench``)."""
