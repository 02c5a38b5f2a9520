//! Explain, to come.
