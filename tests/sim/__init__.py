"""Many nodes in one process and no time: the real decisions against a fake swarm and its faults."""
