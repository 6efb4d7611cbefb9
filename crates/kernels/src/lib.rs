//! The numeric operations everything in Directrix is made of.
