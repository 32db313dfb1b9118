//! Tests of the script as a whole.
