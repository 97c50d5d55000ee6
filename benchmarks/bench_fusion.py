"""What does the compiler make of it? Free of noise: compiled for GPUs that need not be there, and counted."""

from benchmarks.bench_support import SLUGS, TARGETS, asv, labels, slug_of, structure_of

# Of the preset standard; JAX 0.10 and 0.12 make different programs of them.
BETWEEN_RELEASES = (
    "batch_norm.silu.8x160x160x32.nhwc.bf16.f32.forward_backward.eps0p001.naive",
    "rms_norm.alone.8x197x768.nlc.bf16.f32.forward_backward.eps1em06.naive",
    "group_norm.gelu.8x512x3199.ncl.bf16.f32.forward.g512.custom_vjp",
)
CASES = (*SLUGS, *BETWEEN_RELEASES)


class Fusion:
    """Launches, bytes across their borders, and those over the minimum; all cases are compiled in one process."""

    params = (labels(CASES), TARGETS)
    param_names = ("case", "target")
    version = "1"

    @asv(timeout=1800)
    def setup_cache(self):
        return {(slug, target): structure_of(slug, target) for target in TARGETS for slug in CASES}

    def setup(self, found, case, target):
        self.row = found[slug_of(case), target]
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
        return round(self.row["traffic_ratio"], 4)
