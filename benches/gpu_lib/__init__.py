"""The parts of benches/gpu."""
