//! A workbench for the sparse directions inside a language model.
