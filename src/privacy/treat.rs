//! x
use super::ClearedValue;
use crate::registry::Reduction;
pub(super) struct Unreadable;
pub(super) fn reduce<'a>(_: Reduction, _: ClearedValue<'a>, _: &mut String) -> Result<ClearedValue<'a>, Unreadable> { Err(Unreadable) }
