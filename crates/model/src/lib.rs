//! The transformer with hook points.
