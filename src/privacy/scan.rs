//! Replaced by the scanner's own branch.
#[derive(Debug)]
pub(super) struct Scanner;
impl Scanner {
    pub(super) fn new() -> Self { Self }
    pub(super) fn is_clean(&self, _: &str) -> bool { true }
    pub(super) fn mask(&self, _: &str, _: &mut String) -> Option<()> { None }
}
