"""The plots of benches/growth, a module for each subject, and what they share."""
