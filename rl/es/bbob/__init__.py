"""The BBOB test functions in JAX, for any dimension and batches of instances.

```python
instance = bbob.draw(key, dimension)  # Random shift and rotations.
value = bbob.FUNCTIONS['Katsuura'](x, instance)
```

All functions take the same instance, so that batches mix them:

```python
jax.vmap(lambda index, x, instance: jax.lax.switch(
  index, list(bbob.FUNCTIONS.values()), x, instance))(indices, xs, instances)
```

In one dimension `GriewankRosenbrock` and `Lunacek` are refused, since they need
two: leave them out of a switch there. `Rosenbrock`, `RosenbrockRotated` and the two
`SchaffersF7` are constant 0 there, as in Vizier.

There are two dialects. `FUNCTIONS` are Vizier's, which the papers used: f(x - s),
without an offset, so that the smallest value is 0, and with penalties outside of
the shifted box. Three functions that Vizier lacks (Rosenbrock, EllipsoidalRotated
and RastriginSeparable) are treated alike. `coco` has the official definitions with
COCO's own instances: x_opt inside of the formulas, f_opt added, penalties outside
of [-5, 5]^D. The formulas themselves differ in five functions:

  LinearSlope         rotated, and falls beyond the box; COCO: neither
  StepEllipsoidal     see `formulas.step_ellipsoidal`
  Weierstrass         lacks the last rotation
  GriewankRosenbrock  has its optimum at 0
  Gallagher           peaks at fixed places; COCO: at random ones

and AttractiveSector, Schwefel and Lunacek have fixed signs of x_opt; COCO's are
random. In both dialects Sphere, Ellipsoidal, RastriginSeparable, BuecheRastrigin,
Rosenbrock and Schwefel ignore the rotations.

Values and gradients are finite in [-5, 5]^D, in float32 and float64.
"""

from rl.es.bbob.functions import (
  FUNCTIONS,
  Function,
  Instance,
  draw,
  named,
  plain,
)
from rl.es.bbob.noise import NOISES, Noise

__all__ = [
  'FUNCTIONS',
  'NOISES',
  'Function',
  'Instance',
  'Noise',
  'draw',
  'named',
  'plain',
]
