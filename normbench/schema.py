"""The tables of a run on disk: column names (with their units) and types, and the words that columns may hold.

`benchmarks` writes these tables and `normbench.report` reads them; this module is all that they share.
A run is a folder `results/runs/<run id>/` with `run.json`, one Parquet file per table, and
`hlo/<first two digits>/<sha256 of the file>.pb.zst`.
"""

SCHEMA_VERSION = 2
"""2: every file has a checksum, modules are named by their content, and rows say how many attempts they took."""

STATUSES = ("ok", "unsupported", "failed", "crashed", "out_of_memory", "timeout", "wrong", "impossible", "killed")
"""ok; not supported by the variant; raised an exception; killed its process; ran out of memory; exceeded its time
limit; result outside the tolerance of the float64 reference; faster than the measured ceiling allows; its process was
killed from outside, each time that it was tried: nothing is known of the case, and `--resume` tries it again."""

DEFAULT_PRESET = "quick"
"""What is studied where nobody says what."""
PASSES = ("forward", "backward", "forward_backward")
CLOCKS = ("wall", "pipelined")
DEVICE_CLOCKS = ("device_kernels", "device_span")
"""From the device's own records: the sum of the kernels of a call, and from its first record to the end of its last."""
CACHES = ("cold", "warm")
STAGES = ("call", "prepare")
"""What was timed: the program itself, or the work done once ahead of it (the fold of a prefolded variant)."""

TARGETS = ("cpu", "gpu", "h200", "h100", "a100", "b200", "v4", "v5e", "v5p", "v6e", "tpu7x")
DEVICELESS_TARGETS = ("h200", "h100", "a100", "b200", "v4", "v5e", "v5p", "v6e", "tpu7x")
TPU_TARGETS = ("v4", "v5e", "v5p", "v6e", "tpu7x")
"""Those of the ones before that are TPUs; each is one device as JAX counts them (see `normbench.fusion.tpu.chips`)."""

