"""Evolution strategies as pure functions.

`strategy.Strategy` is one iteration; `evaluator.Evaluator` is who runs the
rollouts; the other modules are the mathematics.
"""
