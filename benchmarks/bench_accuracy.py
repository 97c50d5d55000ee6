"""How far is the result from the float64 reference?"""

from benchmarks.bench_support import SLUGS, asv, compile_case


class Accuracy:
    """Largest error on the CPU, in units of the last place of the output's dtype; all cases in one process."""

    params = (SLUGS,)
    param_names = ("case",)
    version = "1"
    unit = "ulp"

    @asv(timeout=900)
    def setup_cache(self):
        from benchmarks.worker_cases import check, draw, inputs_of

        found = {}
        for slug in SLUGS:
            try:
                compiled = compile_case(slug, "cpu")
            except NotImplementedError:
                continue
            oracle = draw(compiled.case)
            found[slug] = check(compiled, inputs_of(compiled.program, oracle), oracle, "cpu").max_ulp
        return found

    def setup(self, found, case):
        if case not in found:
            raise NotImplementedError("not in this commit")

    def track_max_ulp(self, found, case):
        return found[case]
