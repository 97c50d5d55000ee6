"""Kernels in Pallas Mosaic GPU, for Hopper and newer: bulk copies, barriers, a warpgroup to a program.

Three schedules, of any size, over one abstraction of what a program has in shared memory, `windows`:

| module       | a program has                                   | operator, layout                                   |
|--------------|-------------------------------------------------|----------------------------------------------------|
| `rows`       | a ring of blocks of rows: the schedule alone    |                                                    |
| `row_norm`   | rows, with their statistics                     | layer norm, RMS norm                               |
| `rows_given` | positions, with all their channels              | batch norm, channels last                          |
| `columns`    | some channels of all positions of an image      | group, instance norm, batch norm in training: last |
| `slabs`      | a group; a channel of all images; some channels | the same three, and batch norm: channels first     |

Each has `forward` and `backward`, and a function that shares a tensor out among programs or tells why it does not. What
is whole windows, and moves in whole bulk copies, takes no masks and no loops over copies: that is decided when a kernel
is traced, by its sizes. `plan` has what is computed and which dtypes are taken, `sums` means, variances and partial
sums, `activations` activations and their derivatives.
"""
