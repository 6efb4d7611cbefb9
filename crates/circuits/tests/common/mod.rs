//! What several tests build on.
#![allow(dead_code, reason = "no test uses all of it")]

pub(crate) mod planted;
