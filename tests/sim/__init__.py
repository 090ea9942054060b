"""Many nodes in one process and no time: the real decisions against a fake swarm and its faults.

A story is a seed's: plans.py makes it, world.py lets it happen with faults.py, invariants.py judges
it (and says which invariant is judged where), tally.py counts what happened. modelcheck.py looks at
every state of three nodes instead. The mutants are firstboot without one of its rules.
"""
