"""NumPy with every temporary in an array that was there before: what a patient user writes with `out=`, made from the formula.

The formula runs once on arrays that note each operation. From the notes comes a list of calls with `out=`, whose arrays are handed on as
soon as nobody needs them any more: in place if the shape allows it. Replaying the list computes the same bits without any allocation.
Slices are taken of inputs alone, and inputs are never written.
"""

import numpy as np


class Noted(np.lib.mixins.NDArrayOperatorsMixin):
    """A value of the formula: an array, and the step that makes it (None for inputs and their slices)."""

    def __init__(self, value, steps, step=None):
        self.value, self.steps, self.step = value, steps, step

    def __array_ufunc__(self, ufunc, method, *operands, **options):
        return self.note(ufunc if method == "__call__" else getattr(ufunc, method), operands, options)

    def __array_function__(self, function, types, operands, options):
        return self.note(function, operands, options)

    def __getitem__(self, index):
        assert self.step is None, "a slice of what is computed has no place of its own"
        return Noted(self.value[index], self.steps)

    def note(self, function, operands, options):
        value = function(*(o.value if isinstance(o, Noted) else o for o in operands), **options)
        self.steps.append((function, operands, options, np.asarray(value)))
        return Noted(value, self.steps, len(self.steps) - 1)


def record(formula, inputs):
    """A function that computes the formula again and returns the result, always in the same array."""
    steps = []
    result = formula(**{name: Noted(value, steps) for name, value in inputs.items()})
    last = {result.step: len(steps)}
    for i, (_, operands, _, _) in enumerate(steps):
        last.update((o.step, max(i, last.get(o.step, 0))) for o in operands if isinstance(o, Noted))

    arrays, free, calls = [], [], []
    for i, (function, operands, options, value) in enumerate(steps):
        made = {o.step for o in operands if isinstance(o, Noted) and o.step is not None}
        dying = [arrays[step] for step in made if last[step] == i]
        taken = [(o.value if o.step is None else arrays[o.step]) if isinstance(o, Noted) else o for o in operands]
        # Ufuncs work in place; `where` is two copies, of which the first may be in place; reductions are not.
        in_place = dying if isinstance(function, np.ufunc) else []
        if function is np.where:
            in_place = [a for a in dying if a is taken[2] and a is not taken[0] and a is not taken[1]]
        fits = (a for a in in_place + free if (a.shape, a.dtype) == (value.shape, value.dtype))
        out = next(fits, None)
        if out is None:
            out = np.empty_like(value)
        free = [a for a in free + dying if a is not out]
        arrays.append(out)
        if function is np.where:
            if out is not taken[2]:
                calls.append((np.copyto, (out, taken[2]), {}))
            calls.append((np.copyto, (out, taken[1]), {"where": taken[0]}))
        else:
            calls.append((function, tuple(taken), {**options, "out": out}))
    final = arrays[result.step]

    def replay():
        for function, operands, options in calls:
            function(*operands, **options)
        return final

    return replay
