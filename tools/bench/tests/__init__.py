"""Tests of the benchmark's arithmetic: `python3 -m unittest discover -s tools/bench/tests -t tools`."""
