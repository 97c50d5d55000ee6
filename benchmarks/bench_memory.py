"""How much memory does a process need that computes a case?"""

from benchmarks.bench_support import TIMED, labels, prepare, slug_of


class Memory:
    """Peak resident memory of a process that compiles, checks and calls one case on the CPU."""

    params = (labels(TIMED),)
    param_names = ("case",)
    version = "1"
    timeout = 300

    def setup(self, case):
        compiled, self.inputs = prepare(slug_of(case))
        self.call = compiled.call
        import jax  # not before the platform has been chosen

        self.block = jax.block_until_ready

    def peakmem_call(self, case):
        self.block(self.call(*self.inputs))
