"""How long does compiling take?"""

from benchmarks.bench_support import TIMED, labels, program_of, slug_of, use


class Compile:
    """Tracing, lowering and compiling for the CPU; the persistent cache is off unless the user turned it on."""

    params = (labels(TIMED),)
    param_names = ("case",)
    version = "1"
    timeout = 300
    number = 1
    repeat = (3, 10, 2.0)
    warmup_time = 0

    def setup(self, case):
        use("cpu")
        import jax

        self.jax = jax
        self.program = program_of(slug_of(case), "cpu")
        jax.block_until_ready(jax.numpy.zeros(1) + 1)  # starts the backend
        jax.clear_caches()

    def time_compile(self, case):
        self.jax.jit(self.program.function).lower(*self.program.inputs).compile()
