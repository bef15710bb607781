//! stub
mod report;
use crate::error::Result;
use crate::store::Store;
use crate::sync::Arc;
pub use report::{CheckReport, Finding};
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    pub done: u64,
    pub total: u64,
    pub bytes: u64,
}
pub struct Options<'a> {
    pub data: bool,
    pub progress: &'a dyn Fn(Progress),
    pub cancelled: &'a dyn Fn() -> bool,
}
pub fn check(_s: &Arc<Store>, _o: &Options<'_>) -> Result<CheckReport> {
    Ok(CheckReport::default())
}
