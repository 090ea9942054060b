"""The same scenarios for real dockerds and for the simulator's fake ones (issue: conformance)."""
