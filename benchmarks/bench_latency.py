"""How long does a call take, until its result is ready?"""

from benchmarks.bench_support import TIMED, labels, prepare_timing, slug_of


class Latency:
    """Wall time of one call on the CPU, warm cache; compiled and checked ahead."""

    params = (labels(TIMED),)
    param_names = ("case",)
    version = "2"
    timeout = 300
    rounds = 2  # processes: their medians differ by more than the samples within one do
    number = 1  # asv calls `setup` before each sample: it is cheap, as `prepare_timing` keeps the program
    repeat = (10, 100, 1.0)
    warmup_time = 0.2

    def setup(self, case):
        self.call, self.inputs = prepare_timing(slug_of(case))
        import jax  # not before the platform has been chosen

        self.block = jax.block_until_ready

    def time_wall(self, case):
        self.block(self.call(*self.inputs))
