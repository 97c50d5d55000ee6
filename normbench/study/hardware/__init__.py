"""What has to be right on a GPU before a time of its kernels means anything: what no interpreter on a CPU can see."""
