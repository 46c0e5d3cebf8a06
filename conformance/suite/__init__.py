"""The conformance tests, collected from the tiers' manifests and run against the chosen backend."""