# Types are those of Arrow, by name. Every column may be null: what was not measured is absent.
TABLES: dict[str, dict[str, str]] = {
    # A row per case of the run, supported or not.
    "cases": {
        "case": "string",  # the slug, the key of every other table
        "operator": "string",
        "variant": "string",
        "baseline": "bool",
        "pass": "string",
        "context": "string",
        "shape": "string",  # 32x64x56x56, in the order of `layout`
        "layout": "string",
        "dtype": "string",
        "param_dtype": "string",
        "options": "string",  # operator-specific, e.g. k3-s2-o128; empty for none
        "problem": "string",  # the slug without the variant: rows that share it are compared
        "model": "string",  # where the shape comes from
        "elements": "int64",  # of x
    },
    # A row per case and target.
    "compiled": {
        "case": "string",
        "target": "string",
        "launches": "int64",  # rows of the table "launches"
        "executed_launches": "int64",  # with the repetitions of loops; a loop of unknown length counts once
        "bytes": "int64",
        "minimum_bytes": "int64",
        "least_between_barriers_bytes": "int64",  # matrix products, convolutions, collectives and calls kept apart
        "streaming_minimum_bytes": "int64",
        "declared_bytes": "int64",  # `bytes`, with what hand-written kernels declare for theirs; null: none declares
        "traffic_ratio": "float64",
        "xla_bytes": "int64",  # by XLA's own generic cost analysis, with the loops' repetitions; null: it does not know
        "flops": "float64",  # likewise, and of library calls by their shapes; null: a call's are not known
        "peak_bytes": "int64",
        "lower_s": "float64",
        "compile_s": "float64",
        "read_s": "float64",  # reading the HLO, the PTX and the dumps
        "predict_s": "float64",  # predicting the launches
        "bytes_s": "float64",  # bytes over the datasheet's bandwidth; on a GPU 2 us a launch: the simplest prediction
        "predicted_s": "float64",  # from the compiled code, see normbench.predict
        "predicted_low_s": "float64",  # the range that the model's known error leaves
        "predicted_high_s": "float64",
        "hints": "string",  # a JSON list of sentences
        "hlo_sha256": "string",  # of the module in XLA's canonical form: equal for programs that differ by names alone
        "module_sha256": "string",  # of the file in hlo/ that holds the module
        "attempts": "int64",  # processes that were given the case until it had this row; null: not counted yet
        "cached": "bool",  # found in the cache; what it took is then not known; null: not looked for
        "status": "string",
        "reason": "string",
        "host": "string",  # that it was found on; null: before hosts were told apart
    },
    # A row per launch of a compiled case.
    "launches": {
        "case": "string",
        "target": "string",
        "index": "int64",
        "name": "string",  # of the HLO instruction
        "kind": "string",  # loop, reduction, triton, pallas, library, slice, update, copy, prefetch, collective, ...
        "computation": "string",  # that holds it: the entry, or the body of a loop, a branch, what is called
        "repetitions": "int64",  # how often it runs; 1 in a loop of unknown length
        "repetitions_known": "bool",  # false in a loop of unknown length
        "branch": "string",  # "1 of 3 branches": it stands for a conditional, of which one branch runs; null: none
        "ops": "string",  # fused HLO opcodes, comma separated; the name of a Pallas kernel
        "source_ops": "string",  # JAX operations that they come from
        "scope": "string",  # names that the program gave to the part that its main operation lies in, by "/"
        "source": "string",  # file:line of the Python code of its main operation
        "flops": "float64",  # of matrix products and convolutions, for all repetitions; null: not known (a call)
        "read_bytes": "int64",  # of device memory, for all repetitions, as are the columns below
        "write_bytes": "int64",
        "padding_bytes": "int64",  # of those: what fills up tiles of a TPU; null: before TPUs were read
        "workspace_bytes": "int64",  # scratch memory that a library call is given; no traffic
        "wire_bytes": "int64",  # that a collective sends from each device, or a copy moves from or to the host
        "declared_bytes": "int64",  # read and written, as a hand-written kernel says of itself; null: it does not
        "grid": "string",
        "block": "string",
        "shared_bytes": "int64",
        "registers": "int64",
        "spill_bytes": "int64",
        "load_bytes": "int64",  # widest global load
        "store_bytes": "int64",  # widest global store
        "bytes_s": "float64",
        "estimated_cycles": "float64",  # by the compiler's own cost model, of a TPU's launches; null: it gives none
        "predicted_s": "float64",
        "predicted_low_s": "float64",
        "predicted_high_s": "float64",
        "predicted_from": "string",  # "ptx and sass", "ptx", or the rule: operations, bytes, interconnect, cycles
        "bound": "string",  # what bounds it, in words
        "occupancy": "float64",  # share of the device's warps that are resident, 0 to 1
        "waves": "float64",  # the grid over the blocks that the device holds at once
        "bytes_in_flight": "int64",  # of a multiprocessor
        "refusals": "string",  # a JSON list of sentences: what was not fused with it, and why
        "refused": "string",  # the same as data, a JSON list: [[indices of the launches that use its result], reason]
        "inputs": "string",  # a JSON list of its operands: [index of the launch or name of the argument, bytes]
        "results": "string",  # a JSON list: bytes of each result of the program that it writes
        "host": "string",  # that it was found on; null: before hosts were told apart
    },
    # A row per sample; a case that could not be timed has one row without seconds.
    "timings": {
        "case": "string",
        "device": "string",
        "stage": "string",
        "clock": "string",
        "cache": "string",
        "process": "int64",
        "sample": "int64",
        "seconds": "float64",  # per call
        "calls": "int64",  # calls in the sample
        "page_faults": "int64",
        "outlier": "bool",
        "stop": "string",  # the rule that ended the sampling
        "source": "string",  # of a device clock: cupti or trace
        "throttled": "bool",  # the device was held back before or after the group; null: nothing tells it
        "cache_ratio": "float64",  # inputs and outputs of a call over the last-level cache; null: its size is not told
        "attempts": "int64",  # as in "compiled"
        "status": "string",
        "reason": "string",
        "host": "string",  # that it was found on; null: before hosts were told apart
        "device_id": "string",  # which of the host's GPUs, as the driver numbers it; null for a CPU
        "began_unix_s": "float64",  # of the burst that the sample was taken in, by the host's clock
        "ended_unix_s": "float64",  # between them nothing else was timed on the device; null: a clock of its own
    },
    # A row per case and device.
    "accuracy": {
        "case": "string",
        "device": "string",
        "max_abs": "float64",
        "max_rel": "float64",
        "max_ulp": "float64",
        "ulp_dtype": "string",  # whose spacing an ulp is: that of the first output
        "bound": "float64",  # what max_rel may be, by the dtypes, the sums and the data of the case
        "hard_max_abs": "float64",  # the same on hard data: a mean far above the deviation; forward passes alone
        "hard_max_rel": "float64",
        "hard_max_ulp": "float64",
        "hard_bound": "float64",  # what hard_max_rel may be, as the variant declares; null beside one: anything
        "attempts": "int64",  # as in "compiled"
        "status": "string",
        "reason": "string",
        "host": "string",  # that it was found on; null: before hosts were told apart
        "device_id": "string",  # which of the host's GPUs, as the driver numbers it; null for a CPU
    },
    # A row per sample of the streaming programs that give the ceiling of a size class, and of those that tell what a
    # launch costs. A program timed with another clock than wall is named so: "triad, pipelined".
    "ceilings": {
        "device": "string",
        "program": "string",
        "cache": "string",
        "bytes": "int64",  # read and written; null for "launch ...", which move next to none
        "process": "int64",
        "sample": "int64",
        "seconds": "float64",
        "host": "string",  # that it was found on; null: before hosts were told apart
        "device_id": "string",  # which of the host's GPUs, as the driver numbers it; null for a CPU
    },
    # A row per HLO instruction and call: where the time of a case goes, measured apart, warm, one profiled call each.
    "launch_times": {
        "case": "string",
        "device": "string",
        "name": "string",  # of the HLO instruction, as in "launches"
        "sample": "int64",
        "seconds": "float64",
        "kernels": "string",  # that carried it out, in order, comma separated; on a CPU the instruction itself
        "source": "string",  # of the records: cupti or trace
        "attempts": "int64",  # as in "compiled"
        "status": "string",
        "reason": "string",
        "host": "string",  # that it was found on; null: before hosts were told apart
        "device_id": "string",  # which of the host's GPUs, as the driver numbers it; null for a CPU
    },
    # A row per sample of the A/A test: one executable timed under two names, as if it were two variants.
    "aa": {
        "program": "string",  # the slug of its case
        "device": "string",
        "clock": "string",
        "cache": "string",
        "process": "int64",
        "name": "string",  # a or b
        "sample": "int64",
        "seconds": "float64",
        "host": "string",  # that it was found on; null: before hosts were told apart
        "device_id": "string",  # which of the host's GPUs, as the driver numbers it; null for a CPU
    },
    # A row per sentence about how the run was measured: what could not be had, and what was taken instead.
    "notes": {
        "device": "string",
        "process": "int64",
        "case": "string",  # that it is about; null: all of that device
        "text": "string",
        "host": "string",  # that it was found on; null: before hosts were told apart
        "device_id": "string",  # which of the host's GPUs, as the driver numbers it; null for a CPU
    },
    # A row per reading of a GPU's state, before and after each group of series.
    "device_states": {
        "device": "string",
        "problem": "string",
        "process": "int64",
        "moment": "string",  # before or after
        "clock_mhz": "float64",
        "highest_clock_mhz": "float64",
        "power_w": "float64",
        "temperature_c": "float64",
        "reasons": "int64",  # the bits of NVML's clock throttle reasons
        "throttled": "string",  # why the group is suspect; null: it is not
        "source": "string",  # nvml or nvidia-smi
        "host": "string",  # that it was found on; null: before hosts were told apart
        "device_id": "string",  # which of the host's GPUs, as the driver numbers it; null for a CPU
    },
    # A row per case and description of the GPU for which it was compiled without it, after it was measured.
    "described": {
        "case": "string",
        "config": "string",  # "own": the GPU's own description, dumped by XLA; or the name of a packaged target
        "launches": "int64",
        "bytes": "int64",
        "traffic_ratio": "float64",
        "bytes_s": "float64",
        "predicted_s": "float64",
        "kinds": "string",  # launches by kind, a JSON object
        "rewrites": "string",  # launches by the pass whose pattern they matched, a JSON object
        "refused": "string",  # refusals by reason, a JSON object
        "calls": "string",  # launches by the library routine called, a JSON object
        "program": "string",  # digest of what JAX handed to the compiler
        "status": "string",
        "reason": "string",
    },
    # A row per launch of a case compiled for the GPU's own description.
    "described_launches": {
        "case": "string",
        "index": "int64",
        "name": "string",
        "kind": "string",
        "read_bytes": "int64",
        "write_bytes": "int64",
        "bytes_s": "float64",
        "predicted_s": "float64",
    },
    # A row per case that two compilations differ in: as "device" ran it, for its "own" description, or for a target.
    "target_differences": {
        "case": "string",
        "before": "string",
        "after": "string",
        "groups": "string",  # what differs: status, launches, calls, kinds, bytes, refusals; comma separated
        "change": "string",  # in words
    },
}

LATER_TABLES = (
    "launch_times", "aa", "notes", "device_states", "described", "described_launches", "target_differences",
)  # fmt: skip
"""Tables that a complete run of this schema version may lack: it was written before they came."""
