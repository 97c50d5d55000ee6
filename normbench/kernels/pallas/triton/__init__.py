"""Kernels in Pallas Triton, for Ampere and newer: tiles of a tensor, whose masks and widths are known when traced.

| module              | operator, pass                                                                      |
|---------------------|-------------------------------------------------------------------------------------|
| `row_norm`          | layer norm and RMS norm, as functions with gradients                                |
| `rows`              | their kernels, forward and backward; `rows_config`: how rows are cut                |
| `groups`            | group and instance norm, channels first and last, both passes; `groups_config`      |
| `inference`         | batch norm: the cut of the forward kernel, which its variant has; the backward pass |
| `training_resident` | batch norm in training where a channel fits on the chip, both passes                |
| `training_streamed` | the same of any size, two launches for each pass                                    |
| `training_shares`   | how the kernels of batch norm cut x and walk over it                                |

`tiles` are those of a matrix, `channel_tiles` those of a tensor with a channel axis; `partial_sums` adds up what
programs leave.
"""
