"""Parts of benches/mixed_load."""
