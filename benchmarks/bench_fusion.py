"""What does the compiler make of it? Free of noise: compiled for GPUs that need not be there, and counted."""

from benchmarks.bench_support import SLUGS, TARGETS, asv, program_of


class Fusion:
    """Launches, bytes across their borders, and those over the minimum; all cases are compiled in one process."""

    params = (SLUGS, TARGETS)
    param_names = ("case", "target")
    version = "1"

    @asv(timeout=1800)
    def setup_cache(self):
        from benchmarks.golden import structures

        return {target: structures(SLUGS, target, program_of) for target in TARGETS}

    def setup(self, found, case, target):
        if "launches" not in found[target].get(case, {}):
            raise NotImplementedError("not in this commit, or no compiler for this target")

    @asv(unit="launches")
    def track_launches(self, found, case, target):
        return found[target][case]["launches"]

    @asv(unit="bytes")
    def track_bytes(self, found, case, target):
        return found[target][case]["bytes"]

    @asv(unit="x the minimum bytes")
    def track_traffic_ratio(self, found, case, target):
        return found[target][case]["traffic_ratio"]
