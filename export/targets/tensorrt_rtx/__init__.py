"""The target ``tensorrt-rtx``: plans that are compiled for GPUs without one."""
