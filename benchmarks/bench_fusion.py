"""What does the compiler make of it? Free of noise: compiled for GPUs that need not be there, and counted."""

from benchmarks.bench_support import SLUGS, TARGETS, asv, structure_of


class Fusion:
    """Launches, bytes across their borders, and those over the minimum; all cases are compiled in one process."""

    params = (SLUGS, TARGETS)
    param_names = ("case", "target")
    version = "1"

    @asv(timeout=1800)
    def setup_cache(self):
        return {(slug, target): structure_of(slug, target) for target in TARGETS for slug in SLUGS}

    def setup(self, found, case, target):
        self.row = found[case, target]
        if "skipped" in self.row:
            raise NotImplementedError(self.row["skipped"])
        assert "failed" not in self.row, self.row["failed"]

    @asv(unit="launches")
    def track_launches(self, found, case, target):
        return self.row["launches"]

    @asv(unit="bytes")
    def track_bytes(self, found, case, target):
        return self.row["bytes"]

    @asv(unit="x the minimum bytes")
    def track_traffic_ratio(self, found, case, target):
        return self.row["traffic_ratio"]
