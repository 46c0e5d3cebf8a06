"""Hands pytest over to the suite's plugin."""

pytest_plugins = ["conformance.plugin"]
