"""How far is the result from the float64 reference?"""

from benchmarks.bench_support import SLUGS, asv, error_of, labels, slug_of


class Accuracy:
    """Largest error on the CPU, in units of the last place of the output's dtype; all cases in one process."""

    params = (labels(SLUGS),)
    param_names = ("case",)
    version = "1"
    unit = "ulp"

    @asv(timeout=900)
    def setup_cache(self):
        return {slug: error_of(slug) for slug in SLUGS}

    def setup(self, found, case):
        self.row = found[slug_of(case)]
        if "skipped" in self.row:
            raise NotImplementedError(self.row["skipped"])
        assert "failed" not in self.row, self.row["failed"]

    def track_max_ulp(self, found, case):
        return self.row["max_ulp"]
