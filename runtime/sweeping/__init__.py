"""Many runs at once: members of a sweep, tuners, and pools of processes."""
