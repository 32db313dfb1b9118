//! x. Owns: nothing. Does not own: y.
