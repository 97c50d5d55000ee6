"""The hand-written kernels, by the language that they are written in: `triton`, `mosaic`, `tpu`; and what they share.

| module        | holds                                                                                          |
|---------------|------------------------------------------------------------------------------------------------|
| `hardware`    | facts and arithmetic of block sizes that the heuristics of all kernels start from              |
| `cost`        | the bytes that a launch really moves, declared with it                                         |
| `left_to_xla` | why a problem that a kernel could compute is left to XLA: bytes moved, times predicted         |
| `tuning`      | choices measured on a device, stored as data                                                   |
"""
