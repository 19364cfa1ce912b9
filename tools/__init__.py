"""Programs of the workshop that are neither tests nor benchmarks."""
