"""What the hand-written kernels share: launching, declared bytes, pointwise neighbours, configurations, tuning.

| module        | holds                                                                              |
|---------------|------------------------------------------------------------------------------------|
| `cost`        | the bytes that a launch really moves, declared with it                             |
| `pointwise`   | the elementwise work before and after a norm that is done inside its kernel        |
| `config`      | facts and arithmetic of block sizes that the heuristics of all kernels start from  |
| `tuning`      | choices measured on a device, stored as data, and the search that makes them       |
| `rows*`       | layer norm and RMS norm: statistics over contiguous rows                           |
"""
