"""How long calls take: rounds in which every competitor runs once, each in another order, and the median of the rounds.

What disturbs the machine for a moment then hits all of them alike, and nobody always follows the one whose threads go on spinning after
its work is done. Within a round a competitor is called so often that the clock's own cost does not show. Standard library only; the clock is a parameter, so that tests need not wait.
"""

import gc
import random
import statistics
import sys
import time
from dataclasses import dataclass
from itertools import repeat


@dataclass(frozen=True)
class Effort:
    """How much time goes into one competitor in one cell, in seconds."""

    # At least this many rounds, and rounds until so much time has gone into a competitor.
    rounds: int = 5
    enough: float = 0.05
    # One round of one competitor: a single call, or as many as this takes.
    sample: float = 0.002
    # No competitor gets more than this: one that would is left out.
    limit: float = 20.0
    # Before a turn everybody rests until no thread of the process runs, so long at most, and the turn begins with a call that does
    # not count: threads of the one before may go on spinning for a while, and nobody should have to share the cores with them.
    rest: float = 0.0


@dataclass(frozen=True)
class Timing:
    """Seconds per call."""

    median: float
    best: float
    # Distance of the quartiles, relative to the median: how noisy the machine was.
    spread: float
    rounds: int
    calls: int


class TooSlow(Exception):
    """One call takes so long that the rounds would not fit."""


def timed(function, calls, clock=time.perf_counter):
    """Seconds that one of so many calls takes."""
    start = clock()
    for _ in repeat(None, calls):
        function()
    return (clock() - start) / calls


class Rest:
    """Sleeps until all threads of the process have done so for a step, and as long as it once took until they did: who follows those that
    spin shall not find caches that are colder. How long threads spin differs between machines: they count turns, not time."""

    def __init__(self, used=time.process_time, sleep=time.sleep, step=0.001):
        self.used, self.sleep, self.step, self.longest = used, sleep, step, 0.0

    def __call__(self, most):
        """Of so many seconds at most."""
        rested = max(0.0, self.longest - self.step)
        if rested:
            self.sleep(rested)
        while rested < most:
            before = self.used()
            self.sleep(self.step)
            rested += self.step
            if self.used() - before < self.step / 5:
                break
        self.longest = rested


def interleaved(functions, effort=Effort(), clock=time.perf_counter, rest=Rest()):
    """Times functions without arguments, by name; a name's result is a Timing, or TooSlow with the seconds of one call."""
    results, plans = {}, {}
    collecting = gc.isenabled()
    gc.disable()
    try:
        for name, function in functions.items():
            once = timed(function, 1, clock)
            if once < effort.sample:
                once = min(once, timed(function, 3, clock))
            if once * effort.rounds > effort.limit:
                results[name] = TooSlow(once)
                continue
            calls = max(1, int(effort.sample / max(once, 1e-9)))
            rounds = max(effort.rounds, round(effort.enough / max(calls * once, 1e-9)))
            plans[name] = (calls, min(rounds, 10 * effort.rounds))
        samples = {name: [] for name in plans}
        last = max((rounds for _, rounds in plans.values()), default=0)
        names, order = list(plans), random.Random(1)
        for i in range(last):
            order.shuffle(names)
            for name in names:
                calls, rounds = plans[name]
                # The few rounds of a slow one are spread over all of them.
                if i * rounds // last != (i + 1) * rounds // last:
                    if effort.rest:
                        rest(effort.rest)
                        functions[name]()
                    samples[name].append(timed(functions[name], calls, clock))
    finally:
        if collecting:
            gc.enable()
    for name, taken in samples.items():
        results[name] = summary(taken, plans[name][0])
    return {name: results[name] for name in functions}


def summary(samples, calls):
    """The Timing of some samples."""
    median = statistics.median(samples)
    if len(samples) > 1:
        quartiles = statistics.quantiles(samples, n=4)
        spread = (quartiles[2] - quartiles[0]) / median
    else:
        spread = 0.0
    return Timing(median, min(samples), spread, len(samples), calls)


def duration(seconds):
    """A time for people: `3.2 us`."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"


class Progress:
    """A bar with the time that is left, on standard error: redrawn on a terminal, else a line now and then."""

    def __init__(self, title, total, stream=sys.stderr, clock=time.monotonic, every=15.0):
        self.title, self.total, self.stream, self.clock, self.every = title, total, stream, clock, every
        self.done = 0.0
        self.start = clock()
        self.drawn = None

    def step(self, weight, what):
        """So much of the total is done; `what` comes next."""
        self.done += weight
        now = self.clock()
        tty = self.stream.isatty()
        finished = self.done >= self.total * (1 - 1e-9)
        if not finished and self.drawn is not None and now - self.drawn < (0.1 if tty else self.every):
            return
        self.drawn = now
        line = self.line(now, what)
        self.stream.write(f"\r\033[K{line}" if tty else f"{line}\n")
        if tty and finished:
            self.stream.write("\n")
        self.stream.flush()

    def say(self, text):
        """A line that stays."""
        self.stream.write(f"\r\033[K{text}\n" if self.stream.isatty() else f"{text}\n")
        self.stream.flush()

    def line(self, now, what):
        """The bar, how much is done, and what is left at the pace so far."""
        share = min(1.0, self.done / self.total) if self.total else 1.0
        elapsed = now - self.start
        left = f"{clock_time(elapsed * (1 - share) / share)} left" if share else "..."
        bar = "#" * round(24 * share)
        return f"{self.title} [{bar:<24}] {100 * share:3.0f}%  {clock_time(elapsed)} gone, {left}  {what}"


def clock_time(seconds):
    """Minutes and seconds."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"
